"""From many small requests to few large forward passes, beside the event loop of a server.

    embed() -> texts are tokenised at once (long ones in a thread), pictures wait to be decoded in a pool
            -> a thread for each copy of the model takes whatever is ready, up to a budget, as soon as it is free
            -> a request is answered when the last of its items is

Nothing waits for company: batches come about because requests arrive while the model works. Decoding keeps just ahead
of the models, so that memory is bounded by the queue (inputs as they came) and a few batches of pixels.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..embedder import Embedder, Item
from ..inputs import Part, parts_of
from ..preprocess import image_to_pixels
from ..vectors import unit
from .batcher import Batcher, Job, Outcome, Request
from .batcher import Embedded as Embedded
from .batcher import Failed as Failed
from .config import ServeConfig
from .images import TooLargeError, check_size, open_checked
from .stats import Stats
from .worker import MODEL_FAULT, Worker, picture_tokens

TOKENISED_AT_ONCE = 4_000  # characters, about a millisecond of the event loop's time; more go to a thread

TOKENISERS = 2  # threads for those

NO_TOKEN = Failed("the text has no token that the model reads, such as blanks alone; give words.", 400)


class OverloadedError(Exception):
    """The queue is full. retry_after: seconds until what waits now will have been answered."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"too many requests are waiting; try again in {retry_after:.0f} s.")
        self.retry_after = retry_after


class DrainingError(Exception):
    """The engine is stopping and takes nothing new."""


class ModelError(Exception):
    """The model failed on everything that a request brought."""


class Lifecycle:
    """Whether the server goes down, and what that cost."""

    draining = False  # not ready any more, though what comes is still taken
    cut_off = 0  # requests that were given up in the end


class Engine:
    """An embedder behind a bounded queue.

    queued_items, queued_bytes: admitted and not yet answered.
    """

    def __init__(self, embedder: Embedder, config: ServeConfig) -> None:
        self.embedder, self.config = embedder, config
        self.stats, self.lifecycle = Stats(), Lifecycle()
        self.queued_items = self.queued_bytes = 0
        self._requests: set[Request] = set()
        self._is_draining = False
        self._modalities, self._picture_tokens = embedder.modalities, picture_tokens(embedder)
        area = embedder.config.preprocess.image_size**2
        pictures = max(1, config.batch_pixels // area) if config.batch_pixels else embedder.images_per_batch
        budgets = {"text": config.batch_tokens or embedder.tokens_per_batch, "image": pictures}
        copies = range(len(embedder.models))
        self._pool = ThreadPoolExecutor(config.decoders, thread_name_prefix="decode")
        self._tokenisers = ThreadPoolExecutor(TOKENISERS, thread_name_prefix="tokenise")
        ahead = max(2 * pictures, config.decoders) * len(copies)
        self._batcher = Batcher(self._decode, lambda job, failed: self._answer([(job, failed)]), self._pool, ahead)
        self._workers = [
            Worker(embedder, copy, self._batcher, budgets, self.stats, self._answer, config.ready_seconds / 3)
            for copy in copies
        ]

    def start(self) -> None:
        """Start the threads; `ready()` is true once every copy of the model has made its first forward passes."""
        for model in self.embedder.models:
            model.eval()
        for worker in self._workers:
            worker.thread.start()

    async def embed(self, items: Sequence[Item], *, prompt: str = "") -> list[Outcome]:
        """The vector of each item, or why it has none, in order. Cancelled, its items never reach the model.

        items: texts, pictures (bytes or PIL images, never paths) and {"text", "image", "weight"}; at most `max_items`.
        prompt: put before every text.

        Raises OverloadedError when they do not all fit into the queue, DrainingError after `drain`, and ModelError when
        the model failed on every one of them.
        """
        if self._is_draining:
            raise DrainingError("the server is shutting down.")
        if len(items) > self.config.max_items:
            raise ValueError(f"{len(items)} items are more than max_items {self.config.max_items}; ask in parts.")
        self.check_room(len(items))  # before any work is put into them
        loop = asyncio.get_running_loop()
        request = Request(loop, loop.create_future(), [None] * len(items))
        jobs = self._examine(items, prompt, request)
        if not jobs:
            return _answer_of(request)
        self.check_room(len(items), request.num_bytes)
        self.stats.requests += 1
        self.queued_items += len(items)
        self.queued_bytes += request.num_bytes
        self._requests.add(request)
        try:
            await self._tokenise([job for job in jobs if job.kind == "text"], loop)
            self._batcher.add([job for job in jobs if job.kind == "image" or job.content])
            await request.answered
            return _answer_of(request)
        except asyncio.CancelledError:
            self.stats.cancelled += 1
            request.answered.cancel()
            self._batcher.remove(request)
            raise
        finally:
            self.queued_items -= len(items)
            self.queued_bytes -= request.num_bytes
            self._requests.discard(request)

    async def drain(self) -> None:
        """Take nothing new, answer all that was admitted, stop."""
        self._is_draining = True
        while self._requests:
            await asyncio.wait([request.answered for request in self._requests])
            await asyncio.sleep(0)  # those that were answered leave
        self.close()

    def close(self) -> None:
        """Stop now; whoever still waits gets DrainingError."""
        self._is_draining = True
        self._batcher.close()
        for request in self._requests:
            request.is_cancelled = True
            if not request.answered.done():
                request.answered.set_exception(DrainingError("the server is shutting down."))
        for pool in (self._pool, self._tokenisers):
            pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            if worker.thread.is_alive():
                worker.thread.join(timeout=1.0)  # one that is in a forward pass ends with the process

    def ready(self) -> tuple[bool, str]:
        """Whether to send requests here, and if not, why."""
        if self.lifecycle.draining or self._is_draining:
            return False, "the server is shutting down"
        if self.stuck():
            return False, "the model is stuck"
        failed = max(worker.failed_in_a_row for worker in self._workers)
        if failed >= self.config.failures:
            return False, f"the model failed {failed} times in a row"
        good = [worker.last_good for worker in self._workers]
        if None in good:
            return False, "warming up"
        age = time.monotonic() - min(moment for moment in good if moment is not None)
        if age > self.config.ready_seconds:
            return False, f"the last forward pass that went well was {age:.0f} s ago"
        return True, "ready"

    def stuck(self) -> bool:
        """Whether only a new process can help: a forward pass that does not end, a thread that died, or a model that
        for `stuck_seconds` has failed on everything, probes too."""
        oldest = time.monotonic() - self.config.stuck_seconds
        return any(
            (worker.busy_since or oldest) < oldest
            or (worker.failing_since or oldest) < oldest
            or (worker.thread.ident is not None and not worker.thread.is_alive() and not self._is_draining)
            for worker in self._workers
        )

    def check_room(self, num_items: int, num_bytes: int = 0) -> None:
        """Raises OverloadedError unless so much more fits into the queue."""
        has_room = self.queued_items + num_items <= self.config.queue_items
        if not has_room or self.queued_bytes + num_bytes > self.config.queue_bytes:
            self.stats.rejected += 1
            rate = sum(worker.items_per_second for worker in self._workers)
            raise OverloadedError(min(60.0, max(1.0, self.queued_items / rate)) if rate else 1.0)

    def _examine(self, items: Sequence[Item], prompt: str, request: Request) -> list[Job]:
        """The jobs of a request; what cannot be embedded has its outcome at once."""
        jobs: list[Job] = []
        now = time.monotonic()
        for row, item in enumerate(items):
            try:
                parts = parts_of(item, self._modalities, allow_blank=True)
                num_bytes = sum(self._num_bytes(part) for part in parts)
                if request.num_bytes + num_bytes > self.config.queue_bytes:
                    raise TooLargeError(f"the request is larger than {self.config.queue_bytes} bytes; ask in parts.")
                request.num_bytes += num_bytes
            except ValueError as error:
                request.outcomes[row] = Failed.of(error)
                self.stats.refused += 1
                continue
            for kind, content, share in parts:
                content = prompt + content if kind == "text" else content
                jobs.append(Job(request, row, kind, content, share, now, tokens=self._picture_tokens))
        request.jobs_left = len(jobs)
        return jobs

    def _num_bytes(self, part: Part) -> int:
        """What a part takes in the queue; raises ValueError for one that is not to be let in."""
        content = part.content
        if isinstance(content, str):
            if len(content) > self.config.max_text_chars:
                raise TooLargeError(f"the text is longer than {self.config.max_text_chars} characters; shorten it.")
            return len(content.encode())
        if isinstance(content, Path):
            raise ValueError("a server opens no files by name; send the picture's bytes.")
        if isinstance(content, Image.Image):
            return 3 * content.width * content.height
        check_size(len(content), self.config)
        return len(content)

    async def _tokenise(self, jobs: list[Job], loop: asyncio.AbstractEventLoop) -> None:
        if not jobs:
            return
        assert self.embedder.tokenizer is not None
        texts = [job.content for job in jobs]
        if sum(map(len, texts)) <= TOKENISED_AT_ONCE:
            token_ids = self.embedder.tokenizer(texts)
        else:
            token_ids = await loop.run_in_executor(self._tokenisers, self.embedder.tokenizer, texts)
        for job, ids in zip(jobs, token_ids, strict=True):
            job.content, job.tokens, job.cost = ids, len(ids), self.embedder.padded_length(ids)
        _receive([(job, NO_TOKEN) for job in jobs if not job.content])

    def _decode(self, picture: Any) -> Tensor:
        return image_to_pixels(open_checked(picture, self.config), self.embedder.config.preprocess)

    def _answer(self, outcomes: list[tuple[Job, Outcome]]) -> None:
        """Hand outcomes over to the event loop of who asked; called on any thread."""
        for loop in {job.request.loop for job, _ in outcomes}:
            with suppress(RuntimeError):  # a loop that was closed: nobody waits there any more
                loop.call_soon_threadsafe(_receive, [pair for pair in outcomes if pair[0].request.loop is loop])


def _receive(outcomes: list[tuple[Job, Outcome]]) -> None:
    for job, outcome in outcomes:
        request = job.request
        other = request.outcomes[job.row]
        if isinstance(other, Embedded) and isinstance(outcome, Embedded):  # the text and the picture of one item
            outcome = Embedded(unit((other.vector + outcome.vector)[None])[0], other.tokens + outcome.tokens)
        request.outcomes[job.row] = other if isinstance(other, Failed) else outcome
        request.jobs_left -= 1
        if not request.jobs_left and not request.answered.done():
            request.answered.set_result(None)


def _answer_of(request: Request) -> list[Outcome]:
    outcomes = [outcome for outcome in request.outcomes if outcome is not None]
    assert len(outcomes) == len(request.outcomes)
    if outcomes and all(outcome is MODEL_FAULT for outcome in outcomes):
        raise ModelError("the model failed on every input of the request.")
    return outcomes
