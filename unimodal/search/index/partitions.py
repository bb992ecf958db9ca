"""An input cut into units: what is embedded at a time, becomes one file, and is redone when a run
was killed in it.

A tar is a unit. A table is cut every `per_unit` rows (a Parquet file where its row groups end), and
a unit of lines or cells knows the byte that it begins at, so that reading it parses nothing before
it. A row group of more than `per_unit` rows is read from its start for each of its units. A unit's
identity changes with its content.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
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
    read_lines,
    table_paths,
)

from .reading import Unit, data_set, whole_list


def find_units(name: str, split: str, per_unit: int) -> list[Unit]:
    """The units of an input, in its order.

    name: an image or a folder of images, a .txt of one text per line, a table or a glob of tables
        (.jsonl, .json, .csv, .tsv, .parquet), a save_to_disk folder, hf:NAME, or WebDataset shards
        (a tar, a folder or glob of tars, a brace pattern, a URL). Hidden files are not part of a
        folder.
    Raises ValueError for what is none of these, saying what was found.
    """
    if name.startswith("hf:"):
        return _of_data_set(name, name, split, per_unit)
    path = Path(name)
    if is_remote(name) or name.rstrip("}").endswith((".tar", *COMPRESSED)):
        return _of_shards(name)
    if path.is_dir():
        return _of_folder(path, split, per_unit)
    if path.is_file() and is_image_name(path):
        return _of_images(path.parent, [path], per_unit)
    paths = table_paths(name, Path())
    labels = _labels(name, paths)
    return [
        unit
        for path, label in zip(paths, labels, strict=True)
        for unit in (
            _of_folder(path, split, per_unit)
            if path.is_dir()
            else _CUTTERS[path.suffix](path, label, per_unit)
        )
    ]


def _labels(name: str, paths: Iterable[Path]) -> list[str]:
    """The paths below the folder that the input names, whichever others it holds."""
    path = Path(name)
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        folder = Path(
            *itertools.takewhile(lambda part: not set(part) & set("*?[{"), path.parts)
        )
    return [
        written_name(Path(os.path.relpath(path, folder)).as_posix()) for path in paths
    ]


def _of_folder(folder: Path, split: str, per_unit: int) -> list[Unit]:
    if any(
        (folder / file).is_file() for file in ("dataset_info.json", "dataset_dict.json")
    ):
        return _of_data_set(str(folder), folder.name, split, per_unit)
    if any(not is_hidden(path.name) for path in folder.glob("*.tar*")):
        return _of_shards(str(folder))
    files = files_below(folder)
    images = [path for path in files if is_image_name(path)]
    if not images:
        endings = sorted({path.suffix for path in files if path.suffix})
        tables = [ending for ending in endings if ending in READERS]
        hint = (
            f"give its tables as {str(folder / ('*' + tables[0]))!r}"
            if tables
            else "give a folder of images"
        )
        found = (
            f"holds {', '.join(endings) or 'files'}, but no image and no .tar"
            if files
            else "is empty"
        )
        raise ValueError(f"{folder} {found}; {hint}, a table or shards.")
    return _of_images(folder, images, per_unit)


def _of_images(folder: Path, images: Sequence[Path], per_unit: int) -> list[Unit]:
    label = written_name(folder.resolve().name)
    units = []
    for first in range(0, len(images), per_unit):
        some = images[first : first + per_unit]
        digest = xxhash.xxh3_128()
        for path in some:
            status = (
                path.stat() if path.exists() else None
            )  # a broken link is an item that is skipped
            state = (
                f"{status.st_size} {status.st_mtime_ns}" if status is not None else ""
            )
            digest.update(os.fsencode(f"{path.relative_to(folder)} {state}\n"))
        names = tuple(path.relative_to(folder).as_posix() for path in some)
        units.append(
            Unit(
                label,
                str(folder),
                "pictures",
                first,
                len(some),
                digest.hexdigest(),
                names=names,
            )
        )
    return units


def _of_shards(pattern: str) -> list[Unit]:
    paths = find_shards(pattern)
    shards = ShardSet(paths, show_progress=None)
    names = [str(path) for path in paths]
    labels = (
        _labels(pattern, map(Path, names)) if not any(map(is_remote, names)) else names
    )
    return [
        Unit(label, name, "shard", 0, rows, digest + contents)
        for label, name, rows, digest, contents in zip(
            labels,
            names,
            shards.num_samples,
            shards.digests,
            shards.contents,
            strict=True,
        )
    ]


def _of_data_set(name: str, label: str, split: str, per_unit: int) -> list[Unit]:
    table = data_set(name, split)
    return [
        Unit(
            label,
            name,
            "data set",
            first,
            min(per_unit, len(table) - first),
            table._fingerprint,
            split=split,
        )
        for first in range(0, len(table), per_unit)
    ]


def _of_lines(path: Path, label: str, per_unit: int) -> list[Unit]:
    """A pass over the bytes, which parses nothing."""
    cutter = _Cutter(Unit(label, str(path), "lines", 0, 0, ""), per_unit)
    with path.open("rb") as file:
        for line in file:
            cutter.add(line, is_row=bool(line.strip()))
    return cutter.units()


def _of_texts(path: Path, label: str, per_unit: int) -> list[Unit]:
    """As of lines; raises ValueError for a line that is not UTF-8: then the file is not."""
    cutter = _Cutter(Unit(label, str(path), "texts", 0, 0, ""), per_unit)
    for line, text in read_lines(path):
        cutter.add(line, is_row=bool(text.strip()))
    return cutter.units()


def _of_cells(path: Path, label: str, per_unit: int) -> list[Unit]:
    """A pass of the csv reader: where a row ends is not to be seen from its lines."""
    cutter = _Cutter(Unit(label, str(path), "cells", 0, 0, ""), per_unit)
    with path.open("rb") as file:
        taken: list[bytes] = []
        for number, row in enumerate(cells_of(file, path, taken)):
            cutter.add(b"".join(taken), is_row=bool(row) and number > 0)
            taken.clear()
    return cutter.units()


def _of_list(path: Path, label: str, per_unit: int) -> list[Unit]:
    rows = whole_list(path, path.stat().st_mtime_ns)
    identity = xxhash.xxh3_128_hexdigest(path.read_bytes())
    return [
        Unit(
            label, str(path), "list", first, min(per_unit, len(rows) - first), identity
        )
        for first in range(0, len(rows), per_unit)
    ]


def _of_parquet(path: Path, label: str, per_unit: int) -> list[Unit]:
    """Whole row groups as long as they fit; a larger one is cut."""
    metadata = open_parquet(path).metadata
    status = path.stat()
    sizes: list[int] = []
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if sizes and sizes[-1] + rows <= per_unit:
            sizes[-1] += rows
        else:
            sizes += [min(per_unit, rows - first) for first in range(0, rows, per_unit)]
    identity = f"{status.st_size} {status.st_mtime_ns}"
    starts = itertools.accumulate(sizes, initial=0)
    return [
        Unit(label, str(path), "parquet", first, rows, identity)
        for first, rows in zip(starts, sizes, strict=False)
    ]


_CUTTERS = {
    ".jsonl": _of_lines,
    ".ndjson": _of_lines,
    ".json": _of_list,
    ".csv": _of_cells,
    ".tsv": _of_cells,
    ".parquet": _of_parquet,
    ".txt": _of_texts,
}


class _Cutter:
    """Cuts a file into units row by row, with a checksum of each one's bytes."""

    def __init__(self, unit: Unit, per_unit: int) -> None:
        self._unit = unit
        self._per_unit = per_unit
        self._done: list[Unit] = []
        self._digest = xxhash.xxh3_128()
        self._position = 0

    def add(self, content: bytes, *, is_row: bool) -> None:
        """The bytes of the next row, or of what is between rows."""
        if is_row and self._unit.rows == self._per_unit:
            self._finish()
        if not (is_row or self._unit.rows):
            self._unit = replace(
                self._unit, start=self._position + len(content)
            )  # a header, or an empty line before
        self._digest.update(content)  # of a header too: it names the values
        self._position += len(content)
        if is_row:
            self._unit = replace(self._unit, rows=self._unit.rows + 1)

    def units(self) -> list[Unit]:
        """What was cut."""
        if self._unit.rows:
            self._finish()
        return self._done

    def _finish(self) -> None:
        unit = replace(self._unit, identity=self._digest.hexdigest())
        self._done.append(unit)
        self._unit = replace(
            unit, first=unit.first + unit.rows, rows=0, start=self._position
        )
        self._digest = xxhash.xxh3_128()
