"""What became of an item: whether it is in the store, and from which input, or why it is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from unimodal.tables.files import written_name
from unimodal.tables.readers import pyarrow_parquet

from ..filters.tree import In
from ..stores.open import open_store, store_exists
from .fill import find_repeated, hash_ids
from .folder import IndexedInput, find_file, read_head, read_heads, read_inputs
from .removed import MOST_LISTED, read_removed
from .skipped import listed


def explain(store_url: str, folder: Path, item: str) -> list[str]:
    """What became of an item, a sentence for each input that has or had it; first what is so now.

    folder: of the store's embeddings. Raises ValueError where none has or had it, and where a file
    of an input is missing or broken.
    """
    holders = list[IndexedInput]()
    skipped = list[str]()
    for one in reversed(read_inputs(folder)):
        read_heads(folder, one)  # raises for a file that cannot be read
        files = [find_file(folder, name) for name in one.files]
        holding = [file for file in files if _has(file, item)]
        holders += [one] if holding else []
        skipped += _skipped(one, files, holding, item)
    lines = _held(store_url, holders, item)
    removed = [
        f"{item} was taken out of the store at {one.at}: {one.reason} "
        f"({written_name(one.input) or 'not known'})."
        for one in read_removed(folder)
        if one.id == item
    ]
    lines += [*skipped, *reversed(removed)]
    if not lines:
        raise ValueError(
            f"no input of {store_url} has an item {item!r}, skipped one, or is known to have had "
            f"one (the last {MOST_LISTED:,} that were taken out are listed); see its inputs with "
            "`unimodal index --list`."
        )
    return lines


def _held(store_url: str, holders: list[IndexedInput], item: str) -> list[str]:
    """holders: the inputs that have the item, the newest indexing first."""
    if not holders:
        return []
    is_there = False
    if store_exists(store_url):
        store = open_store(store_url)
        is_there = bool(store.count(In("id", (item,))))
        store.close()
    first = f"{item} is in the store, from {_shown(holders[0])}."
    if not is_there:
        first = (
            f"{item} is in {_shown(holders[0])}, but not in the store yet; run `unimodal "
            "index` again."
        )
    rest = [
        f"{_shown(one)} has it too, and was indexed before that one."
        for one in holders[1:]
    ]
    return [first, *rest]


def _shown(one: IndexedInput) -> str:
    name = written_name(one.input)
    return f"{name} (indexed {one.indexed})" if one.indexed else name


def _has(file: Path, item: str) -> bool:
    found = pyarrow_parquet().read_table(
        file, columns=["id"], filters=[("id", "==", item)]
    )
    return bool(found.num_rows)


def _skipped(
    one: IndexedInput, files: list[Path], holding: list[Path], item: str
) -> Iterator[str]:
    """holding: the files that have the item."""
    for file in files:
        for line in listed(read_head(file)):
            if line["id"] == item:
                became = (
                    "is there without its image" if line.get("kept") else "was skipped"
                )
                yield (
                    f"row {line['row']} of {line['file']} of {_shown(one)} {became}: "
                    f"{line['reason'].rstrip('.')}."
                )
    if one.repeated and len(holding) > 1:
        for file in find_repeated(holding, [hash_ids(file) for file in holding]):
            label = read_head(file)["label"]
            yield (
                f"a row of {label} of {_shown(one)} was skipped: an earlier row of the input "
                "has its id."
            )
