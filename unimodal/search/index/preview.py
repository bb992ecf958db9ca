"""What indexing an input would do to a store: it is read and decoded, but not embedded, and nothing
is written.

n items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from unimodal.progress import progress_bar
from unimodal.tables.readers import pyarrow_parquet

from .embed import Job, Plan, known_before, prepare
from .folder import IndexedInput, find_file, read_head
from .reuse import CONTENT, content_of
from .skipped import Skipped

Hashes = NDArray[np.uint64]  # (n,)


@dataclass(frozen=True)
class Preview:
    """What would become of a store and of the rows of an input."""

    new: int  # items that the store has not
    changed: int
    same: int
    removed: int  # items that would be taken out of the store
    rows: int  # of the input
    skipped: int  # of them
    without_image: int  # items whose image cannot be read
    embedded: int  # items that would go through the model
    first_reason: str  # of the first row that is skipped or has no image; empty where there is none
    hashes: Hashes = field(repr=False)  # of the ids of the input
    refused: str = (
        ""  # why `index` would leave the store as it is; empty where it would not
    )


class _Items(NamedTuple):
    """Hashes of the ids of some items, and of what each of them is without its vectors."""

    ids: Hashes
    states: Hashes


def preview(
    plan: Plan,
    jobs: Sequence[Job],
    there: Sequence[IndexedInput],
    others: Sequence[IndexedInput],
    show_progress: bool | None,
) -> Preview:
    """What would become of a store.

    there: the inputs that it is made of, oldest first. others: those that would stay beside this
        one.
    """
    before = known_before(plan)
    parts = list[_Items]()
    faults = list[Skipped]()
    embedded = 0
    done = 0
    with progress_bar(
        "reading", sum(job.unit.rows for job in jobs), show_progress
    ) as advance:
        for job in jobs:
            for chunk in prepare(plan, job.unit):
                table = _as_in_a_file(chunk.table)
                contents = table[CONTENT].to_pylist()
                embedded += sum(one is None for one in before.vectors(contents))
                parts.append(_items_of(table, plan.model))
                faults += chunk.skipped
                done += chunk.rows
                advance(done)
    mine = _joined(parts)
    own = _first_of_each(mine)
    old = _first_of_each(_joined(_of_inputs(plan.folder, there)))
    now = _first_of_each(_joined([own, *_of_inputs(plan.folder, others)]))
    is_there = np.isin(now.ids, old.ids)
    same = int(
        (
            now.states[is_there]
            == old.states[np.searchsorted(old.ids, now.ids[is_there])]
        ).sum()
    )
    without_image = sum(one.kept for one in faults)
    skipped = len(faults) - without_image
    repeated = len(mine.ids) - len(own.ids)
    return Preview(
        new=int((~is_there).sum()),
        changed=int(is_there.sum()) - same,
        same=same,
        removed=int((~np.isin(old.ids, now.ids)).sum()),
        rows=len(mine.ids) + skipped,
        skipped=skipped + repeated,
        without_image=without_image,
        embedded=embedded,
        first_reason=faults[0].reason if faults else "",
        hashes=own.ids,
    )


def _of_inputs(folder: Path, inputs: Sequence[IndexedInput]) -> Iterator[_Items]:
    """The items of inputs, those of the newest first."""
    for one in reversed(inputs):
        for name in one.files:
            file = find_file(folder, name)
            head = read_head(file)
            if not head:  # missing or broken: it will be made again
                continue
            columns = pyarrow_parquet().read_schema(file).names
            wanted = [column for column in columns if not column.startswith("vector_")]
            table = pyarrow_parquet().read_table(file, columns=wanted)
            yield _items_of(table, head["model"])


def _as_in_a_file(table: Any) -> Any:
    """The table of a chunk with what the model would see of an item as the column that a file has
    of it.
    """
    import pyarrow as pa

    pairs = zip(table["_text"].to_pylist(), table["_pixels"].to_pylist(), strict=True)
    contents = [content_of(text, pixels) for text, pixels in pairs]
    return table.drop_columns(["_text", "_pixels"]).append_column(
        CONTENT, pa.array(contents, pa.binary(16))
    )


def _items_of(table: Any, model: str) -> _Items:
    rows = table.select(sorted(table.column_names)).to_pylist()
    ids = [xxhash.xxh3_64_intdigest(row["id"].encode()) for row in rows]
    states = [xxhash.xxh3_64_intdigest(f"{model} {row!r}".encode()) for row in rows]
    return _Items(np.array(ids, np.uint64), np.array(states, np.uint64))


def _joined(parts: Sequence[_Items] | Iterator[_Items]) -> _Items:
    every = [_Items(np.zeros(0, np.uint64), np.zeros(0, np.uint64)), *parts]
    return _Items(
        np.concatenate([one.ids for one in every]),
        np.concatenate([one.states for one in every]),
    )


def _first_of_each(items: _Items) -> _Items:
    """Of items with one id the first, in the order of the hashes of the ids."""
    ids, rows = np.unique(items.ids, return_index=True)
    return _Items(ids, items.states[rows])
