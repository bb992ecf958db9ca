"""A partition of an input, and its rows; those of lines and cells are read from its first byte."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import xxhash

from unimodal.preprocess.image_formats import IMAGE_EXTENSIONS
from unimodal.shards.read import ShardSet
from unimodal.shards.sample import Sample, captions_of, record_of
from unimodal.shards.storage import is_remote
from unimodal.tables.fields import Row
from unimodal.tables.files import written_name
from unimodal.tables.readers import (
    cells_of,
    decode_line,
    hub_data_set,
    open_parquet,
    parse_line,
    read_json,
    row_of_cells,
    row_of_text,
    saved_data_set,
)

Kind = Literal[
    "lines", "texts", "cells", "list", "parquet", "data set", "images", "shard"
]


class RawRow(NamedTuple):
    """A row as the input has it, or why it could not be read."""

    number: int  # in the file
    row: Row
    fault: str = ""
    id: str = ""  # of a row that is skipped, where it can be read


@dataclass(frozen=True)
class Partition:
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
    # The rows, where cutting the input has parsed them already; None: they are read when needed.
    parsed: tuple[RawRow, ...] | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Its name as a file: the same for the same rows of the same file.

        It is ASCII, because a name may have 255 bytes, and does not begin with `_` or `.`, because
        Arrow does not read such files.
        """
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", self.label)[-80:].lstrip("_.")
        path = xxhash.xxh32_hexdigest(os.fsencode(self.path))
        return f"{safe}-{path}-{self.first:010d}"

    def __getstate__(self) -> dict[str, Any]:
        """Without the parsed rows: another process reads them from the file."""
        return {**self.__dict__, "parsed": None}


def read_partition(partition: Partition) -> Iterator[RawRow]:
    """The rows of a partition; one that cannot be read says why.

    A row of a folder has `id` and `image`; one of a shard the fields of its .json, and `key`,
    `captions` and `image`.
    """
    if partition.parsed is not None:
        return iter(partition.parsed)
    return _READERS[partition.kind](partition)


def parse_row_of_line(number: int, line: bytes) -> RawRow:
    """A line of JSON as a row."""
    try:
        return RawRow(number, parse_line(line))
    except ValueError as error:
        return RawRow(number, {}, f"the line is {error}")


def parse_row_of_cells(
    number: int, cells: Sequence[str], header: Sequence[str]
) -> RawRow:
    """The cells of a row under a header, as a row."""
    try:
        return RawRow(number, row_of_cells(cells, header))
    except ValueError as error:
        return RawRow(number, {}, str(error))


def _read_lines(partition: Partition) -> Iterator[RawRow]:
    number = partition.first
    last = partition.first + partition.rows
    with Path(partition.path).open("rb") as file:
        file.seek(partition.start)
        while number < last and (line := file.readline()):
            if line.strip():
                yield parse_row_of_line(number, line)
                number += 1


def _read_texts(partition: Partition) -> Iterator[RawRow]:
    number = partition.first
    with Path(partition.path).open("rb") as file:
        file.seek(partition.start)
        while number < partition.first + partition.rows:
            is_first = file.tell() == 0
            row = row_of_text(decode_line(file.readline(), is_first=is_first))
            if row is not None:
                yield RawRow(number, row)
                number += 1


def _read_cells(partition: Partition) -> Iterator[RawRow]:
    path = Path(partition.path)
    with path.open("rb") as file:
        header = next((cells for cells in cells_of(file, path, []) if cells), [])
        file.seek(partition.start)
        rows = (cells for cells in cells_of(file, path, [], at_start=False) if cells)
        wanted = itertools.islice(rows, partition.rows)
        for number, cells in enumerate(wanted, start=partition.first):
            yield parse_row_of_cells(number, cells, header)


def _read_list(partition: Partition) -> Iterator[RawRow]:
    path = Path(partition.path)
    rows = _read_whole_list(path, path.stat().st_mtime_ns)
    last = min(partition.first + partition.rows, len(rows))
    for number in range(partition.first, last):
        yield RawRow(number, rows[number])


@lru_cache(maxsize=1)
def _read_whole_list(path: Path, changed: int) -> Sequence[Row]:
    """The rows of a .json file, which is read whole; changed: the time of its last change."""
    return read_json(path.read_bytes(), path)


def _read_parquet(partition: Partition) -> Iterator[RawRow]:
    file = open_parquet(Path(partition.path))
    return parquet_rows(file, partition.first, partition.rows)


def parquet_rows(file: Any, first: int, count: int) -> Iterator[RawRow]:
    """Rows of an open Parquet file; row groups without any of them are not read."""
    last = first + count
    end = 0
    groups: list[int] = []
    position = 0  # of the first row that is read
    for group in range(file.metadata.num_row_groups):
        begin = end
        end += file.metadata.row_group(group).num_rows
        if end > first and begin < last:
            if not groups:
                position = begin
            groups.append(group)

    # Small batches: a row may hold a whole image.
    for batch in file.iter_batches(batch_size=256, row_groups=groups):
        number = max(position, first)
        wanted = batch.slice(number - position, max(0, last - number))
        position += batch.num_rows
        if position > first:
            for row in wanted.to_pylist():
                yield RawRow(number, row)
                number += 1
        if position >= last:
            return


@lru_cache(maxsize=1)
def data_set(name: str, split: str) -> Any:
    """A Hugging Face data set: hf:NAME, or a folder of save_to_disk."""
    if name.startswith("hf:"):
        return hub_data_set(name, split)
    return saved_data_set(Path(name), split)


def _read_data_set(partition: Partition) -> Iterator[RawRow]:
    rows = data_set(partition.path, partition.split)
    wanted = rows.select(range(partition.first, partition.first + partition.rows))
    for number, row in enumerate(wanted, start=partition.first):
        yield RawRow(number, row)


def _read_images(partition: Partition) -> Iterator[RawRow]:
    for number, name in enumerate(partition.names, start=partition.first):
        yield RawRow(number, {"id": written_name(name), "image": name})


def _read_shard(partition: Partition) -> Iterator[RawRow]:
    path = partition.path
    shard = ShardSet([path if is_remote(path) else Path(path)])
    for number in range(partition.rows):
        sample = shard.read(0, number)
        try:
            yield RawRow(number, _row_of_sample(sample), sample.fault)
        except ValueError as error:
            yield RawRow(number, {}, str(error))
    for reason in shard.truncated.values():
        fault = (
            f"the shard is truncated ({reason}), and the rest is lost; write it again"
        )
        yield RawRow(partition.rows, {}, fault)


def _row_of_sample(sample: Sample) -> Row:
    row: Row = record_of(sample) if "json" in sample.parts else {}
    if "txt" in sample.parts or row.keys() & {"captions", "caption"}:
        row = {**row, "captions": captions_of(sample)}
    row = {**row, "key": sample.key}
    for extension in IMAGE_EXTENSIONS:
        if extension in sample.parts:
            row["image"] = sample.parts[extension]
            break
    return row


_READERS = {
    "lines": _read_lines,
    "texts": _read_texts,
    "cells": _read_cells,
    "list": _read_list,
    "parquet": _read_parquet,
    "data set": _read_data_set,
    "images": _read_images,
    "shard": _read_shard,
}
