"""What an evaluation is going to encode, and how long that will take, before it does."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from .cache import EmbeddingStore, Part, cost_of
from .data.asked import asked_of
from .data.datasets import TaskData
from .suites import Missing, megabytes_of

MEGABYTES_A_SECOND = 12.5  # 100 Mbit/s
_TIMED = {"text": 16, "image": 4}  # a batch that is timed


@dataclass(frozen=True)
class Needs:
    """Distinct texts and images, with a prompt or without: how many there are, how many are to be
    encoded.
    """

    texts: int
    images: int
    missing_texts: int
    missing_images: int


@dataclass(frozen=True)
class Plan:
    """What each task needs, and all of them together: what two tasks share is encoded once."""

    tasks: dict[str, Needs]
    total: Needs
    seconds: float | None  # to encode what is missing; None: not measured


def plan(
    store: EmbeddingStore, tasks: Mapping[str, TaskData], *, measure: bool = True
) -> Plan:
    """Count what the tasks ask the store to encode.

    measure: encode two small batches of texts and two of images, whose vectors the store keeps,
        and tell from the second ones how long the rest will take. Raises what `EmbeddingStore.fill`
        raises; if an image of these batches cannot be decoded, the error names all that cannot.
    """
    parts = {
        name: store.parts(asked_of(data, store.modalities))
        for name, data in tasks.items()
    }
    needs = {name: _needs(store, some) for name, some in parts.items()}
    parts_of_all = list(
        {part.key: part for some in parts.values() for part in some}.values()
    )
    total = _needs(store, parts_of_all)
    return Plan(needs, total, _seconds(store, parts_of_all) if measure else None)


def said_of(plan: Plan) -> str:
    """The plan in one line."""
    needs = plan.total
    spent = "" if plan.seconds is None else f", about {_words(plan.seconds)}"
    return f"{needs.missing_texts:,} texts and {needs.missing_images:,} images to encode{spent}"


def plan_table(plan: Plan, title: str = "") -> Table:
    """The plan for a terminal."""
    said = f"{title}: {said_of(plan)}" if title else said_of(plan)
    table = Table(
        title=said, box=box.SIMPLE_HEAD, header_style="bold", title_justify="left"
    )
    table.add_column("task", overflow="fold")
    for column in ("texts", "pictures", "texts to encode", "images to encode"):
        table.add_column(column, justify="right")
    for name, needs in plan.tasks.items():
        table.add_row(name, *_numbers(needs))
    table.add_section()
    table.add_row("all, each once", *_numbers(plan.total), style="bold")
    return table


def missing_table(missing: Sequence[Missing], data_root: Path) -> Table:
    """What a suite lacks, task by task, and how long `commands_for` it take, for a terminal."""
    megabytes = megabytes_of(missing)
    size = (
        f"at least {megabytes:,.0f} MB to download: {_words(megabytes / MEGABYTES_A_SECOND)} "
        "at 100 Mbit/s"
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
    for one in missing:
        first, *others = (str(path.relative_to(data_root)) for path in one.paths)
        table.add_row(one.task, first + (f" and {len(others)} more" if others else ""))
    return table


def _needs(store: EmbeddingStore, parts: Sequence[Part]) -> Needs:
    counts = [
        sum(
            part.kind == kind and (not is_missing or not store.knows(part))
            for part in parts
        )
        for is_missing in (False, True)
        for kind in ("text", "image")
    ]
    return Needs(*counts)


def _seconds(store: EmbeddingStore, parts: Sequence[Part]) -> float:
    seconds = 0.0
    for kind, count in _TIMED.items():
        missing = sorted(
            (part for part in parts if part.kind == kind and not store.knows(part)),
            key=cost_of,
        )
        stride = max(1, len(missing) // (2 * count))
        chosen = missing[::stride][: 2 * count]  # of all lengths
        spent = 0.0
        for batch in (chosen[::2], chosen[1::2]):  # the first one warms up
            began = time.perf_counter()
            try:
                store.fill(([part.content], part.prompt) for part in batch)
            except ValueError:
                store.check_images(
                    parts
                )  # one is broken: name all of them now, not one after the other
                raise
            spent = (time.perf_counter() - began) / max(1, sum(map(cost_of, batch)))
        seconds += spent * (sum(map(cost_of, missing)) - sum(map(cost_of, chosen)))
    return seconds


def _numbers(needs: Needs) -> list[str]:
    return [
        f"{count:,}"
        for count in (
            needs.texts,
            needs.images,
            needs.missing_texts,
            needs.missing_images,
        )
    ]


def _words(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
