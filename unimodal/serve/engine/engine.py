"""From many small requests to few large forward passes, beside the event loop of a server.

    embed() -> texts are tokenized immediately (long ones in a thread), images wait to be decoded
            in a pool -> one thread per copy of the model takes whatever is ready, up to a budget,
            as soon as its model is free -> a request is answered when its last input is

No batch waits to be filled: batches form because requests arrive while the model works. Decoding
keeps just ahead of the models, so that memory is bounded by the queue (inputs as received) and a
few batches of pixels.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ...embedder import Embedder, load
from ...model_config import PreprocessConfig
from ...preprocess.images import image_to_pixels
from ...vectors import fuse
from ..config import ServeConfig
from .admission import EngineInput, Queue, make_jobs
from .batching import Batcher
from .errors import DrainingError, ModelError, ReplacedError
from .images import open_checked
from .jobs import Embedded, EncodeJob, Failed, Outcome, PendingRequest
from .lifecycle import Lifecycle
from .stats import Stats
from .worker import MODEL_FAULT, Worker, image_tokens

# Characters, about a millisecond of the event loop's time; more are tokenized in a thread.
TOKENIZE_DIRECTLY = 4_000
TOKENIZER_THREADS = 2
POLL_SECONDS = 0.05  # between looks at a model that warms up
PROBES_PER_READY = 3  # probes of an idle model within `ready_seconds`

NO_TOKEN = Failed(
    "the text has no token that the model reads, for example only blanks; send words.",
    400,
)


@dataclass(frozen=True)
class RunningModel:
    """A model, the queue in front of it, and one worker per copy of it."""

    embedder: Embedder
    batcher: Batcher
    workers: Sequence[Worker]
    image_tokens: int

    def start(self) -> None:
        """Start the workers' threads."""
        for model in self.embedder.models:
            model.eval()
        for worker in self.workers:
            worker.thread.start()

    @property
    def items_per_second(self) -> float:
        """The speed of all workers."""
        return sum(worker.items_per_second for worker in self.workers)


class Engine:
    """An embedder behind a bounded queue."""

    def __init__(self, embedder: Embedder, config: ServeConfig) -> None:
        self.config = config
        self.stats = Stats()
        self.lifecycle = Lifecycle()
        self.queue = Queue(config, self.stats)
        self._requests: set[PendingRequest] = set()
        self._is_draining = False
        self._decoders = ThreadPoolExecutor(
            config.decoders, thread_name_prefix="decode"
        )
        self._tokenizers = ThreadPoolExecutor(
            TOKENIZER_THREADS, thread_name_prefix="tokenize"
        )
        self.model = self._prepare(embedder)

    @property
    def embedder(self) -> Embedder:
        """The embedder that is served."""
        return self.model.embedder

    def _prepare(self, embedder: Embedder) -> RunningModel:
        """A model with its queue and workers, which are not started yet."""
        config = self.config
        num_copies = len(embedder.models)
        image_budget = embedder.images_per_batch
        if config.batch_pixels:
            area = embedder.config.preprocess.image_size**2
            image_budget = max(1, config.batch_pixels // area)
        budgets = {
            "text": config.batch_tokens or embedder.tokens_per_batch,
            "image": image_budget,
        }

        def fail(job: EncodeJob, failed: Failed) -> None:
            self._answer([(job, failed)])

        batcher = Batcher(
            partial(self._decode, embedder.config.preprocess),
            fail,
            self._decoders,
            ahead=max(2 * image_budget, config.decoders) * num_copies,
        )
        probe_seconds = config.ready_seconds / PROBES_PER_READY
        workers = [
            Worker(
                embedder,
                copy,
                batcher,
                budgets,
                self.stats,
                self._answer,
                probe_seconds,
            )
            for copy in range(num_copies)
        ]
        return RunningModel(embedder, batcher, workers, image_tokens(embedder))

    def start(self) -> None:
        """Start the threads.

        `ready()` is true once every copy of the model has made its first forward passes.
        """
        self.model.start()

    async def replace(self, embedder: Embedder) -> bool:
        """Serve another model after its first forward passes -> whether it is served now.

        Requests that were admitted before are answered by the model they were admitted for.
        """
        model = self._prepare(embedder)
        model.start()
        while not all(worker.last_good for worker in model.workers):
            has_failed = any(worker.failed_in_a_row for worker in model.workers)
            if self._is_draining or has_failed:
                model.batcher.close()
                return False
            await asyncio.sleep(POLL_SECONDS)
        replaced = self.model
        admitted = [request.answered for request in self._requests]
        self.model = model
        if admitted:
            await asyncio.wait(admitted)
        replaced.batcher.close()
        return True

    async def embed(
        self,
        inputs: Sequence[EngineInput],
        *,
        prompt: str = "",
        embedder: Embedder | None = None,
    ) -> list[Outcome]:
        """The vector of each input, or why it has none, in order.

        When the call is cancelled, its inputs never reach the model.

        inputs: at most `max_items` texts, images (bytes or PIL images, never paths) and
            {"text", "image", "weight"}, or tuples of their parts.
        prompt: put before every text.
        embedder: the model that they are meant for; None: whichever is served.

        Raises OverloadedError when they do not all fit into the queue, DrainingError after `drain`,
        ReplacedError if another model is served by now, and ModelError when the model failed on
        every input.
        """
        model = self.model
        if embedder not in (None, model.embedder):
            raise ReplacedError("the model was replaced.")
        if self._is_draining:
            raise DrainingError("the server is shutting down.")
        if len(inputs) > self.config.max_items:
            raise ValueError(
                f"{len(inputs)} items are more than max_items {self.config.max_items}; "
                "send several requests."
            )
        self.check_room(len(inputs))  # before any work is done for them
        loop = asyncio.get_running_loop()
        request = PendingRequest(loop, loop.create_future(), [None] * len(inputs))
        jobs = make_jobs(
            inputs,
            prompt,
            request,
            modalities=model.embedder.modalities,
            image_tokens=model.image_tokens,
            config=self.config,
            stats=self.stats,
        )
        if jobs:
            self.check_room(len(inputs), request.num_bytes)
            await self._run_jobs(jobs, request, model)
        return _outcomes_of(request)

    async def _run_jobs(
        self, jobs: list[EncodeJob], request: PendingRequest, model: RunningModel
    ) -> None:
        """Admit the jobs of a request, and wait until all of them have an outcome."""
        self.queue.add(request)
        self._requests.add(request)
        try:
            texts = [job for job in jobs if job.kind == "text"]
            await self._tokenize(texts, model.embedder)
            model.batcher.add(
                [job for job in jobs if job.kind == "image" or job.content]
            )
            await request.answered
        except asyncio.CancelledError:
            self.stats.cancelled += 1
            request.answered.cancel()
            model.batcher.remove(request)
            raise
        finally:
            self.queue.remove(request)
            self._requests.discard(request)

    async def drain(self) -> None:
        """Accept nothing new, answer everything that was admitted, then stop."""
        self._is_draining = True
        while self._requests:
            await asyncio.wait([request.answered for request in self._requests])
            await asyncio.sleep(0)  # lets answered requests leave the set
        self.close()

    def close(self) -> None:
        """Stop now; requests that still wait get DrainingError."""
        self._is_draining = True
        self.model.batcher.close()
        for request in self._requests:
            request.is_cancelled = True
            if not request.answered.done():
                error = DrainingError("the server is shutting down.")
                request.answered.set_exception(error)
        for pool in (self._decoders, self._tokenizers):
            pool.shutdown(wait=False, cancel_futures=True)
        for worker in self.model.workers:
            if worker.thread.is_alive():
                # a thread in a forward pass ends with the process
                worker.thread.join(timeout=1.0)

    def ready(self) -> tuple[bool, str]:
        """Whether to send requests here, and if not, why."""
        if self.lifecycle.draining or self._is_draining:
            return False, "the server is shutting down"
        if self.stuck():
            return False, "the model is stuck"
        workers = self.model.workers
        num_failed = max(worker.failed_in_a_row for worker in workers)
        if num_failed >= self.config.failures:
            return False, f"the model failed {num_failed} times in a row"
        successes = [worker.last_good for worker in workers]
        if None in successes:
            return False, "warming up"
        oldest = min(moment for moment in successes if moment is not None)
        age = time.monotonic() - oldest
        if age > self.config.ready_seconds:
            return False, f"the last successful forward pass was {age:.0f} s ago"
        if self.lifecycle.store_fault:
            return False, self.lifecycle.store_fault
        return True, "ready"

    def stuck(self) -> bool:
        """Whether only a new process can help.

        A forward pass does not end, a thread died, or the model has failed on everything, also on
        probes, for `stuck_seconds`.
        """
        return any(self._is_stuck(worker) for worker in self.model.workers)

    def _is_stuck(self, worker: Worker) -> bool:
        oldest = time.monotonic() - self.config.stuck_seconds
        busy_since = worker.busy_since or oldest
        failing_since = worker.failing_since or oldest
        if min(busy_since, failing_since) < oldest:
            return True
        was_started = worker.thread.ident is not None
        return was_started and not worker.thread.is_alive() and not self._is_draining

    def check_room(self, num_items: int, num_bytes: int = 0) -> None:
        """Raise OverloadedError unless this many more items and bytes fit into the queue."""
        self.queue.check_room(num_items, num_bytes, self.model.items_per_second)

    async def _tokenize(self, jobs: list[EncodeJob], embedder: Embedder) -> None:
        if not jobs:
            return
        tokenizer = embedder.tokenizer
        assert tokenizer is not None
        texts = [job.content for job in jobs]
        if sum(map(len, texts)) <= TOKENIZE_DIRECTLY:
            token_ids = tokenizer(texts)
        else:
            loop = asyncio.get_running_loop()
            token_ids = await loop.run_in_executor(self._tokenizers, tokenizer, texts)
        for job, ids in zip(jobs, token_ids, strict=True):
            job.content = ids
            job.tokens = len(ids)
            job.cost = embedder.padded_length(ids)
        _receive([(job, NO_TOKEN) for job in jobs if not job.content])

    def _decode(self, preprocess: PreprocessConfig, image: Any) -> Tensor:
        return image_to_pixels(open_checked(image, self.config), preprocess)

    def _answer(self, outcomes: list[tuple[EncodeJob, Outcome]]) -> None:
        """Pass outcomes to the event loops of their requests; called on any thread."""
        for loop in {job.request.loop for job, _ in outcomes}:
            of_loop = [pair for pair in outcomes if pair[0].request.loop is loop]
            with suppress(RuntimeError):  # a closed loop: nobody waits there any more
                loop.call_soon_threadsafe(_receive, of_loop)


def load_embedder(config: ServeConfig) -> Embedder:
    """Load the model of a configuration; raises ValueError if it cannot be loaded."""
    device = list(config.device) if isinstance(config.device, tuple) else config.device
    return load(
        config.model, device=device, dtype=config.dtype, calibrated=config.calibrated
    )


def _receive(outcomes: list[tuple[EncodeJob, Outcome]]) -> None:
    """Store the outcomes of jobs, and answer the requests that are complete."""
    for job, outcome in outcomes:
        request = job.request
        other = request.outcomes[job.index]
        request.outcomes[job.index] = _merge(other, job, outcome)
        request.jobs_left -= 1
        if not request.jobs_left and not request.answered.done():
            request.answered.set_result(None)


def _merge(other: Outcome | None, job: EncodeJob, outcome: Outcome) -> Outcome:
    """The outcome of a job's input.

    other: that of its other part, if the input has two and the other came first.
    """
    if other is None or isinstance(other, Failed):
        return other or outcome
    if isinstance(outcome, Failed):
        return outcome
    is_image = job.kind == "image"
    text = other.vector if is_image else outcome.vector
    image = outcome.vector if is_image else other.vector
    fused = fuse(text[None], image[None], job.weight)[0]
    return Embedded(fused, other.tokens + outcome.tokens)


def _outcomes_of(request: PendingRequest) -> list[Outcome]:
    outcomes = [outcome for outcome in request.outcomes if outcome is not None]
    assert len(outcomes) == len(request.outcomes)
    if outcomes and all(outcome is MODEL_FAULT for outcome in outcomes):
        raise ModelError("the model failed on every input of the request.")
    return outcomes
