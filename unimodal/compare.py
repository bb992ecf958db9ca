"""What the comparisons share: both sides timed in turns in one process, and no speed without the
same results.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypeVar

import torch
from rich import box
from rich.table import Table
from torch import Tensor

from .progress import progress_bar

Run: TypeAlias = Callable[
    [], list[Tensor]
]  # does the work once -> what came of it: gradients, vectors, scores
Tick: TypeAlias = Callable[[str], None]  # says what runs next

_T = TypeVar("_T")


class Clock(NamedTuple):
    """How time is taken, and what it is called."""

    now: Callable[[], float]
    unit: str


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison. The ratio is theirs / ours where the target is to be so many times faster,
    else ours / theirs.
    """

    name: str
    peer: str
    ratio: float
    target: str
    ours: float
    theirs: float
    unit: str


def make_row(
    name: str, peer: str, target: str, ours: float, theirs: float, unit: str
) -> Row:
    """A row with its ratio, which is read as the target is: ">= 3" is a speed-up,
    "<= 0.6" a share.
    """
    ratio = theirs / ours if target.startswith(">=") else ours / theirs
    return Row(name, peer, ratio, target, ours, theirs, unit)


def cpu_clock() -> Clock:
    """CPU seconds where torch has one thread, which a busy machine does not stretch; else wall
    time.
    """
    count = torch.get_num_threads()
    if count == 1:
        return Clock(time.process_time, "CPU s, 1 thread")
    return Clock(time.perf_counter, f"s wall, {count} threads")


def gpu_clock() -> Clock:
    """Wall time, waiting for what the GPU still has to do."""

    def now() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return Clock(now, f"s wall, {torch.cuda.get_device_name()}")


def timed(
    runs: Mapping[str, Run],
    rounds: int,
    tick: Tick,
    clock: Clock,
    *,
    tolerance: float = 1e-4,
    part: Callable[[list[Tensor]], list[Tensor]] = lambda results: results,
) -> dict[str, float]:
    """Median seconds of each run; each round has all of them, so that a busy machine is busy for
    all.

    A round before the first warms up, and its results must agree with those of the first run.
    part: of the results, what is compared.
    """
    first: list[Tensor] = []
    for name, run in runs.items():
        tick(name)
        results = part(run())
        first = first or results
        if (difference := relative_difference(results, first)) > tolerance:
            raise FloatingPointError(
                f"the results of {name!r} and {next(iter(runs))!r} differ by {difference:.1e}; "
                "no time is given for different results: look at the versions of the libraries."
            )
    del first, results
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            tick(name)
            started = clock.now()
            run()
            seconds[name].append(clock.now() - started)
    return {name: statistics.median(found) for name, found in seconds.items()}


def relative_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Distance of two lists of tensors over the length of the second."""
    assert [one.shape for one in ours] == [one.shape for one in theirs]
    distance = sum(
        float((a.double() - b.double()).square().sum())
        for a, b in zip(ours, theirs, strict=True)
    )
    return float(
        (distance / sum(float(b.double().square().sum()) for b in theirs)) ** 0.5
    )


def in_fresh_process(function: Callable[..., _T], *arguments: object) -> _T:
    """function(*arguments) in a process that has done nothing before."""
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory(run: Run) -> float:
    """MB that this process holds at most while it runs, over what it held before (Linux)."""
    held = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text(
        "5", encoding="ascii"
    )  # VmHWM starts anew at what is held
    run()
    return _memory("VmHWM") - held


def _memory(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(
        int(line.split()[1]) * 1024 / 1e6
        for line in lines
        if line.startswith(f"{key}:")
    )


@contextmanager
def measuring(what: str, total: int, threads: int | None) -> Iterator[Tick]:
    """A progress bar that goes one further with each tick; so many torch threads meanwhile (None:
    its own number).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    count = itertools.count()
    try:
        with progress_bar(what, total) as advance:
            yield lambda name: advance(next(count), f"{what}: {name}")
    finally:
        torch.set_num_threads(before)


def rows_table(rows: Sequence[Row], title: str) -> Table:
    """The rows for a terminal."""
    table = Table(
        title=title, box=box.SIMPLE_HEAD, header_style="bold", title_justify="left"
    )
    for column in ("name", "peer"):
        table.add_column(column, overflow="fold")
    for column in ("ratio", "target", "ours", "theirs"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("unit", style="dim")
    for row in rows:
        numbers = (
            f"[bold]{row.ratio:.3g}[/bold]",
            row.target,
            f"{row.ours:.3g}",
            f"{row.theirs:.3g}",
        )
        table.add_row(row.name, row.peer, *numbers, row.unit)
    return table


def write_json(rows: Sequence[Row], file: Path) -> None:
    """Write the rows as a JSON list; the folder is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        [dataclasses.asdict(row) for row in rows], indent=1, allow_nan=False
    )
    file.write_text(text + "\n", encoding="utf-8")
