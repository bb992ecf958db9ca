"""An input cut into partitions, each of which becomes one file, and is redone after a kill.

A tar is a partition. A table is cut every `per_unit` rows (a Parquet file where its row groups
end). A partition of lines or cells knows the byte where it begins, so that reading it parses
nothing before it. A row group of more than `per_unit` rows is read from its start for each of its
partitions. A partition's identity changes with its content.

The rows of a small table are parsed while it is cut, and kept: then the file is read once.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import xxhash

from unimodal.shards.find import COMPRESSED, find_shards
from unimodal.shards.read import ShardSet
from unimodal.shards.storage import is_remote
from unimodal.tables.files import files_below, is_hidden, is_image_name, written_name
from unimodal.tables.readers import (
    READERS,
    cells_of,
    open_parquet,
    read_json,
    read_lines,
    row_of_text,
    table_paths,
)

from .reading import (
    Partition,
    RawRow,
    data_set,
    parquet_rows,
    parse_row_of_cells,
    parse_row_of_line,
)

# Bytes of an input whose rows are kept as they are parsed; as objects they take several times that.
# The rows of what is larger are read again from where each partition begins.
MAX_PARSED_BYTES = 32 * 2**20


def find_partitions(name: str, split: str, per_unit: int) -> list[Partition]:
    """The partitions of an input, in its order.

    name: an image or a folder of images, a .txt of one text per line, a table or a glob of tables
        (.jsonl, .json, .csv, .tsv, .parquet), a save_to_disk folder, hf:NAME, or WebDataset shards
        (a tar, a folder or glob of tars, a brace pattern, a URL). Hidden files are not part of a
        folder.

    Raises ValueError for anything else, naming what it holds.
    """
    if name.startswith("hf:"):
        return _cut_data_set(name, name, split, per_unit)
    path = Path(name)
    if is_remote(name) or name.rstrip("}").endswith((".tar", *COMPRESSED)):
        return _cut_shards(name)
    if path.is_dir():
        return _cut_folder(path, split, per_unit)
    if path.is_file() and is_image_name(path):
        return _cut_images(path.parent, [path], per_unit)

    paths = table_paths(name, Path())
    labels = _labels(name, paths)
    budget = _Budget(MAX_PARSED_BYTES)
    partitions: list[Partition] = []
    for path, label in zip(paths, labels, strict=True):
        if path.is_dir():
            partitions += _cut_folder(path, split, per_unit)
        else:
            cut = _CUTTERS[path.suffix]
            partitions += cut(path, label, per_unit, budget)
    return partitions


def _labels(name: str, paths: Iterable[Path]) -> list[str]:
    """The paths below the folder that the input names, whatever else the folder holds."""
    path = Path(name)
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        plain_parts = itertools.takewhile(
            lambda part: not set(part) & set("*?[{"), path.parts
        )
        folder = Path(*plain_parts)
    return [
        written_name(Path(os.path.relpath(path, folder)).as_posix()) for path in paths
    ]


def _cut_folder(folder: Path, split: str, per_unit: int) -> list[Partition]:
    markers = ("dataset_info.json", "dataset_dict.json")
    if any((folder / marker).is_file() for marker in markers):
        return _cut_data_set(str(folder), folder.name, split, per_unit)
    if any(not is_hidden(path.name) for path in folder.glob("*.tar*")):
        return _cut_shards(str(folder))
    files = files_below(folder)
    images = [path for path in files if is_image_name(path)]
    if not images:
        raise _no_images(folder, files)
    return _cut_images(folder, images, per_unit)


def _no_images(folder: Path, files: Sequence[Path]) -> ValueError:
    endings = sorted({path.suffix for path in files if path.suffix})
    tables = [ending for ending in endings if ending in READERS]
    found = "is empty"
    if files:
        found = f"holds {', '.join(endings) or 'files'}, but no image and no .tar"
    hint = "give a folder of images"
    if tables:
        hint = f"give its tables as {str(folder / ('*' + tables[0]))!r}"
    return ValueError(f"{folder} {found}; {hint}, a table or shards.")


def _cut_images(folder: Path, images: Sequence[Path], per_unit: int) -> list[Partition]:
    label = written_name(folder.resolve().name)
    partitions = []
    for first in range(0, len(images), per_unit):
        paths = images[first : first + per_unit]
        partitions.append(
            Partition(
                label,
                str(folder),
                "images",
                first,
                len(paths),
                _identity_of_images(folder, paths),
                names=tuple(path.relative_to(folder).as_posix() for path in paths),
            )
        )
    return partitions


def _identity_of_images(folder: Path, paths: Sequence[Path]) -> str:
    digest = xxhash.xxh3_128()
    for path in paths:
        state = ""
        if path.exists():  # a broken link is an item that is skipped
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        digest.update(os.fsencode(f"{path.relative_to(folder)} {state}\n"))
    return digest.hexdigest()


def _cut_shards(pattern: str) -> list[Partition]:
    paths = find_shards(pattern)
    shards = ShardSet(paths, show_progress=None)
    names = [str(path) for path in paths]
    labels = names
    if not any(is_remote(name) for name in names):
        labels = _labels(pattern, [Path(name) for name in names])
    return [
        Partition(label, name, "shard", 0, rows, digest + contents)
        for label, name, rows, digest, contents in zip(
            labels,
            names,
            shards.num_samples,
            shards.digests,
            shards.contents,
            strict=True,
        )
    ]


def _cut_data_set(name: str, label: str, split: str, per_unit: int) -> list[Partition]:
    table = data_set(name, split)
    identity = table._fingerprint
    partitions = []
    for first in range(0, len(table), per_unit):
        rows = min(per_unit, len(table) - first)
        partitions.append(
            Partition(label, name, "data set", first, rows, identity, split=split)
        )
    return partitions


class _Budget:
    """How much of an input may still be kept as parsed rows."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes

    def take(self, num_bytes: int) -> bool:
        """Whether this much more may be kept; once it may not, nothing more may."""
        self._num_bytes -= num_bytes
        return self._num_bytes >= 0


def _cut_lines(
    path: Path, label: str, per_unit: int, budget: _Budget
) -> list[Partition]:
    cutter = _Cutter(Partition(label, str(path), "lines", 0, 0, ""), per_unit, budget)
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                cutter.add_other(line)
                continue
            number = cutter.add_row(line)
            if cutter.keeps_rows:
                cutter.keep(parse_row_of_line(number, line))
    return cutter.partitions()


def _cut_texts(
    path: Path, label: str, per_unit: int, budget: _Budget
) -> list[Partition]:
    """Raises ValueError for a line that is not UTF-8: then the file is not."""
    cutter = _Cutter(Partition(label, str(path), "texts", 0, 0, ""), per_unit, budget)
    for line, text in read_lines(path):
        row = row_of_text(text)
        if row is None:
            cutter.add_other(line)
            continue
        number = cutter.add_row(line)
        if cutter.keeps_rows:
            cutter.keep(RawRow(number, row))
    return cutter.partitions()


def _cut_cells(
    path: Path, label: str, per_unit: int, budget: _Budget
) -> list[Partition]:
    """A pass of the csv reader: a cell may hold line breaks, so lines do not tell rows apart."""
    cutter = _Cutter(Partition(label, str(path), "cells", 0, 0, ""), per_unit, budget)
    header: list[str] = []
    lines: list[bytes] = []
    with path.open("rb") as file:
        for cells in cells_of(file, path, lines):
            content = b"".join(lines)
            lines.clear()
            if not header or not cells:
                cutter.add_other(content)
                header = header or cells
                continue
            number = cutter.add_row(content)
            if cutter.keeps_rows:
                cutter.keep(parse_row_of_cells(number, cells, header))
    return cutter.partitions()


def _cut_list(
    path: Path, label: str, per_unit: int, budget: _Budget
) -> list[Partition]:
    """A .json file is read whole to be cut, so its rows are kept whatever their size."""
    content = path.read_bytes()
    rows = [RawRow(number, row) for number, row in enumerate(read_json(content, path))]
    identity = xxhash.xxh3_128_hexdigest(content)
    partitions = []
    for first in range(0, len(rows), per_unit):
        parsed = tuple(rows[first : first + per_unit])
        partitions.append(
            Partition(
                label, str(path), "list", first, len(parsed), identity, parsed=parsed
            )
        )
    return partitions


def _cut_parquet(
    path: Path, label: str, per_unit: int, budget: _Budget
) -> list[Partition]:
    """Whole row groups as long as they fit; a larger one is cut."""
    file = open_parquet(path)
    status = path.stat()
    identity = f"{status.st_size} {status.st_mtime_ns}"
    sizes: list[int] = []
    num_bytes = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        num_bytes += file.metadata.row_group(group).total_byte_size  # not compressed
        if sizes and sizes[-1] + rows <= per_unit:
            sizes[-1] += rows
        else:
            sizes += [min(per_unit, rows - first) for first in range(0, rows, per_unit)]

    rows_of_file: list[RawRow] | None = None
    if budget.take(num_bytes):
        rows_of_file = list(parquet_rows(file, 0, sum(sizes)))
    partitions = []
    first = 0
    for rows in sizes:
        parsed = (
            None if rows_of_file is None else tuple(rows_of_file[first : first + rows])
        )
        partitions.append(
            Partition(label, str(path), "parquet", first, rows, identity, parsed=parsed)
        )
        first += rows
    return partitions


_CUTTERS: dict[str, Callable[[Path, str, int, _Budget], list[Partition]]] = {
    ".jsonl": _cut_lines,
    ".ndjson": _cut_lines,
    ".json": _cut_list,
    ".csv": _cut_cells,
    ".tsv": _cut_cells,
    ".parquet": _cut_parquet,
    ".txt": _cut_texts,
}


class _Cutter:
    """Cuts a file into partitions row by row, with a checksum of the bytes of each."""

    def __init__(self, template: Partition, per_unit: int, budget: _Budget) -> None:
        """template: a partition of the file, of which the rows are filled in."""
        self._template = template
        self._per_unit = per_unit
        self._budget = budget
        self._done: list[Partition] = []
        self._position = 0
        self._begin(first=0)

    def _begin(self, first: int) -> None:
        self._first = first
        self._rows = 0
        self._start = self._position
        self._digest = xxhash.xxh3_128()
        self._parsed: list[RawRow] = []
        self.keeps_rows = True  # of this partition; once the budget is spent, none

    def add_row(self, content: bytes) -> int:
        """Add a row by its bytes -> its number."""
        if self._rows == self._per_unit:
            self._finish()
        number = self._first + self._rows
        self._rows += 1
        self._add(content)
        if not self._budget.take(len(content)):
            self.keeps_rows = False
            self._parsed.clear()
        return number

    def keep(self, row: RawRow) -> None:
        """Keep the row that was added last, parsed."""
        self._parsed.append(row)

    def add_other(self, content: bytes) -> None:
        """Add the bytes of a header or of an empty line."""
        if not self._rows:
            self._start = self._position + len(content)
        self._add(content)

    def partitions(self) -> list[Partition]:
        """All partitions of the file, at its end."""
        if self._rows:
            self._finish()
        return self._done

    def _add(self, content: bytes) -> None:
        self._digest.update(content)  # of a header too: it names the values
        self._position += len(content)

    def _finish(self) -> None:
        partition = replace(
            self._template,
            first=self._first,
            rows=self._rows,
            start=self._start,
            identity=self._digest.hexdigest(),
            parsed=tuple(self._parsed) if self.keeps_rows else None,
        )
        self._done.append(partition)
        self._begin(first=self._first + self._rows)
