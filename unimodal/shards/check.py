"""Read every sample of a set of shards: what they hold, and all that is broken."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from unimodal.preprocess.images import load_image

from ..preprocess.image_formats import IMAGE_EXTENSIONS
from ..progress import progress_bar
from .config import StorageConfig
from .find import Location, find_shards
from .read import ShardSet
from .sample import Sample, captions_of, image_bytes_of, text_pair_of

Spread = dict[str, float]  # count, min, median, p95, max


class Broken(NamedTuple):
    """A sample, or where key is "" a whole shard, that cannot be used, and why."""

    shard: str
    key: str
    reason: str


@dataclass(frozen=True)
class CheckReport:
    """What a set of shards holds.

    `measures` are "width", "height", and characters and words of each kind of text.
    """

    shards: int
    samples: int
    bytes: int  # of the samples' parts
    kinds: dict[str, int]
    measures: dict[str, Spread]
    duplicate_keys: dict[str, int]  # key -> how many samples have it
    broken: list[Broken] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """0 if everything can be used, else 1."""
        return 1 if self.broken else 0

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {**asdict(self), "broken": [entry._asdict() for entry in self.broken]}


class _Finding(NamedTuple):
    key: str
    kind: str
    num_bytes: int
    measures: list[tuple[str, int]]
    reasons: list[str]


def check(
    pattern: str | Path,
    show_progress: bool | None = None,
    storage: StorageConfig | None = None,
) -> CheckReport:
    """Read all samples, decode every image whole and parse every text.

    Raises ValueError if there is no shard.
    """
    storage = storage or StorageConfig()
    paths = find_shards(pattern, storage.patience)
    broken: list[Broken] = []
    shards = ShardSet(_readable(paths, broken, storage), storage=storage)
    kinds = Counter[str]()
    keys = Counter[str]()
    num_bytes = 0
    measures: defaultdict[str, array[int]] = defaultdict(lambda: array("q"))
    done = 0
    # Threads, not processes: decoding releases the lock, and findings keep the order of the
    # samples.
    with (
        progress_bar("checking", len(shards), show_progress) as advance,
        ThreadPoolExecutor() as pool,
    ):
        for shard, path in enumerate(shards.paths):
            numbers = range(shards.num_samples[shard])
            for finding in pool.map(partial(_inspect, shards, shard), numbers):
                kinds[finding.kind] += 1
                keys[finding.key] += 1
                num_bytes += finding.num_bytes
                for name, value in finding.measures:
                    measures[name].append(value)
                broken += [
                    Broken(str(path), finding.key, reason) for reason in finding.reasons
                ]
                advance(done := done + 1)
    return CheckReport(
        shards=len(paths),
        samples=done,
        bytes=num_bytes,
        kinds=dict(kinds),
        measures={name: _spread(values) for name, values in sorted(measures.items())},
        duplicate_keys={key: count for key, count in keys.items() if count > 1},
        broken=broken,
    )


def render(report: CheckReport, max_listed: int = 50) -> RenderableType:
    """The report as tables for rich.print."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.items())
    title = (
        f"{report.samples:,} samples in {report.shards:,} shards, {report.bytes / 1e6:,.1f} "
        f"MB: {kinds or 'nothing'}"
    )
    measures = Table("", "count", "min", "median", "95 %", "max", title=title)
    for name, spread in report.measures.items():
        measures.add_row(name, *(f"{value:,.0f}" for value in spread.values()))
    tables: list[RenderableType] = [measures]
    if report.duplicate_keys:
        tables.append(
            _listing(
                "duplicate keys",
                ("key", "samples"),
                list(report.duplicate_keys.items()),
                max_listed,
            )
        )
    if report.broken:
        tables.append(
            _listing("broken", ("shard", "key", "reason"), report.broken, max_listed)
        )
    return Group(*tables)


def _listing(
    title: str, header: Sequence[str], rows: Sequence[tuple[Any, ...]], max_listed: int
) -> Table:
    rest = f", the first {max_listed} of them" if len(rows) > max_listed else ""
    table = Table(title=f"{len(rows):,} {title}{rest}")
    for name in header:
        table.add_column(name, overflow="fold")  # the ends of paths tell shards apart
    for row in rows[:max_listed]:
        table.add_row(*map(str, row))
    return table


def _readable(
    paths: Sequence[Location], broken: list[Broken], storage: StorageConfig
) -> list[Location]:
    readable = []
    for path in paths:
        try:
            truncated = ShardSet([path], storage=storage).truncated
        except (ValueError, OSError) as error:
            broken.append(Broken(str(path), "", str(error)))
            continue
        readable.append(path)
        broken += [
            Broken(str(path), "", f"truncated: {reason}")
            for reason in truncated.values()
        ]
    return readable


def _inspect(shards: ShardSet, shard: int, number: int) -> _Finding:
    try:
        sample = shards.read(shard, number)
    except OSError as error:
        return _Finding(shards.key(shard, number), "unreadable", 0, [], [str(error)])
    if not sample.parts.keys().isdisjoint(IMAGE_EXTENSIONS):
        kind = "image-caption"
        inspections = [_inspect_image, _inspect_captions]
    elif "json" in sample.parts:
        kind = "text-pair"
        inspections = [_inspect_pair]
    else:
        kind = "unknown"
        inspections = [_inspect_image]
    measures: list[tuple[str, int]] = []
    reasons = [sample.fault] if sample.fault else []
    for inspect in inspections:
        try:
            measures += inspect(sample)
        except ValueError as error:
            reasons.append(str(error))
    return _Finding(
        sample.key, kind, sum(map(len, sample.parts.values())), measures, reasons
    )


def _inspect_image(sample: Sample) -> list[tuple[str, int]]:
    image = load_image(image_bytes_of(sample))
    return [("width", image.width), ("height", image.height)]


def _inspect_captions(sample: Sample) -> list[tuple[str, int]]:
    measures: list[tuple[str, int]] = []
    for caption in captions_of(sample):
        measures += _lengths("caption", caption)
    return measures


def _inspect_pair(sample: Sample) -> list[tuple[str, int]]:
    pair = text_pair_of(sample)
    texts = [
        ("query", pair.query),
        ("document", pair.document),
        *(("negative", text) for text in pair.negatives),
    ]
    measures: list[tuple[str, int]] = []
    for name, text in texts:
        measures += _lengths(name, text)
    return measures


def _lengths(name: str, text: str) -> list[tuple[str, int]]:
    return [(f"{name}, characters", len(text)), (f"{name}, words", len(text.split()))]


def _spread(values: Sequence[int]) -> Spread:
    low, median, p95, high = np.percentile(np.asarray(values), (0, 50, 95, 100))
    return {
        "count": len(values),
        "min": float(low),
        "median": float(median),
        "p95": float(p95),
        "max": float(high),
    }
