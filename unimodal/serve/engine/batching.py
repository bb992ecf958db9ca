"""The queue between requests and the models: fair between requests, images decoded just ahead,
emptied in batches.

Fair means: each request has a line of its own, and a batch takes one from every line in turn. So a
single query waits for one batch, however many items another request has brought.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .images import TooLargeError

log = logging.getLogger(__name__)

Vector: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Embedded:
    """One item's vector, of full length, and how many tokens the model read for it (an image:
    patches + 1).
    """

    vector: Vector  # (D,) unit vector
    tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Why one item has no vector, in a sentence for who sent it, and the HTTP status and code of
    such a fault.
    """

    reason: str
    status: int
    code: str = ""

    @classmethod
    def of(cls, error: ValueError) -> Failed:
        """The fault of an item that was refused with this error."""
        return cls(str(error), 413 if isinstance(error, TooLargeError) else 400)


Outcome: TypeAlias = Embedded | Failed


@dataclass(eq=False, slots=True)
class Request:
    """Items that came together and are answered together."""

    loop: asyncio.AbstractEventLoop
    answered: asyncio.Future[None]
    outcomes: list[Outcome | None]
    num_bytes: int = 0
    jobs_left: int = 0
    is_cancelled: bool = False


@dataclass(eq=False, slots=True)
class Job:
    """One text or image on its way to a model."""

    request: Request
    row: int
    kind: str  # "text" or "image"
    content: Any  # a text, then its token ids | an image as it came, then its pixels
    share: float  # of its vector in its item's
    since: float  # when it was admitted
    tokens: int = 0
    cost: int = (
        1  # what it takes of a batch's budget: tokens, padding included, or 1 image
    )


class FairQueue:
    """Jobs in line, a line for each request; not safe between threads by itself."""

    def __init__(self) -> None:
        self._lines: OrderedDict[Request, deque[Job]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, job: Job) -> None:
        """At the end of its request's line."""
        self._lines.setdefault(job.request, deque()).append(job)

    def take(self, budget: int) -> list[Job]:
        """One job from every line in turn, as long as their cost is within the budget; at least one
        if any waits.
        """
        taken: list[Job] = []
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

    def remove(self, request: Request) -> None:
        """All that it still has in line."""
        self._lines.pop(request, None)


class Batcher:
    """Texts and images in line; `next_batch` gives those of one kind. Safe between threads."""

    def __init__(
        self,
        decode: Callable[[Any], Tensor],
        failed: Callable[[Job, Failed], None],
        pool: ThreadPoolExecutor,
        ahead: int,
    ) -> None:
        """decode: an image as it came -> pixels, run in the pool; ValueError is that image's own
        fault.

        failed: told of an image that could not be decoded.
        ahead: how many images may be decoded, or under way to it, before a model takes them.
        """
        self._decode = decode
        self._failed = failed
        self._pool = pool
        self._ahead = ahead
        self._changed = threading.Condition()  # guards all below
        self._texts = FairQueue()
        self._undecoded = FairQueue()
        self._decoded: deque[Job] = deque()  # in a fair order already
        self._num_decoding = 0
        self._text_is_next = True
        self._is_closed = False

    def add(self, jobs: Sequence[Job]) -> None:
        """Put jobs in line, unless their request was cancelled meanwhile."""
        with self._changed:
            for job in jobs:
                if not job.request.is_cancelled:
                    (self._texts if job.kind == "text" else self._undecoded).add(job)
            if self._texts:
                self._changed.notify()
            self._decode_ahead()

    def remove(self, request: Request) -> None:
        """Take out what a request still has in line."""
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
    ) -> list[Job] | None:
        """Whatever is there, of one kind; the kinds take turns. Empty after `idle_seconds` of
        nothing, None at the end.

        budgets: the most tokens ("text") and images ("image") of a batch.
        """
        until = time.monotonic() + idle_seconds
        with self._changed:
            while not self._is_closed:
                if self._texts or self._decoded:
                    batch = self._take(budgets)
                    if self._texts or self._decoded:
                        # another model's thread may sleep beside what is left
                        self._changed.notify()
                    return batch
                left = until - time.monotonic()
                if left <= 0:
                    return []
                self._changed.wait(left)
        return None

    def close(self) -> None:
        """Let everyone who waits for a batch go."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _take(self, budgets: Mapping[str, int]) -> list[Job]:
        if self._texts and (self._text_is_next or not self._decoded):
            self._text_is_next = False
            return self._texts.take(budgets["text"])
        self._text_is_next = True
        batch = [
            self._decoded.popleft()
            for _ in range(min(budgets["image"], len(self._decoded)))
        ]
        self._decode_ahead()
        return batch

    def _decode_ahead(self) -> None:
        while (
            self._undecoded
            and not self._is_closed
            and self._num_decoding + len(self._decoded) < self._ahead
        ):
            self._num_decoding += 1
            self._pool.submit(self._decode_one, self._undecoded.take(1)[0])

    def _decode_one(self, job: Job) -> None:
        fault: Failed | None = None
        try:
            if not job.request.is_cancelled:
                job.content = self._decode(job.content)
        except ValueError as error:
            fault = Failed.of(error)
        except Exception:  # whatever it is, who asked waits for an answer
            log.exception("an image could not be decoded")
            fault = Failed(
                "the image could not be decoded; save it again, or in another format.",
                500,
            )
        with self._changed:
            self._num_decoding -= 1
            if fault is None and not job.request.is_cancelled:
                self._decoded.append(job)
                self._changed.notify()
            self._decode_ahead()
        if fault is not None:
            self._failed(job, fault)
