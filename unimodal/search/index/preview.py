"""What indexing an input would do to a store: it is read and decoded, not embedded or written.

n items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from unimodal.progress import progress_bar
from unimodal.tables.readers import pyarrow_parquet

from .decode import decode_partition
from .embed import known_vectors
from .folder import IndexedInput, find_file, read_head
from .plan import Job, Plan
from .reuse import CONTENT, content_of
from .skipped import Skipped

Hashes = NDArray[np.uint64]  # (n,)


@dataclass(frozen=True)
class Preview:
    """What would become of a store and of the rows of an input."""

    new: int  # items that the store does not have
    changed: int
    same: int
    removed: int  # items that would be taken out of the store
    rows: int  # of the input
    skipped: int  # of them
    without_image: int  # items whose image cannot be read
    embedded: int  # items that would go through the model
    # of the first row that is skipped or has no image; empty if there is none
    first_reason: str
    hashes: Hashes = field(repr=False)  # of the ids of the input
    # why `index` would leave the store as it is; empty where it would not
    refused: str = ""


class _Items(NamedTuple):
    """Hashes of the ids of some items, and of what each of them is without its vectors."""

    ids: Hashes
    states: Hashes


class _Read(NamedTuple):
    """An input, read and decoded."""

    items: _Items
    faults: list[Skipped]
    num_embedded: int


def preview(
    plan: Plan,
    jobs: Sequence[Job],
    in_store: Sequence[IndexedInput],
    others: Sequence[IndexedInput],
    show_progress: bool | None,
) -> Preview:
    """What would become of a store.

    in_store: the inputs that it is made of, oldest first.
    others: those that would stay beside this one.
    """
    read = _read_input(plan, jobs, show_progress)
    own = _first_of_each(read.items)
    before = _first_of_each(_joined(_of_inputs(plan.folder, in_store)))
    after = _first_of_each(_joined([own, *_of_inputs(plan.folder, others)]))

    is_known = np.isin(after.ids, before.ids)
    rows = np.searchsorted(before.ids, after.ids[is_known])
    same = int((after.states[is_known] == before.states[rows]).sum())

    without_image = sum(fault.kept for fault in read.faults)
    skipped = len(read.faults) - without_image
    repeated = len(read.items.ids) - len(own.ids)
    return Preview(
        new=int((~is_known).sum()),
        changed=int(is_known.sum()) - same,
        same=same,
        removed=int((~np.isin(before.ids, after.ids)).sum()),
        rows=len(read.items.ids) + skipped,
        skipped=skipped + repeated,
        without_image=without_image,
        embedded=read.num_embedded,
        first_reason=read.faults[0].reason if read.faults else "",
        hashes=own.ids,
    )


def _read_input(plan: Plan, jobs: Sequence[Job], show_progress: bool | None) -> _Read:
    known = known_vectors(plan)
    parts: list[_Items] = []
    faults: list[Skipped] = []
    num_embedded = 0
    num_rows = 0
    total = sum(job.partition.rows for job in jobs)
    with progress_bar("reading", total, show_progress) as advance:
        for job in jobs:
            for block in decode_partition(plan, job.partition):
                table = _as_in_a_file(block.table)
                vectors = known.vectors(table[CONTENT].to_pylist())
                num_embedded += vectors.count(None)
                parts.append(_items_of(table, plan.model))
                faults += block.skipped
                num_rows += block.rows
                advance(num_rows)
    return _Read(_joined(parts), faults, num_embedded)


def _of_inputs(folder: Path, inputs: Sequence[IndexedInput]) -> Iterator[_Items]:
    """The items of inputs, those of the newest first."""
    for entry in reversed(inputs):
        for name in entry.files:
            file = find_file(folder, name)
            head = read_head(file)
            if not head:  # missing or broken: it will be made again
                continue
            columns = pyarrow_parquet().read_schema(file).names
            wanted = [column for column in columns if not column.startswith("vector_")]
            table = pyarrow_parquet().read_table(file, columns=wanted)
            yield _items_of(table, head["model"])


def _as_in_a_file(table: Any) -> Any:
    """The table of a block as a file of embeddings has it, without the vectors."""
    import pyarrow as pa

    pairs = zip(table["_text"].to_pylist(), table["_pixels"].to_pylist(), strict=True)
    contents = [content_of(text, pixels) for text, pixels in pairs]
    table = table.drop_columns(["_text", "_pixels"])
    return table.append_column(CONTENT, pa.array(contents, pa.binary(16)))


def _items_of(table: Any, model: str) -> _Items:
    rows = table.select(sorted(table.column_names)).to_pylist()
    ids = [xxhash.xxh3_64_intdigest(row["id"].encode()) for row in rows]
    states = [xxhash.xxh3_64_intdigest(f"{model} {row!r}".encode()) for row in rows]
    return _Items(np.array(ids, np.uint64), np.array(states, np.uint64))


def _joined(parts: Iterable[_Items]) -> _Items:
    nothing = np.zeros(0, np.uint64)
    every = [_Items(nothing, nothing), *parts]
    return _Items(
        np.concatenate([part.ids for part in every]),
        np.concatenate([part.states for part in every]),
    )


def _first_of_each(items: _Items) -> _Items:
    """The first of the items with one id, in the order of the hashes of the ids."""
    ids, rows = np.unique(items.ids, return_index=True)
    return _Items(ids, items.states[rows])
