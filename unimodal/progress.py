"""The one progress bar: what, how far, how fast, how long still."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class RateColumn(ProgressColumn):
    """Finished units a second."""

    def render(self, task: Task) -> Text:
        """The rate so far, or a dash before the first unit."""
        speed = task.finished_speed or task.speed
        return Text("-/s" if not speed else f"{speed:,.1f}/s" if speed < 100 else f"{speed:,.0f}/s", style="cyan")


def progress_bar(show: bool | None = None) -> Progress:
    """A rich Progress on stderr with rate and time left.

    show: None means only where stderr is a terminal.
    """
    console = Console(stderr=True)
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not (console.is_terminal if show is None else show),
    )
