"""The inputs of a store: listed, taken out, and brought into the store from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimodal.config import nearest
from unimodal.tables.files import written_name

from .fill import Filled, files_by_rank, fill, find_repeated, hash_ids
from .folder import (
    IndexedInput,
    find_file,
    read_head,
    read_heads,
    read_inputs,
    remove_unlisted,
    unlisted,
    write_inputs,
)
from .plan import absolute_input
from .processes import Ranks, alone
from .skipped import listed, write_skipped

_REPEATED = "its id is that of an item in a file before it too"


@dataclass(frozen=True)
class InputState:
    """An input of a store, and how much of it is there."""

    entry: IndexedInput
    in_store: int  # items that no newer input has


def default_folder(store_url: str) -> Path:
    """Where the embeddings of a store go: beside it, not in it, because they outlive it."""
    scheme, colon, place = store_url.partition("://")
    if not colon:
        place = store_url
    elif scheme.startswith("milvus") and not place.startswith("/"):  # a server
        place = "".join(letter if letter.isalnum() else "_" for letter in place)
    path = Path(place.rstrip("/"))
    return path.with_name(path.name.removesuffix(".db") + ".embeddings")


def check_listed(store_url: str, folder: Path) -> None:
    """Raises ValueError where a store has no folder of embeddings."""
    if not folder.is_dir():
        raise ValueError(
            f"{store_url} has no embeddings in {folder}; give their folder with "
            "--embeddings, or index first."
        )


def list_inputs(
    store_url: str, *, embeddings: Path | None = None
) -> tuple[list[InputState], dict[str, int]]:
    """The inputs of a store, oldest indexing first, and the files of runs that did not finish.

    The second result maps the name of an input to a number of files.

    Raises ValueError where a file of an input is missing or broken.
    """
    folder = embeddings or default_folder(store_url)
    check_listed(store_url, folder)
    inputs = read_inputs(folder)
    for entry in inputs:
        read_heads(folder, entry)  # raises for what cannot be read
    files = files_by_rank(folder, inputs)
    left_out = find_repeated(files, [hash_ids(file) for file in files])
    states = []
    for entry in inputs:
        in_store = entry.items
        if entry.indexed:
            in_store += entry.repeated
        for name in entry.files:
            in_store -= len(left_out.get(find_file(folder, name), ()))
        states.append(InputState(entry, in_store))
    unfinished = {
        name: len(of_input)
        for name, of_input in unlisted(folder, inputs).items()
        if name
    }
    return states, unfinished


def forget(
    store_url: str,
    name: str,
    *,
    embeddings: Path | None = None,
    show_progress: bool | None = None,
) -> Filled:
    """Take an input out of a store; items that an older input has too come back as they are there.

    name: as `index` had it, or as `--list` shows it.

    Raises ValueError for an input that is not there, and where a file of another input is missing
    or broken.
    """
    folder = embeddings or default_folder(store_url)
    check_listed(store_url, folder)
    with alone(folder, Ranks()):
        inputs = read_inputs(folder)
        wanted = _find_input(store_url, name, folder, inputs)
        kept = [entry for entry in inputs if entry.input != wanted]
        for entry in kept:
            read_heads(folder, entry)  # raises while nothing has changed
        write_inputs(folder, kept)
        filled = update_store(store_url, folder, show_progress)
        clean_up(folder, inputs, wanted)
    return filled


def _find_input(
    store_url: str, name: str, folder: Path, inputs: Sequence[IndexedInput]
) -> str:
    unfinished = set(unlisted(folder, inputs)) - {""}
    names = [*(entry.input for entry in inputs), *unfinished]
    for candidate in names:
        if name in (candidate, written_name(candidate)):
            return candidate
    if absolute_input(name) in names:
        return absolute_input(name)
    written = [written_name(candidate) for candidate in names]
    raise ValueError(f"{store_url} has no input {name!r}; {nearest(name, written)}")


def update_store(store_url: str, folder: Path, show_progress: bool | None) -> Filled:
    """Bring the store to the state of the folder, and list what is not in it."""
    filled = fill(store_url, folder, show_progress=show_progress)
    list_skipped(folder, read_inputs(folder))
    return filled


def list_skipped(folder: Path, inputs: Sequence[IndexedInput]) -> None:
    """Write the list of what these inputs have that is not in the store."""
    lines: list[dict[str, Any]] = []
    for entry in inputs:
        files = [find_file(folder, name) for name in entry.files]
        heads = {file: read_head(file) for file in files}
        for head in heads.values():
            lines += listed(head)
        if not entry.repeated:
            continue
        repeated = find_repeated(files, [hash_ids(file) for file in files])
        for file, ids in repeated.items():
            for id_ in sorted(ids):
                lines.append(
                    {
                        "input": written_name(entry.input),
                        "file": heads[file]["label"],
                        "row": None,
                        "id": id_,
                        "reason": _REPEATED,
                    }
                )
    write_skipped(folder, lines)


def clean_up(folder: Path, before: Sequence[IndexedInput], name: str) -> None:
    """Remove the files that no input needs any more.

    What an unfinished run over another input has embedded stays.

    before: the inputs before the run.
    name: the input of the run.
    """
    inputs = read_inputs(folder)
    names = {entry.input for entry in inputs}
    gone = [entry.input for entry in before if entry.input not in names]
    remove_unlisted(folder, inputs, [name, *gone])
