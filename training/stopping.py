"""Stopping: signals, and batches that are fetched by a thread so that a signal is heard while a storage stalls."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NamedTuple

from . import distributed
from .data.collate import Batch

_PATIENCE = 0.2  # seconds that a rank waits for its batch before all ask each other whether to go on waiting
_ECHO = 1.0  # seconds: launchers pass on the SIGTERM that a scheduler has sent to every process itself


class Stopped(Exception):  # noqa: N818  # not an error: it was asked for
    """A signal asked the run to stop, and it did, with a checkpoint if there was anything to save."""

    def __init__(self, said: str, number: int) -> None:
        super().__init__(said)
        self.signal = number


class StopSignals:
    """The first SIGTERM or SIGINT that this process was sent."""

    def __init__(self) -> None:
        self.received = 0
        self._holds = False

    def hold(self) -> None:
        """From now on a signal is a mark that the run looks at; until now, nothing being lost, it raised Stopped."""
        self._holds = True

    def should_stop(self) -> bool:
        """Whether this process was asked to stop."""
        return self.received != 0

    def agree(self) -> int:
        """The signal that any rank was sent, on every rank; 0 if none was."""
        terminated, interrupted = distributed.add_up(self.votes())
        return _signal_of(terminated, interrupted)

    def votes(self) -> tuple[bool, bool]:
        """Whether it was SIGTERM, whether it was SIGINT: to be added up over the ranks."""
        return self.received == signal.SIGTERM, self.received == signal.SIGINT

    def receive(self, number: int) -> None:
        """Take note of a signal."""
        self.received = number
        if not self._holds:
            raise Stopped("stopped before the first step; there was nothing to save.", number)


def _signal_of(terminated: float, interrupted: float) -> int:
    return int(signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Catch the first SIGTERM or SIGINT while the block runs; the second does what it always did.

    A SIGTERM within a second of the first signal is the same stop once more, and does nothing. Outside the main thread
    nothing is caught.
    """
    signals = StopSignals()
    before: dict[int, Any] = {}
    deaf_until = 0.0

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal deaf_until
        if not signals.should_stop():
            deaf_until = time.monotonic() + _ECHO
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            signals.receive(number)
        elif time.monotonic() > deaf_until:
            restore()
            signal.raise_signal(number)

    try:
        for number in (int(signal.SIGTERM), int(signal.SIGINT)):
            before[number] = signal.signal(number, on_signal)
    except ValueError:  # not the main thread: whoever started it decides
        before = {}
    try:
        yield signals
    finally:
        restore()


class Fed(NamedTuple):
    """What all ranks agreed on before a step."""

    batches: list[Batch]  # this rank's
    num_skipped: int  # corrupt samples in the batches of all ranks
    signal: int  # not 0: no step is to be made


class Feed:
    """The batches of a run, a step's at a time, fetched by a thread."""

    def __init__(self, batches: Iterator[list[Batch]], ahead: bool = True, workers: Sequence[BaseProcess] = ()) -> None:
        """ahead: put the next step's together while one is computed; it takes the memory of one more.

        workers: the processes of the loader, which may grow while it starts them; `close` kills them and no others.
        """
        self._workers = workers
        self._ready: queue.Queue[list[Batch] | BaseException] = queue.Queue(maxsize=1)
        self._ahead = ahead
        self._wanted = threading.Semaphore(int(ahead))
        self._is_closed = threading.Event()
        self._thread = threading.Thread(target=self._fetch, args=(batches,), daemon=True, name="feed")
        self._thread.start()

    def next(self, signals: StopSignals) -> Fed:
        """The batches of the next step, once every rank has its own or any was asked to stop; every rank calls it.

        One small reduction a step. Ranks that have theirs meet those that wait every fifth of a second, so that none is
        held in a reduction that a stalled storage keeps the others from.
        """
        batches: list[Batch] | None = None
        if not self._ahead:
            self._wanted.release()
        while True:
            batches = batches if batches is not None else self._get()
            num_skipped = sum(len(batch.skipped) for batch in batches or ())
            votes = (*signals.votes(), batches is None, num_skipped)
            terminated, interrupted, num_waiting, skipped = distributed.add_up(votes)
            if terminated or interrupted:
                return Fed([], 0, _signal_of(terminated, interrupted))
            if not num_waiting:
                return Fed(batches or [], int(skipped), 0)

    def close(self) -> None:
        """Let the thread end, and the loader's processes: they ignore signals and may wait for a storage."""
        self._is_closed.set()
        self._kill_workers()
        self._thread.join(timeout=0.1)
        self._kill_workers()  # it may just have been starting them

    def _kill_workers(self) -> None:
        for worker in list(self._workers):
            # 255: how it ended is not known, for a signal to the whole group has killed the server that started it.
            if worker.pid is not None and worker.exitcode in (None, 255):
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)

    def _get(self) -> list[Batch] | None:
        try:
            found = self._ready.get(timeout=_PATIENCE)
        except queue.Empty:
            return None
        if isinstance(found, BaseException):
            raise found
        if self._ahead:
            self._wanted.release()
        return found

    def _fetch(self, batches: Iterator[list[Batch]]) -> None:
        try:
            while self._is_wanted() and (one := next(batches, None)) is not None:
                self._put(one)
                del one
        except BaseException as error:  # raised where the batch is asked for
            self._put(error)

    def _is_wanted(self) -> bool:
        while not self._is_closed.is_set():
            if self._wanted.acquire(timeout=_PATIENCE):
                return True
        return False

    def _put(self, item: list[Batch] | BaseException) -> None:
        while not self._is_closed.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=_PATIENCE)
                return
