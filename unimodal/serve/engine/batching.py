"""The queue in front of the models: fair between requests, and emptied in batches.

Fair means that each request has its own line, and a batch takes one job from every line in turn.
A single query therefore waits for one batch, however many inputs another request has sent.
Images are decoded just ahead of the models.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor

from .jobs import EncodeJob, Failed, PendingRequest

log = logging.getLogger(__name__)

UNDECODABLE = Failed(
    "the image could not be decoded; save it again, or in another format.", 500
)


class FairQueue:
    """Jobs in one line per request. Not thread-safe."""

    def __init__(self) -> None:
        self._lines: OrderedDict[PendingRequest, deque[EncodeJob]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, job: EncodeJob) -> None:
        """Append a job to the line of its request."""
        self._lines.setdefault(job.request, deque()).append(job)

    def take(self, budget: int) -> list[EncodeJob]:
        """Take one job from every line in turn, as long as their cost fits the budget.

        Takes at least one job if there is any.
        """
        taken: list[EncodeJob] = []
        while self._lines:
            request, line = next(iter(self._lines.items()))
            budget -= line[0].cost
            if taken and budget < 0:
                break
            taken.append(line.popleft())
            if line:
                self._lines.move_to_end(request)
            else:
                del self._lines[request]
        return taken

    def remove(self, request: PendingRequest) -> None:
        """Drop the jobs of a request."""
        self._lines.pop(request, None)


class Batcher:
    """Waiting texts and images; `next_batch` returns jobs of one kind. Thread-safe."""

    def __init__(
        self,
        decode: Callable[[Any], Tensor],
        on_failure: Callable[[EncodeJob, Failed], None],
        pool: ThreadPoolExecutor,
        ahead: int,
    ) -> None:
        """Create an empty queue.

        decode: an image as received -> pixels, run in the pool; raises ValueError for an image
            that cannot be used.
        on_failure: called with each image that could not be decoded.
        ahead: how many images may be decoded, or be decoding, before a model takes them.
        """
        self._decode = decode
        self._on_failure = on_failure
        self._pool = pool
        self._ahead = ahead

        self._changed = threading.Condition()  # guards everything below
        self.num_decoding = 0
        self._texts = FairQueue()
        self._undecoded = FairQueue()
        self._decoded: deque[EncodeJob] = deque()  # already in a fair order
        self._text_is_next = True
        self._is_closed = False

    def add(self, jobs: Sequence[EncodeJob]) -> None:
        """Queue jobs, except those whose request has been cancelled."""
        with self._changed:
            for job in jobs:
                if job.request.is_cancelled:
                    continue
                queue = self._texts if job.kind == "text" else self._undecoded
                queue.add(job)
            if self._texts:
                self._changed.notify()
            self._decode_ahead()

    def remove(self, request: PendingRequest) -> None:
        """Cancel a request and drop its jobs."""
        with self._changed:
            request.is_cancelled = True
            self._texts.remove(request)
            self._undecoded.remove(request)
            self._decoded = deque(
                job for job in self._decoded if job.request is not request
            )
            self._decode_ahead()

    def next_batch(
        self, budgets: Mapping[str, int], idle_seconds: float
    ) -> list[EncodeJob] | None:
        """The next jobs of one kind; texts and images take turns.

        Empty after `idle_seconds` without a job, None once the queue is closed.

        budgets: the largest number of tokens ("text") and images ("image") per batch.
        """
        deadline = time.monotonic() + idle_seconds
        with self._changed:
            while not self._is_closed:
                if self._texts or self._decoded:
                    batch = self._take(budgets)
                    if self._texts or self._decoded:
                        # another model's thread may be asleep while jobs are left
                        self._changed.notify()
                    return batch
                seconds_left = deadline - time.monotonic()
                if seconds_left <= 0:
                    return []
                self._changed.wait(seconds_left)
        return None

    def close(self) -> None:
        """Release every thread that waits for a batch."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    @property
    def num_decoded(self) -> int:
        """How many decoded images wait for a model."""
        return len(self._decoded)

    def _take(self, budgets: Mapping[str, int]) -> list[EncodeJob]:
        if self._texts and (self._text_is_next or not self._decoded):
            self._text_is_next = False
            return self._texts.take(budgets["text"])
        self._text_is_next = True
        num_images = min(budgets["image"], len(self._decoded))
        batch = [self._decoded.popleft() for _ in range(num_images)]
        self._decode_ahead()
        return batch

    def _decode_ahead(self) -> None:
        while (
            self._undecoded
            and not self._is_closed
            and self.num_decoding + len(self._decoded) < self._ahead
        ):
            (job,) = self._undecoded.take(1)
            self.num_decoding += 1
            self._pool.submit(self._decode_one, job)

    def _decode_one(self, job: EncodeJob) -> None:
        failure: Failed | None = None
        try:
            if not job.request.is_cancelled:
                job.content = self._decode(job.content)
        except ValueError as error:
            failure = Failed.of(error)
        except Exception:  # whatever it is, the client waits for an answer
            log.exception("an image could not be decoded")
            failure = UNDECODABLE

        with self._changed:
            self.num_decoding -= 1
            if failure is None and not job.request.is_cancelled:
                self._decoded.append(job)
                self._changed.notify()
            self._decode_ahead()
        if failure is not None:
            self._on_failure(job, failure)
