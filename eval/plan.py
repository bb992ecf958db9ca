"""What an evaluation will encode, and how long that will take, before it does."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from .cache import CacheItem, EmbeddingCache, cost_of
from .data.inputs import Side
from .data.task_data import TaskData
from .suites import Missing, megabytes_of

MEGABYTES_PER_SECOND = 12.5  # 100 Mbit/s
_NUM_TIMED = {"text": 16, "image": 4}  # of a batch that is timed


@dataclass(frozen=True)
class Counts:
    """Distinct texts and images, with a prompt or without, and how many are to be encoded."""

    texts: int
    images: int
    missing_texts: int
    missing_images: int


@dataclass(frozen=True)
class EncodingPlan:
    """What each task has to encode, and all of them together: shared inputs are encoded once."""

    tasks: dict[str, Counts]
    total: Counts
    seconds: float | None  # to encode what is missing; None: not measured


def make_plan(
    cache: EmbeddingCache, tasks: Mapping[str, TaskData], *, measure: bool = True
) -> EncodingPlan:
    """Count what the tasks have to encode.

    measure: encode two small batches of texts and two of images, whose vectors the cache keeps, and
        estimate from the second ones how long the rest will take. Raises what `EmbeddingCache.fill`
        raises; if an image of these batches cannot be decoded, the error names all that cannot.
    """
    items = {
        name: cache.items(data.inputs_for(cache.modalities))
        for name, data in tasks.items()
    }
    counts = {name: _count(cache, some) for name, some in items.items()}
    distinct = {item.key: item for some in items.values() for item in some}
    all_items = list(distinct.values())
    total = _count(cache, all_items)
    seconds = _measure_seconds(cache, all_items) if measure else None
    return EncodingPlan(counts, total, seconds)


def summarize(plan: EncodingPlan) -> str:
    """The plan in one line."""
    total = plan.total
    seconds = "" if plan.seconds is None else f", about {_duration(plan.seconds)}"
    return f"{total.missing_texts:,} texts and {total.missing_images:,} images to encode{seconds}"


def plan_table(plan: EncodingPlan, title: str = "") -> Table:
    """The plan for a terminal."""
    summary = summarize(plan)
    table = Table(
        title=f"{title}: {summary}" if title else summary,
        box=box.SIMPLE_HEAD,
        header_style="bold",
        title_justify="left",
    )
    table.add_column("task", overflow="fold")
    for column in ("texts", "images", "texts to encode", "images to encode"):
        table.add_column(column, justify="right")
    for name, counts in plan.tasks.items():
        table.add_row(name, *_numbers(counts))
    table.add_section()
    table.add_row("all, each once", *_numbers(plan.total), style="bold")
    return table


def missing_table(missing: Sequence[Missing], data_root: Path) -> Table:
    """What a suite lacks, task by task, and how long the download takes, for a terminal."""
    megabytes = megabytes_of(missing)
    size = (
        f"at least {megabytes:,.0f} MB to download: "
        f"{_duration(megabytes / MEGABYTES_PER_SECOND)} at 100 Mbit/s"
    )
    table = Table(
        "task",
        title=f"not in {data_root}",
        caption=size if megabytes else None,
        box=box.SIMPLE_HEAD,
        header_style="bold",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("missing", overflow="fold")
    for lack in missing:
        first, *others = (str(path.relative_to(data_root)) for path in lack.paths)
        more = f" and {len(others)} more" if others else ""
        table.add_row(lack.task, first + more)
    return table


def _count(cache: EmbeddingCache, items: Sequence[CacheItem]) -> Counts:
    missing = [item for item in items if not cache.knows(item)]
    return Counts(
        texts=sum(item.kind == "text" for item in items),
        images=sum(item.kind == "image" for item in items),
        missing_texts=sum(item.kind == "text" for item in missing),
        missing_images=sum(item.kind == "image" for item in missing),
    )


def _measure_seconds(cache: EmbeddingCache, items: Sequence[CacheItem]) -> float:
    seconds = 0.0
    for kind, count in _NUM_TIMED.items():
        missing = [
            item for item in items if item.kind == kind and not cache.knows(item)
        ]
        missing.sort(key=cost_of)
        stride = max(1, len(missing) // (2 * count))
        chosen = missing[::stride][: 2 * count]  # of all lengths
        seconds_per_cost = 0.0
        for batch in (chosen[::2], chosen[1::2]):  # the first one warms up
            seconds_per_cost = _time_batch(cache, batch, items)
        rest = sum(map(cost_of, missing)) - sum(map(cost_of, chosen))
        seconds += seconds_per_cost * rest
    return seconds


def _time_batch(
    cache: EmbeddingCache, batch: Sequence[CacheItem], items: Sequence[CacheItem]
) -> float:
    """Seconds for one unit of cost."""
    began = time.perf_counter()
    try:
        cache.fill(Side([item.content], item.prompt) for item in batch)
    except ValueError:
        cache.check_images(items)  # one is broken: name all of them now, not one by one
        raise
    return (time.perf_counter() - began) / max(1, sum(map(cost_of, batch)))


def _numbers(counts: Counts) -> list[str]:
    return [
        f"{counts.texts:,}",
        f"{counts.images:,}",
        f"{counts.missing_texts:,}",
        f"{counts.missing_images:,}",
    ]


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
