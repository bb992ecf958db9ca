"""One copy of a model and the thread that feeds it: forward passes, what to do when one fails, and
how it fares.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from ...embedder import Embedder, Prepared
from ...model import length_sorted_chunks
from ...vectors import Vectors, normalize
from .batching import Batcher, Embedded, Failed, Job, Outcome, Vector
from .stats import Stats

log = logging.getLogger(__name__)

MODEL_FAULT = Failed(
    "the model failed on this input; try again later, or another input.", 500
)
# batches that fitted, before a budget that was halved for want of memory is doubled again
GROW_AFTER = 100
RETRY_SECONDS = 1.0  # between probes of a model that fails


class Worker:
    """Takes batches as soon as its model is free; a batch that fails is tried again in smaller
    ones.
    """

    def __init__(
        self,
        embedder: Embedder,
        copy: int,
        batcher: Batcher,
        budgets: dict[str, int],
        stats: Stats,
        answer: Callable[[list[tuple[Job, Outcome]]], None],
        probe_seconds: float,
    ) -> None:
        """budgets: the most tokens ("text") and images ("image") of a batch.

        answer: told what became of jobs, on this worker's thread.
        probe_seconds: of nothing to do, after which the model proves itself.
        """
        self._embedder = embedder
        self._copy = copy
        self._batcher = batcher
        self._stats = stats
        self._answer = answer
        self._most = budgets
        self.budgets = dict(budgets)
        self._fitted = 0
        self._probe_seconds = probe_seconds
        self._probes = _probes(embedder)
        self.items_per_second = 0.0  # while it works, smoothed
        self.last_good: float | None = None  # when a forward pass went well
        self.busy_since: float | None = None
        self.failing_since: float | None = None
        self.failed_in_a_row = 0
        self.thread = threading.Thread(
            target=self._work, name=f"model-{copy}", daemon=True
        )

    def _work(self) -> None:
        self._probe()  # a warm-up: the first pass of a process takes many times longer
        while True:
            batch = self._batcher.next_batch(
                self.budgets,
                RETRY_SECONDS if self.failed_in_a_row else self._probe_seconds,
            )
            if batch is None:
                return
            if not batch:
                self._probe()
            elif batch[0].kind == "image":
                self._forward(batch)
            else:
                for chunk in length_sorted_chunks(
                    [job.cost for job in batch], self.budgets["text"]
                ):
                    self._forward([batch[index] for index in chunk])

    def _probe(self) -> None:
        """The smallest forward pass of each kind."""
        for prepared in self._probes:
            try:
                self._encode([prepared])
            except Exception:
                log.exception("a forward pass on no request's behalf failed")
                self._failed()
                return
        self._went_well()

    def _forward(self, jobs: list[Job]) -> None:
        jobs = [job for job in jobs if not job.request.is_cancelled]
        if not jobs:
            return
        started = time.monotonic()
        try:
            vectors = self._encode([job.content for job in jobs])
        except Exception as error:
            if _is_out_of_memory(error):
                self._shrink(jobs)
            else:
                log.exception("a forward pass of %d inputs failed", len(jobs))
        else:
            self._went_well()
            self._count(jobs, started)
            self._answer(
                [
                    (job, _embedded(job, vector))
                    for job, vector in zip(jobs, vectors, strict=True)
                ]
            )
            return
        # Outside of `except`, whose traceback would hold the failed pass's tensors. By halves, what
        # one input spoils is found in a few passes, and what did not fit is made to fit.
        if len(jobs) > 1:
            self._forward(jobs[: len(jobs) // 2])
            self._forward(jobs[len(jobs) // 2 :])
        else:
            with self._stats.lock:
                self._stats.failures += 1
            self._failed()
            self._answer([(jobs[0], MODEL_FAULT)])

    def _encode(self, prepared: Sequence[Prepared]) -> Vectors:
        self.busy_since = time.monotonic()
        try:
            vectors = normalize(self._embedder.encode_prepared(prepared, self._copy))
        finally:
            self.busy_since = None
        if not np.isfinite(
            vectors[:, 0]
        ).all():  # a unit vector is finite in all places or in none
            raise FloatingPointError("the model gave NaN or infinity.")
        return vectors

    def _shrink(self, jobs: list[Job]) -> None:
        with self._stats.lock:
            self._stats.out_of_memory += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        kind = jobs[0].kind
        self._fitted = 0
        self.budgets[kind] = max(1, sum(job.cost for job in jobs) // 2)
        log.warning(
            "out of memory with %d inputs; batches of %ss are half of that for a while",
            len(jobs),
            kind,
        )

    def _count(self, jobs: list[Job], started: float) -> None:
        now = time.monotonic()
        with self._stats.lock:
            lane = self._stats.text if jobs[0].kind == "text" else self._stats.image
            lane.items += len(jobs)
            lane.tokens += sum(job.tokens for job in jobs)
            lane.batches += 1
            lane.sizes[len(jobs)] += 1
            lane.wait_seconds += sum(started - job.since for job in jobs)
            lane.forward_seconds += now - started
        rate = len(jobs) / max(now - started, 1e-6)
        self.items_per_second += (0.1 if self.items_per_second else 1.0) * (
            rate - self.items_per_second
        )
        self._fitted += 1
        if self._fitted % GROW_AFTER == 0:
            self.budgets = {
                kind: min(most, 2 * self.budgets[kind])
                for kind, most in self._most.items()
            }

    def _went_well(self) -> None:
        self.last_good = time.monotonic()
        self.failed_in_a_row = 0
        self.failing_since = None

    def _failed(self) -> None:
        self.failed_in_a_row += 1
        self.failing_since = self.failing_since or time.monotonic()


def image_tokens(embedder: Embedder) -> int:
    """What an image counts as tokens: its patches, and one."""
    if embedder.models[0].image is None:
        return 0
    convolutions = [
        module
        for module in embedder.models[0].image.modules()
        if isinstance(module, nn.Conv2d)
    ]
    patches = (
        layer.stride[0]
        for layer in convolutions
        if layer.stride == layer.kernel_size and layer.stride[0] > 1
    )
    return (
        embedder.config.preprocess.image_size // next(patches, 32)
    ) ** 2 + 1  # 32: what convolutional towers reduce by


def _is_out_of_memory(error: Exception) -> bool:
    """Also of a CPU, whose allocator has no error of its own."""
    return isinstance(
        error, (torch.OutOfMemoryError, MemoryError)
    ) or "DefaultCPUAllocator" in str(error)


def _probes(embedder: Embedder) -> list[Prepared]:
    size = embedder.config.preprocess.image_size
    pixels: list[Prepared] = (
        [torch.zeros(3, size, size, dtype=torch.uint8)]
        if "image" in embedder.modalities
        else []
    )
    return [
        *pixels,
        *([embedder.prepare("a photo")] if "text" in embedder.modalities else []),
    ]


def _embedded(job: Job, vector: Vector) -> Embedded:
    return Embedded(vector if job.share == 1 else job.share * vector, job.tokens)
