"""One copy of a model and the thread that feeds it."""

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
from .batching import Batcher
from .jobs import Embedded, EncodeJob, Failed, Outcome
from .stats import Stats

log = logging.getLogger(__name__)

MODEL_FAULT = Failed(
    "the model failed on this input; try again later, or send another input.", 500
)
# batches that fit, before a budget that was halved for lack of memory is doubled again
GROW_AFTER = 100
RETRY_SECONDS = 1.0  # between probes of a model that fails
SMOOTHING = 0.1  # weight of the newest batch in the mean speed
REDUCTION = 32  # pixels per patch side of convolutional towers


class Worker:
    """Takes a batch whenever its model is free; retries a failed batch in smaller ones."""

    def __init__(
        self,
        embedder: Embedder,
        copy: int,
        batcher: Batcher,
        budgets: dict[str, int],
        stats: Stats,
        answer: Callable[[list[tuple[EncodeJob, Outcome]]], None],
        probe_seconds: float,
    ) -> None:
        """Create a worker; `thread` is to be started.

        budgets: the largest number of tokens ("text") and images ("image") per batch.
        answer: called with jobs and their outcomes, on this worker's thread.
        probe_seconds: how long without a batch, until the model is probed.
        """
        self._embedder = embedder
        self._copy = copy
        self._batcher = batcher
        self._stats = stats
        self._answer = answer
        self._full_budgets = budgets
        self.budgets = dict(budgets)
        self._fitting_batches = 0  # since the last that did not fit
        self._probe_seconds = probe_seconds
        self._probes = _make_probes(embedder)

        self.items_per_second = 0.0  # while it works, smoothed
        self.last_good: float | None = None  # time of the last successful forward pass
        self.busy_since: float | None = None
        self.failing_since: float | None = None
        self.failed_in_a_row = 0
        self.thread = threading.Thread(
            target=self._work, name=f"model-{copy}", daemon=True
        )

    def _work(self) -> None:
        self._probe()  # a warm-up: the first pass of a process takes many times longer
        while True:
            seconds = RETRY_SECONDS if self.failed_in_a_row else self._probe_seconds
            batch = self._batcher.next_batch(self.budgets, seconds)
            if batch is None:
                return
            if not batch:
                self._probe()
            elif batch[0].kind == "image":
                self._forward(batch)
            else:
                costs = [job.cost for job in batch]
                for chunk in length_sorted_chunks(costs, self.budgets["text"]):
                    self._forward([batch[index] for index in chunk])

    def _probe(self) -> None:
        """Run the smallest forward pass of each modality."""
        for prepared in self._probes:
            try:
                self._encode([prepared])
            except Exception:
                log.exception("a probe of the model failed")
                self._note_failure()
                return
        self._note_success()

    def _forward(self, jobs: list[EncodeJob]) -> None:
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
            self._note_success()
            self._count(jobs, started)
            pairs = zip(jobs, vectors, strict=True)
            self._answer([(job, Embedded(vector, job.tokens)) for job, vector in pairs])
            return

        # Outside of `except`, whose traceback would keep the tensors of the failed pass. Halving
        # isolates an input that fails in a few passes, and makes a batch fit into memory.
        if len(jobs) > 1:
            middle = len(jobs) // 2
            self._forward(jobs[:middle])
            self._forward(jobs[middle:])
        else:
            with self._stats.lock:
                self._stats.failures += 1
            self._note_failure()
            self._answer([(jobs[0], MODEL_FAULT)])

    def _encode(self, prepared: Sequence[Prepared]) -> Vectors:
        self.busy_since = time.monotonic()
        try:
            vectors = normalize(self._embedder.encode_prepared(prepared, self._copy))
        finally:
            self.busy_since = None
        # a unit vector is finite in all its values or in none
        if not np.isfinite(vectors[:, 0]).all():
            raise FloatingPointError("the model returned NaN or infinity.")
        return vectors

    def _shrink(self, jobs: list[EncodeJob]) -> None:
        """Halve the budget of these jobs' kind."""
        with self._stats.lock:
            self._stats.out_of_memory += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        kind = jobs[0].kind
        self._fitting_batches = 0
        self.budgets[kind] = max(1, sum(job.cost for job in jobs) // 2)
        log.warning(
            "out of memory with %d inputs; batches of %ss are halved for a while",
            len(jobs),
            kind,
        )

    def _count(self, jobs: list[EncodeJob], started: float) -> None:
        now = time.monotonic()
        with self._stats.lock:
            is_text = jobs[0].kind == "text"
            counters = self._stats.text if is_text else self._stats.image
            counters.items += len(jobs)
            counters.tokens += sum(job.tokens for job in jobs)
            counters.batches += 1
            counters.sizes[len(jobs)] += 1
            counters.wait_seconds += sum(started - job.admitted_at for job in jobs)
            counters.forward_seconds += now - started

        rate = len(jobs) / max(now - started, 1e-6)
        weight = SMOOTHING if self.items_per_second else 1.0
        self.items_per_second += weight * (rate - self.items_per_second)

        self._fitting_batches += 1
        if self._fitting_batches % GROW_AFTER == 0:
            self.budgets = {
                kind: min(full, 2 * self.budgets[kind])
                for kind, full in self._full_budgets.items()
            }

    def _note_success(self) -> None:
        self.last_good = time.monotonic()
        self.failed_in_a_row = 0
        self.failing_since = None

    def _note_failure(self) -> None:
        self.failed_in_a_row += 1
        self.failing_since = self.failing_since or time.monotonic()


def image_tokens(embedder: Embedder) -> int:
    """How many tokens an image counts as: its patches plus 1."""
    tower = embedder.models[0].image
    if tower is None:
        return 0
    patch_size = REDUCTION
    for module in tower.modules():
        if isinstance(module, nn.Conv2d) and _cuts_patches(module):
            patch_size = module.stride[0]
            break
    return (embedder.config.preprocess.image_size // patch_size) ** 2 + 1


def _cuts_patches(layer: nn.Conv2d) -> bool:
    return layer.stride == layer.kernel_size and layer.stride[0] > 1


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, also on a CPU, whose allocator has no error class of its own."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return "DefaultCPUAllocator" in str(error)


def _make_probes(embedder: Embedder) -> list[Prepared]:
    """The smallest input of each modality."""
    probes: list[Prepared] = []
    if "image" in embedder.modalities:
        size = embedder.config.preprocess.image_size
        probes.append(torch.zeros(3, size, size, dtype=torch.uint8))
    if "text" in embedder.modalities:
        probes.append(embedder.prepare("a photo"))
    return probes
