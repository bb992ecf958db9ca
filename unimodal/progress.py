"""What a command shows: its progress while it works, and its tables at full width.

On a terminal that is a live bar. Elsewhere (a log, CI, `nohup`) it is a plain line at least every
30 seconds.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

EVERY = 30.0  # seconds between two lines where standard error is not a terminal
# Columns of a console that is not a terminal: no table is cut or wrapped.
_ANY_WIDTH = 100_000
_SHOWN: list[Progress] = []  # bars that are open, the innermost last
_LOCK = threading.Lock()


class Advance(Protocol):
    """Call with how much is done by now, and perhaps with a new description."""

    def __call__(self, done: int, what: str | None = None) -> None: ...


@contextmanager
def progress_bar(
    what: str, total: int | None, show: bool | None = None, *, start: int = 0
) -> Iterator[Advance]:
    """Show progress on standard error while the block runs.

    That is a bar on a terminal, and a line every 30 s elsewhere.

    The lines come from a thread, so that one long item does not hold them up; a block that is done
    before the first is due writes nothing. The bar goes away at the end.

    total: None where it is not known.
    show: False: nothing. True: also a last line in a log, however short the block was.
    start: how much was done before, by an earlier run; the rate does not count it.
    """
    if show is False:
        yield lambda done, what=None: None
    elif Console(stderr=True).is_terminal:
        with _live_bar(what, total, start) as advance:
            yield advance
    else:
        with _lines(PlainProgress(what, total, start), always=show is True) as advance:
            yield advance


def open_console(stderr: bool = False) -> Console:
    """Open a console for tables: as wide as the terminal or $COLUMNS, else without a limit."""
    console = Console(stderr=stderr)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = _ANY_WIDTH
    return console


class PlainProgress:
    """The progress of some work, as a line of text."""

    def __init__(
        self,
        what: str,
        total: int | None,
        start: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._detail = ""
        self._total = total
        self._clock = clock
        self._began = clock()
        self._newest = (self._began, start)
        # (time, done) when the last lines were written: the rate is that of the last two minutes,
        # at most.
        self._marks = deque([self._newest], maxlen=4)

    def advance(self, done: int, what: str | None = None) -> None:
        """Note how much is done by now."""
        self._newest = (self._clock(), done)
        if what is not None:
            self._detail = what

    def line(self) -> str:
        """`embedding 600/1,200, 12.5/s, 0:48 left`, of now."""
        newest, done = self._newest
        before, done_before = self._marks[0]
        now = self._clock()
        rate = 0.0
        left = 0.0
        if newest > before:
            rate = (done - done_before) / (newest - before)
        if rate > 0 and self._total is not None:
            left = newest + (self._total - done) / rate - now
        last = self._marks[-1]
        self._marks.append(self._newest)
        parts = [self._head(done)]
        if rate > 0:
            parts.append(describe_rate(rate))
        if left > 0:
            parts.append(f"{describe_seconds(left)} left")
        else:  # not known, or overdue
            parts.append(f"{describe_seconds(now - self._began)} so far")
        if self._newest == last:
            parts.append(f"nothing new for {describe_seconds(now - newest)}")
        return ", ".join(parts) + self._described()

    def last_line(self) -> str:
        """What was done, and how long it took."""
        return (
            f"{self._head(self._newest[1])}, "
            f"{describe_seconds(self._clock() - self._began)}{self._described()}"
        )

    def _head(self, done: int) -> str:
        name = self._detail if self._detail.startswith(self._what) else self._what
        if self._total is not None:
            return f"{name} {done:,}/{self._total:,}"
        return f"{name} {done:,}" if done else name

    def _described(self) -> str:
        if not self._detail or self._detail.startswith(self._what):
            return ""
        return f" ({self._detail})"


def describe_rate(rate: float) -> str:
    """`12.5/s`; below one per second the time that each takes: `2.0 s each`."""
    if rate < 1:
        return f"{1 / rate:,.1f} s each"
    return f"{rate:,.1f}/s" if rate < 100 else f"{rate:,.0f}/s"


def describe_seconds(seconds: float) -> str:
    """`0:48`, `12:00`, `3:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def _lines(progress: PlainProgress, always: bool) -> Iterator[Advance]:
    ended = threading.Event()
    num_written = 0

    def write() -> None:
        nonlocal num_written
        while not ended.wait(EVERY):
            print(progress.line(), file=sys.stderr, flush=True)
            num_written += 1

    writer = threading.Thread(target=write, name="progress", daemon=True)
    writer.start()
    try:
        yield progress.advance
    finally:
        ended.set()
        writer.join()
    if num_written or always:
        print(progress.last_line(), file=sys.stderr, flush=True)


@contextmanager
def _live_bar(what: str, total: int | None, start: int) -> Iterator[Advance]:
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task(what, total=total, completed=start)

    def advance(done: int, what: str | None = None) -> None:
        progress.update(task, completed=done, description=what)

    with _innermost(progress):
        yield advance


@contextmanager
def _innermost(progress: Progress) -> Iterator[None]:
    """Show a bar in place of the one around it, which comes back afterwards.

    Two bars would overwrite each other.
    """
    with _LOCK:
        if _SHOWN:
            _SHOWN[-1].stop()
        _SHOWN.append(progress)
        progress.start()
    try:
        yield
    finally:
        with _LOCK:
            progress.stop()
            _SHOWN.remove(progress)
            if _SHOWN:
                _SHOWN[-1].start()


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(describe_rate(speed) if speed else "", style="cyan")
