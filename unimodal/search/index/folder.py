"""The folder of embeddings that fills a store: its inputs, from the oldest indexing to the newest.

    NAME.parquet      the vectors and fields of one partition of an input in the list
    _NAME.parquet     the same of a run that did not finish or was refused: not in the list
    _inputs.json      the list: each input with its files, in the order of indexing
    _index.json       the schema of the store
    _skipped.jsonl    what is not in the store, and why
    _removed.jsonl    what was taken out of the store, when and why
    .filled.json      which files are in the store

The list is replaced by one rename once all files of an input are there. So a run that is killed or
refused changes nothing, and the order does not depend on the clock. Readers in Arrow and Spark
ignore names that begin with `_` or `.`: they read the folder as one table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from unimodal.files import PART, replace_text
from unimodal.tables.readers import pyarrow_parquet

INPUTS = "_inputs.json"
HEAD = b"unimodal"  # the key of a file's metadata
FORMAT_VERSION = 1  # of the files and of the list
_STAGED = "_"  # begins the name of a file that is not in the list


@dataclass(frozen=True)
class IndexedInput:
    """An input of a store, as of its last indexing."""

    input: str
    files: tuple[str, ...]  # names in the folder, in the order of the input
    items: int  # without those whose id is that of an earlier item of the input
    skipped: int  # rows
    repeated: int  # of these, rows whose id is that of an item in an earlier file of the input
    indexed: str = ""  # when: UTC, ISO 8601; empty in a folder of an earlier version


def now() -> str:
    """The time as the list has it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def read_inputs(folder: Path) -> list[IndexedInput]:
    """The inputs of a folder, oldest indexing first; none where the folder does not exist.

    A folder of an earlier version has no list: there the first file with an id won, by name.

    Raises ValueError for a list that cannot be read, or that a newer version wrote.
    """
    file = folder / INPUTS
    if not file.is_file():
        return _inputs_without_a_list(folder)
    broken = f"{file} is not a list of inputs; remove the folder, and index the inputs again."
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        version = values["format_version"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(broken) from None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{file} has format {version}, and this version of unimodal reads "
            f"{FORMAT_VERSION}; update unimodal."
        )
    try:
        return [
            IndexedInput(**{**entry, "files": tuple(entry["files"])})
            for entry in values["inputs"]
        ]
    except (TypeError, KeyError):
        raise ValueError(broken) from None


def write_inputs(folder: Path, inputs: Sequence[IndexedInput]) -> None:
    """Replace the list; inputs: oldest indexing first."""
    values = {
        "format_version": FORMAT_VERSION,
        "inputs": [asdict(entry) for entry in inputs],
    }
    replace_text(folder / INPUTS, json.dumps(values, indent=1))


def staged(folder: Path, name: str) -> Path:
    """Where a file lies until its input is in the list."""
    return folder / f"{_STAGED}{name}"


def find_file(folder: Path, name: str) -> Path:
    """Where a file lies now."""
    file = folder / name
    return file if file.is_file() else staged(folder, name)


def publish(folder: Path, inputs: Sequence[IndexedInput]) -> None:
    """Give the files of the list the names under which the folder is read as one table."""
    for entry in inputs:
        for name in entry.files:
            if not (folder / name).is_file() and staged(folder, name).is_file():
                os.replace(staged(folder, name), folder / name)


def unlisted(folder: Path, inputs: Sequence[IndexedInput]) -> dict[str, list[Path]]:
    """The files that are not in the list, by their input; "" for those that cannot be read."""
    listed: set[Path] = set()
    for entry in inputs:
        listed.update(find_file(folder, name) for name in entry.files)
    files: dict[str, list[Path]] = {}
    for file in sorted([*folder.glob("*.parquet"), *folder.glob("*.old")]):
        if file not in listed:
            files.setdefault(read_head(file).get("input", ""), []).append(file)
    return files


def remove_unlisted(
    folder: Path, inputs: Sequence[IndexedInput], names: Sequence[str]
) -> None:
    """Remove the files of these inputs that are not in the list, and half-written files."""
    files = unlisted(folder, inputs)
    for name in {*names, ""}:
        for file in files.get(name, []):
            file.unlink()
    for part in folder.glob(f"*{PART}"):
        part.unlink()


def read_head(file: Path) -> dict[str, Any]:
    """What a file was made of; empty where it is missing, broken or of another version."""
    try:
        metadata = pyarrow_parquet().read_schema(file).metadata or {}
        head = json.loads(metadata.get(HEAD, b"{}"))
    except (OSError, ValueError):  # pyarrow's ArrowInvalid is a ValueError
        return {}
    return dict(head) if head.get("format_version") == FORMAT_VERSION else {}


def read_heads(folder: Path, entry: IndexedInput) -> list[dict[str, Any]]:
    """What each file of an input was made of.

    Raises ValueError for a file that is missing or broken.
    """
    heads = [read_head(find_file(folder, name)) for name in entry.files]
    if not all(heads):
        broken = entry.files[heads.index({})]
        raise ValueError(
            f"{folder} has no readable {broken} of {entry.input} any more; index that input again, "
            "or take it out with --forget."
        )
    return heads


def _inputs_without_a_list(folder: Path) -> list[IndexedInput]:
    heads: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for file in sorted(folder.glob("*.parquet")):
        head = read_head(file)
        # A file with the digest in its name is of a first run that did not finish.
        if head and head["digest"] not in file.name:
            heads.setdefault(head["input"], []).append((file.name, head))
    inputs = []
    for name, of_input in reversed(heads.items()):
        entry = IndexedInput(
            input=name,
            files=tuple(file for file, _ in of_input),
            items=sum(head["items"] for _, head in of_input),
            skipped=sum(len(head["skipped"]) for _, head in of_input),
            repeated=1,  # not known: with 1, they are looked for
        )
        inputs.append(entry)
    return inputs
