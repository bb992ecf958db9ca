"""Comparisons of speed: both sides run in turns in one process and must give the same results."""

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

# Does the work once and returns its results: gradients, vectors or scores.
Run: TypeAlias = Callable[[], list[Tensor]]
# Called with the name of what runs next.
Tick: TypeAlias = Callable[[str], None]

_T = TypeVar("_T")


class Clock(NamedTuple):
    """A clock and the name of its unit."""

    now: Callable[[], float]
    unit: str


@dataclasses.dataclass(frozen=True)
class BenchRow:
    """One comparison.

    The ratio is theirs / ours where the target is a speed-up (">= 3"), else ours / theirs.
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
) -> BenchRow:
    """Make a row with its ratio: a target of ">= 3" is a speed-up, "<= 0.6" a share."""
    ratio = theirs / ours if target.startswith(">=") else ours / theirs
    return BenchRow(name, peer, ratio, target, ours, theirs, unit)


def cpu_clock() -> Clock:
    """CPU seconds where torch has one thread, whatever else runs; otherwise wall time."""
    count = torch.get_num_threads()
    if count == 1:
        return Clock(time.process_time, "CPU s, 1 thread")
    return Clock(time.perf_counter, f"s wall, {count} threads")


def gpu_clock() -> Clock:
    """Wall time, including the work that is still queued on the GPU."""

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
    """Median seconds of each run.

    Each round has all runs, so that a busy machine slows down all of them. A warm-up round comes
    first; its results must equal those of the first run.

    part: selects the results that are compared.
    """
    first: list[Tensor] = []
    for name, run in runs.items():
        tick(name)
        results = part(run())
        first = first or results
        difference = relative_difference(results, first)
        if difference > tolerance:
            raise FloatingPointError(
                f"the results of {name!r} and {next(iter(runs))!r} differ by {difference:.1e}, so "
                "their times cannot be compared; check the versions of the libraries."
            )
    del first, results
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            tick(name)
            started = clock.now()
            run()
            seconds[name].append(clock.now() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


def relative_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Distance of two lists of tensors, divided by the length of the second."""
    distance = 0.0
    length = 0.0
    for left, right in zip(ours, theirs, strict=True):
        assert left.shape == right.shape
        distance += float((left.double() - right.double()).square().sum())
        length += float(right.double().square().sum())
    return float((distance / length) ** 0.5)


def in_fresh_process(function: Callable[..., _T], *arguments: object) -> _T:
    """Call a function in a new process."""
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory(run: Run) -> float:
    """Peak memory of this process during a run, in MB above its memory before (Linux)."""
    held = _memory("VmRSS")
    # VmHWM starts again at the current memory.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
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
    """Show a progress bar that advances with each tick.

    threads: of torch, meanwhile; None: its own number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    count = itertools.count()
    try:
        with progress_bar(what, total) as advance:
            yield lambda name: advance(next(count), f"{what}: {name}")
    finally:
        torch.set_num_threads(before)


def rows_table(rows: Sequence[BenchRow], title: str) -> Table:
    """Make a table of the rows for a terminal."""
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


def write_json(rows: Sequence[BenchRow], file: Path) -> None:
    """Write the rows as a JSON list; a missing folder is created."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        [dataclasses.asdict(row) for row in rows], indent=1, allow_nan=False
    )
    file.write_text(text + "\n", encoding="utf-8")
