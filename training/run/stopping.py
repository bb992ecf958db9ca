"""Stopping: SIGTERM and SIGINT end a run after its step, on all ranks together."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from unimodal import distributed

# Seconds in which a SIGTERM is the same stop once more: launchers pass on the SIGTERM that a
# scheduler has sent to every process.
_ECHO = 1.0


class Stopped(Exception):  # noqa: N818  # not an error: a user wants it
    """A signal has stopped the run, with a checkpoint if there was anything to save."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.signal = number


class StopSignals:
    """The first SIGTERM or SIGINT that this process received."""

    def __init__(self) -> None:
        self.received = 0
        self._holds = False

    def hold(self) -> None:
        """From now on a signal sets `received`; before, with nothing to lose, it raises Stopped."""
        self._holds = True

    def should_stop(self) -> bool:
        """Whether this process has received a signal."""
        return self.received != 0

    def agree(self) -> int:
        """The signal that any rank has received, on every rank; 0 if there is none."""
        terminated, interrupted = distributed.all_reduce_sum(self.votes())
        return signal_of(terminated, interrupted)

    def votes(self) -> tuple[bool, bool]:
        """Whether it is SIGTERM, whether it is SIGINT: to be summed over the ranks."""
        return self.received == signal.SIGTERM, self.received == signal.SIGINT

    def receive(self, number: int) -> None:
        """Remember a signal."""
        self.received = number
        if not self._holds:
            raise Stopped(
                "stopped before the first step; there was nothing to save.", number
            )


def signal_of(terminated: float, interrupted: float) -> int:
    """The signal to obey, from the number of ranks that received each: SIGTERM first; 0 is none."""
    if terminated:
        return int(signal.SIGTERM)
    return int(signal.SIGINT) if interrupted else 0


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Catch the first SIGTERM or SIGINT while the block runs; a second one has its usual effect.

    A SIGTERM within a second of the first signal does nothing. Outside the main thread nothing is
    caught.
    """
    signals = StopSignals()
    before: dict[int, Any] = {}
    ignore_until = 0.0

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal ignore_until
        if not signals.should_stop():
            ignore_until = time.monotonic() + _ECHO
            signal.signal(signal.SIGINT, before[signal.SIGINT])
            signals.receive(number)
        elif time.monotonic() > ignore_until:
            restore()
            signal.raise_signal(number)

    try:
        for number in (int(signal.SIGTERM), int(signal.SIGINT)):
            before[number] = signal.signal(number, on_signal)
    except ValueError:  # not the main thread: its program handles signals
        before = {}
    try:
        yield signals
    finally:
        restore()
