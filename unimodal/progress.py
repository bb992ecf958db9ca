"""The one progress bar: what, how far, how fast, how long still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class Advance(Protocol):
    """Call with how much is done by now, and perhaps with a new description."""

    def __call__(self, done: int, what: str | None = None) -> None: ...


@contextmanager
def progress_bar(what: str, total: int | None, show: bool | None = None) -> Iterator[Advance]:
    """A bar on standard error while the block runs, gone afterwards; in a log, one line at the end.

    total: None where it is not known. show: None means only where standard error is a terminal.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
    )
    disabled = not (console.is_terminal if show is None else show)
    with Progress(*columns, console=console, transient=console.is_terminal, disable=disabled) as progress:
        task = progress.add_task(what, total=total)

        def advance(done: int, what: str | None = None) -> None:
            progress.update(task, completed=done, description=what)

        yield advance


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{speed:,.1f}/s" if speed < 100 else f"{speed:,.0f}/s", style="cyan")
