"""What became of an item: in the store from which input, or why not."""

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
    """What became of an item: one sentence per input that has or had it, the present state first.

    folder: of the store's embeddings.

    Raises ValueError where no input has or had it, and where a file of an input is missing or
    broken.
    """
    holders = list[IndexedInput]()
    skipped = list[str]()
    for entry in reversed(read_inputs(folder)):
        read_heads(folder, entry)  # raises for a file that cannot be read
        files = [find_file(folder, name) for name in entry.files]
        holding = [file for file in files if _has(file, item)]
        if holding:
            holders.append(entry)
        skipped += _explain_skipped(entry, files, holding, item)
    removed = []
    for note in read_removed(folder):
        if note.id == item:
            source = written_name(note.input) or "input not known"
            removed.append(
                f"{item} was taken out of the store at {note.at}: {note.reason} ({source})."
            )
    lines = _explain_held(store_url, holders, item)
    lines += [*skipped, *reversed(removed)]
    if not lines:
        raise ValueError(
            f"{item!r} is not an item of any input of {store_url}, was not skipped, and is not "
            f"among the last {MOST_LISTED:,} items that were taken out; list the inputs with "
            "`unimodal index --list`."
        )
    return lines


def _explain_held(store_url: str, holders: list[IndexedInput], item: str) -> list[str]:
    """holders: the inputs that have the item, the newest indexing first."""
    if not holders:
        return []
    is_stored = False
    if store_exists(store_url):
        store = open_store(store_url)
        is_stored = bool(store.count(In("id", (item,))))
        store.close()
    newest = _describe(holders[0])
    lines = [f"{item} is in the store, from {newest}."]
    if not is_stored:
        lines = [
            f"{item} is in {newest}, but not in the store yet; run `unimodal index` again."
        ]
    for entry in holders[1:]:
        lines.append(f"{_describe(entry)} has it too, and was indexed before that one.")
    return lines


def _describe(entry: IndexedInput) -> str:
    name = written_name(entry.input)
    return f"{name} (indexed {entry.indexed})" if entry.indexed else name


def _has(file: Path, item: str) -> bool:
    filters = [("id", "==", item)]
    rows = pyarrow_parquet().read_table(file, columns=["id"], filters=filters)
    return bool(rows.num_rows)


def _explain_skipped(
    entry: IndexedInput, files: list[Path], holding: list[Path], item: str
) -> Iterator[str]:
    """holding: the files that have the item."""
    for file in files:
        for line in listed(read_head(file)):
            if line["id"] == item:
                fate = (
                    "is there without its image" if line.get("kept") else "was skipped"
                )
                yield (
                    f"row {line['row']} of {line['file']} of {_describe(entry)} {fate}: "
                    f"{line['reason'].rstrip('.')}."
                )
    if entry.repeated and len(holding) > 1:
        for file in find_repeated(holding, [hash_ids(file) for file in holding]):
            label = read_head(file)["label"]
            yield (
                f"a row of {label} of {_describe(entry)} was skipped: an earlier row of the input "
                "has its id."
            )
