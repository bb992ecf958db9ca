"""A unit of an input, and its rows; those of lines and cells are read from the byte where it
begins.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import xxhash

from unimodal.shards.read import ShardSet
from unimodal.shards.sample import Sample, captions_of, record_of
from unimodal.shards.storage import is_remote
from unimodal.tables.fields import Row
from unimodal.tables.files import IMAGE_EXTENSIONS, written_name
from unimodal.tables.readers import (
    READERS,
    cells_of,
    decode_line,
    hub_data_set,
    open_parquet,
    parse_line,
    saved_data_set,
    wrong_number,
)

Kind = Literal[
    "lines", "texts", "cells", "list", "parquet", "data set", "pictures", "shard"
]


@dataclass(frozen=True)
class Unit:
    """Some consecutive rows of one file, or some images of a folder."""

    label: str  # the file's name below the input
    path: str
    kind: Kind
    first: int  # row of the file
    rows: int
    identity: str  # of the content
    start: int = 0  # the byte where the first row begins, of lines and cells
    split: str = ""  # of a data set
    names: tuple[str, ...] = ()  # of images

    @property
    def name(self) -> str:
        """Its name as a file: the same for the same rows of the same file.

        Of ASCII, for a name may have 255 bytes; and what begins with `_` or `.` is not read by
        Arrow.
        """
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", self.label)[-80:].lstrip("_.")
        return (
            f"{safe}-{xxhash.xxh32_hexdigest(os.fsencode(self.path))}-{self.first:010d}"
        )


class RawRow(NamedTuple):
    """A row as the input has it, or why it could not be read."""

    number: int  # in the file
    row: Row
    fault: str = ""
    id: str = ""  # of a row that is skipped, where it can be read


def read_unit(unit: Unit) -> Iterator[RawRow]:
    """The rows of a unit; one that cannot be read says why.

    A row of a folder has `id` and `image`; one of a shard the fields of its .json, and `key`,
    `captions` and `image`.
    """
    return _READERS[unit.kind](unit)


def _read_lines(unit: Unit) -> Iterator[RawRow]:
    number = unit.first
    with Path(unit.path).open("rb") as file:
        file.seek(unit.start)
        while number < unit.first + unit.rows and (line := file.readline()):
            if line.strip():
                yield _parsed(number, line)
                number += 1


def _parsed(number: int, line: bytes) -> RawRow:
    try:
        return RawRow(number, parse_line(line))
    except ValueError as error:
        return RawRow(number, {}, f"the line is {error}")


def _read_texts(unit: Unit) -> Iterator[RawRow]:
    number = unit.first
    with Path(unit.path).open("rb") as file:
        file.seek(unit.start)
        while number < unit.first + unit.rows:
            is_first = file.tell() == 0
            text = decode_line(file.readline(), is_first=is_first).strip()
            if text:
                yield RawRow(number, {"text": text})
                number += 1


def _read_cells(unit: Unit) -> Iterator[RawRow]:
    path = Path(unit.path)
    with path.open("rb") as file:
        header = next(cells_of(file, path, []), [])
        file.seek(unit.start)
        rows = (row for row in cells_of(file, path, [], at_start=False) if row)
        for number, row in enumerate(
            itertools.islice(rows, unit.rows), start=unit.first
        ):
            if len(row) == len(header):
                yield RawRow(number, dict(zip(header, row, strict=True)))
            else:
                yield RawRow(number, {}, wrong_number(row, header))


@lru_cache(maxsize=1)
def whole_list(path: Path, changed: int) -> list[Any]:
    """A .json file of any size is read as one; changed: the time of its last change."""
    return list(READERS[".json"](path))


def _read_list(unit: Unit) -> Iterator[RawRow]:
    path = Path(unit.path)
    rows = whole_list(path, path.stat().st_mtime_ns)
    for number in range(unit.first, min(unit.first + unit.rows, len(rows))):
        yield RawRow(number, rows[number])


def _read_parquet(unit: Unit) -> Iterator[RawRow]:
    file = open_parquet(Path(unit.path))
    position = 0
    last = unit.first + unit.rows
    groups = list[int]()
    start = 0  # row of the first group that is read
    for group in range(file.metadata.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if position + size > unit.first and position < last:
            start = position if not groups else start
            groups.append(group)
        position += size
    position = start
    for batch in file.iter_batches(
        batch_size=256, row_groups=groups
    ):  # small: a row may hold a whole image
        wanted = batch.slice(
            max(0, unit.first - position), max(0, last - max(position, unit.first))
        )
        number = max(position, unit.first)
        position += batch.num_rows
        for row in wanted.to_pylist() if position > unit.first else ():
            yield RawRow(number, row)
            number += 1
        if position >= last:
            return


@lru_cache(maxsize=1)
def data_set(name: str, split: str) -> Any:
    return (
        hub_data_set(name, split)
        if name.startswith("hf:")
        else saved_data_set(Path(name), split)
    )


def _read_data_set(unit: Unit) -> Iterator[RawRow]:
    rows = data_set(unit.path, unit.split).select(
        range(unit.first, unit.first + unit.rows)
    )
    for number, row in enumerate(rows, start=unit.first):
        yield RawRow(number, row)


def _read_images(unit: Unit) -> Iterator[RawRow]:
    for number, name in enumerate(unit.names, start=unit.first):
        yield RawRow(number, {"id": written_name(name), "image": name})


def _read_shard(unit: Unit) -> Iterator[RawRow]:
    shard = ShardSet([unit.path if is_remote(unit.path) else Path(unit.path)])
    for number in range(unit.rows):
        sample = shard.read(0, number)
        try:
            yield RawRow(number, _row_of(sample), sample.fault)
        except ValueError as error:
            yield RawRow(number, {}, str(error))
    for reason in shard.truncated.values():
        yield RawRow(
            unit.rows,
            {},
            f"the shard is truncated ({reason}), and what followed is lost; write it again",
        )


def _row_of(sample: Sample) -> Row:
    row: Row = record_of(sample) if "json" in sample.parts else {}
    if "txt" in sample.parts or row.keys() & {"captions", "caption"}:
        row = {**row, "captions": captions_of(sample)}
    image = next(
        (sample.parts[name] for name in IMAGE_EXTENSIONS if name in sample.parts), None
    )
    return {
        **row,
        "key": sample.key,
        **({"image": image} if image is not None else {}),
    }


_READERS = {
    "lines": _read_lines,
    "texts": _read_texts,
    "cells": _read_cells,
    "list": _read_list,
    "parquet": _read_parquet,
    "data set": _read_data_set,
    "pictures": _read_images,
    "shard": _read_shard,
}
