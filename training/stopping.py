"""Stopping: SIGTERM and SIGINT end a run after its step, on all ranks together."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from unimodal import distributed

# seconds: launchers pass on the SIGTERM that a scheduler has sent to every process itself
_ECHO = 1.0


class Stopped(Exception):  # noqa: N818  # not an error: it was asked for
    """A signal asked the run to stop, and it did, with a checkpoint if there was
    anything to save.
    """

    def __init__(self, said: str, number: int) -> None:
        super().__init__(said)
        self.signal = number


class StopSignals:
    """The first SIGTERM or SIGINT that this process was sent."""

    def __init__(self) -> None:
        self.received = 0
        self._holds = False

    def hold(self) -> None:
        """From now on a signal is a mark that the run looks at; until now, nothing being lost, it
        raised Stopped.
        """
        self._holds = True

    def should_stop(self) -> bool:
        """Whether this process was asked to stop."""
        return self.received != 0

    def agree(self) -> int:
        """The signal that any rank was sent, on every rank; 0 if none was."""
        terminated, interrupted = distributed.all_reduce_sum(self.votes())
        return signal_of(terminated, interrupted)

    def votes(self) -> tuple[bool, bool]:
        """Whether it was SIGTERM, whether it was SIGINT: to be added up over the ranks."""
        return self.received == signal.SIGTERM, self.received == signal.SIGINT

    def receive(self, number: int) -> None:
        """Take note of a signal."""
        self.received = number
        if not self._holds:
            raise Stopped(
                "stopped before the first step; there was nothing to save.", number
            )


def signal_of(terminated: float, interrupted: float) -> int:
    """The signal to obey when so many ranks were sent each: SIGTERM before SIGINT; 0 if none was
    sent any.
    """
    return int(signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0)


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Catch the first SIGTERM or SIGINT while the block runs; the second does what it always did.

    A SIGTERM within a second of the first signal is the same stop once more, and does nothing.
    Outside the main thread nothing is caught.
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
