"""From many small requests to few large forward passes, beside the event loop of a server.

    embed() -> texts are tokenised at once (long ones in a thread), images wait to be decoded in a
            pool -> a thread for each copy of the model takes whatever is ready, up to a budget, as
            soon as it is free -> a request is answered when the last of its items is

Nothing waits for company: batches come about because requests arrive while the model works.
Decoding keeps just ahead of the models, so that memory is bounded by the queue (inputs as they
came) and a few batches of pixels.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ...embedder import Embedder, Item, load
from ...inputs import Part, parts_of
from ...model_config import PreprocessConfig
from ...preprocess.images import image_to_pixels
from ...vectors import normalize
from ..config import ServeConfig
from .batching import Batcher, Job, Outcome, Request
from .batching import Embedded as Embedded
from .batching import Failed as Failed
from .images import TooLargeError, check_size, open_checked
from .stats import Stats
from .worker import MODEL_FAULT, Worker, image_tokens

# characters, about a millisecond of the event loop's time; more go to a thread
TOKENISED_AT_ONCE = 4_000

TOKENISERS = 2  # threads for those

NO_TOKEN = Failed(
    "the text has no token that the model reads, such as blanks alone; give words.", 400
)


class OverloadedError(Exception):
    """The queue is full. retry_after: seconds until what waits now will have been answered."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(
            f"too many requests are waiting; try again in {retry_after:.0f} s."
        )
        self.retry_after = retry_after


class DrainingError(Exception):
    """The engine is stopping and takes nothing new."""


class ModelError(Exception):
    """The model failed on everything that a request brought."""


class ReplacedError(Exception):
    """Another model is served than the one that a request was made for."""


class Lifecycle:
    """Whether the server goes down, and what that cost; and why its store cannot be searched, if it
    cannot.
    """

    draining = False  # not ready any more, though what comes is still taken
    cut_off = 0  # requests that were given up in the end
    store_fault = ""  # without the path of anything


class Engine:
    """An embedder behind a bounded queue.

    queued_items, queued_bytes: admitted and not yet answered.
    """

    def __init__(self, embedder: Embedder, config: ServeConfig) -> None:
        self.config = config
        self.stats = Stats()
        self.lifecycle = Lifecycle()
        self.queued_items = self.queued_bytes = 0
        self._requests: set[Request] = set()
        self._is_draining = False
        self._pool = ThreadPoolExecutor(config.decoders, thread_name_prefix="decode")
        self._tokenisers = ThreadPoolExecutor(TOKENISERS, thread_name_prefix="tokenise")
        self._install(embedder, *self._prepare(embedder))

    def _prepare(self, embedder: Embedder) -> tuple[Batcher, list[Worker]]:
        """A queue in front of a model, and the threads that will feed it."""
        config = self.config
        copies = range(len(embedder.models))
        area = embedder.config.preprocess.image_size**2
        pictures = (
            max(1, config.batch_pixels // area)
            if config.batch_pixels
            else embedder.images_per_batch
        )
        budgets = {
            "text": config.batch_tokens or embedder.tokens_per_batch,
            "image": pictures,
        }
        ahead = max(2 * pictures, config.decoders) * len(copies)

        def fail(job: Job, failed: Failed) -> None:
            self._answer([(job, failed)])

        batcher = Batcher(
            partial(self._decode, embedder.config.preprocess), fail, self._pool, ahead
        )
        seconds = config.ready_seconds / 3
        workers = [
            Worker(embedder, copy, batcher, budgets, self.stats, self._answer, seconds)
            for copy in copies
        ]
        return batcher, workers

    def _install(
        self, embedder: Embedder, batcher: Batcher, workers: list[Worker]
    ) -> None:
        """Let what is asked from now on go to this model."""
        self.embedder = embedder
        self._batcher = batcher
        self._workers = workers
        self._modalities = embedder.modalities
        self._image_tokens = image_tokens(embedder)

    def start(self) -> None:
        """Start the threads; `ready()` is true once every copy of the model has made its first
        forward passes.
        """
        _start(self.embedder, self._workers)

    async def replace(self, embedder: Embedder) -> bool:
        """Serve another model, once it has made its first forward passes -> whether it is served
        now.

        What was admitted before is answered by the model that it was admitted for.
        """
        batcher, workers = self._prepare(embedder)
        _start(embedder, workers)
        while not all(worker.last_good for worker in workers):
            if self._is_draining or any(worker.failed_in_a_row for worker in workers):
                batcher.close()
                return False
            await asyncio.sleep(0.05)
        before = self._batcher
        admitted = [request.answered for request in self._requests]
        self._install(embedder, batcher, workers)
        if admitted:
            await asyncio.wait(admitted)
        before.close()
        return True

    async def embed(
        self,
        items: Sequence[Item],
        *,
        prompt: str = "",
        embedder: Embedder | None = None,
    ) -> list[Outcome]:
        """The vector of each item, or why it has none, in order. Cancelled, its items never reach
        the model.

        items: texts, images (bytes or PIL images, never paths) and {"text", "image", "weight"};
            at most `max_items`.
        prompt: put before every text.
        embedder: the model that they are meant for; None: whichever is served.

        Raises OverloadedError when they do not all fit into the queue, DrainingError after `drain`,
        ReplacedError if another model is served by now, and ModelError when the model failed on
        every one of them.
        """
        if embedder not in (None, self.embedder):
            raise ReplacedError("the model was replaced.")
        embedder = self.embedder
        batcher = self._batcher
        if self._is_draining:
            raise DrainingError("the server is shutting down.")
        if len(items) > self.config.max_items:
            raise ValueError(
                f"{len(items)} items are more than max_items {self.config.max_items}; ask in parts."
            )
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
            await self._tokenise(
                [job for job in jobs if job.kind == "text"], embedder, loop
            )
            batcher.add([job for job in jobs if job.kind == "image" or job.content])
            await request.answered
            return _answer_of(request)
        except asyncio.CancelledError:
            self.stats.cancelled += 1
            request.answered.cancel()
            batcher.remove(request)
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
                request.answered.set_exception(
                    DrainingError("the server is shutting down.")
                )
        for pool in (self._pool, self._tokenisers):
            pool.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            if worker.thread.is_alive():
                worker.thread.join(
                    timeout=1.0
                )  # one that is in a forward pass ends with the process

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
        if self.lifecycle.store_fault:
            return False, self.lifecycle.store_fault
        return True, "ready"

    def stuck(self) -> bool:
        """Whether only a new process can help: a forward pass that does not end, a thread that
        died, or a model that for `stuck_seconds` has failed on everything, probes too."""
        oldest = time.monotonic() - self.config.stuck_seconds
        return any(
            (worker.busy_since or oldest) < oldest
            or (worker.failing_since or oldest) < oldest
            or (
                worker.thread.ident is not None
                and not worker.thread.is_alive()
                and not self._is_draining
            )
            for worker in self._workers
        )

    def check_room(self, num_items: int, num_bytes: int = 0) -> None:
        """Raises OverloadedError unless so much more fits into the queue."""
        has_room = self.queued_items + num_items <= self.config.queue_items
        if not has_room or self.queued_bytes + num_bytes > self.config.queue_bytes:
            self.stats.rejected += 1
            rate = sum(worker.items_per_second for worker in self._workers)
            raise OverloadedError(
                min(60.0, max(1.0, self.queued_items / rate)) if rate else 1.0
            )

    def _examine(
        self, items: Sequence[Item], prompt: str, request: Request
    ) -> list[Job]:
        """The jobs of a request; what cannot be embedded has its outcome at once."""
        jobs: list[Job] = []
        now = time.monotonic()
        for row, item in enumerate(items):
            try:
                parts = parts_of(item, self._modalities, allow_blank=True)
                num_bytes = sum(self._num_bytes(part) for part in parts)
                if request.num_bytes + num_bytes > self.config.queue_bytes:
                    raise TooLargeError(
                        f"the request is larger than {self.config.queue_bytes} bytes; ask in parts."
                    )
                request.num_bytes += num_bytes
            except ValueError as error:
                request.outcomes[row] = Failed.of(error)
                self.stats.refused += 1
                continue
            for kind, content, share in parts:
                content = prompt + content if kind == "text" else content
                jobs.append(
                    Job(
                        request,
                        row,
                        kind,
                        content,
                        share,
                        now,
                        tokens=self._image_tokens,
                    )
                )
        request.jobs_left = len(jobs)
        return jobs

    def _num_bytes(self, part: Part) -> int:
        """What a part takes in the queue; raises ValueError for one that is not to be let in."""
        content = part.content
        if isinstance(content, str):
            if len(content) > self.config.max_text_chars:
                raise TooLargeError(
                    f"the text is longer than {self.config.max_text_chars} characters; shorten it."
                )
            return len(content.encode())
        if isinstance(content, Path):
            raise ValueError("a server opens no files by name; send the image's bytes.")
        if isinstance(content, Image.Image):
            return 3 * content.width * content.height
        check_size(len(content), self.config)
        return len(content)

    async def _tokenise(
        self, jobs: list[Job], embedder: Embedder, loop: asyncio.AbstractEventLoop
    ) -> None:
        if not jobs:
            return
        assert embedder.tokenizer is not None
        texts = [job.content for job in jobs]
        if sum(map(len, texts)) <= TOKENISED_AT_ONCE:
            token_ids = embedder.tokenizer(texts)
        else:
            token_ids = await loop.run_in_executor(
                self._tokenisers, embedder.tokenizer, texts
            )
        for job, ids in zip(jobs, token_ids, strict=True):
            job.content = ids
            job.tokens = len(ids)
            job.cost = embedder.padded_length(ids)
        _receive([(job, NO_TOKEN) for job in jobs if not job.content])

    def _decode(self, preprocess: PreprocessConfig, image: Any) -> Tensor:
        return image_to_pixels(open_checked(image, self.config), preprocess)

    def _answer(self, outcomes: list[tuple[Job, Outcome]]) -> None:
        """Hand outcomes over to the event loop of who asked; called on any thread."""
        for loop in {job.request.loop for job, _ in outcomes}:
            with suppress(
                RuntimeError
            ):  # a loop that was closed: nobody waits there any more
                loop.call_soon_threadsafe(
                    _receive,
                    [pair for pair in outcomes if pair[0].request.loop is loop],
                )


def load_embedder(config: ServeConfig) -> Embedder:
    """The model that a server is configured with; raises ValueError if it cannot be loaded."""
    device = list(config.device) if isinstance(config.device, tuple) else config.device
    return load(
        config.model, device=device, dtype=config.dtype, calibrated=config.calibrated
    )


def _start(embedder: Embedder, workers: Sequence[Worker]) -> None:
    for model in embedder.models:
        model.eval()
    for worker in workers:
        worker.thread.start()


def _receive(outcomes: list[tuple[Job, Outcome]]) -> None:
    for job, outcome in outcomes:
        request = job.request
        other = request.outcomes[job.row]
        if isinstance(other, Embedded) and isinstance(
            outcome, Embedded
        ):  # the text and the image of one item
            outcome = Embedded(
                normalize((other.vector + outcome.vector)[None])[0],
                other.tokens + outcome.tokens,
            )
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
