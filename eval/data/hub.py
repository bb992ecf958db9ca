"""Tables of repositories of the Hugging Face hub: the files of a split, and their rows.

The front matter of a repository's README.md names the files of each configuration and split
(https://huggingface.co/docs/hub/datasets-manual-configuration); without it the usual places are
searched. Images are not read with their row: a cell of a Parquet file is read when it is needed.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from unimodal.config import nearest
from unimodal.tables.fields import Row
from unimodal.tables.readers import RowsConfig, read_rows

from .inputs import Deferred

READABLE = (".parquet", ".jsonl", ".jsonl.gz", ".json.gz", ".tsv", ".csv", ".json")
# {c} configuration, {s} split; BEIR's own folders first (corpus.jsonl, qrels/test.tsv), then the
# hub's habits.
USUAL_PLACES = (
    "{c}.jsonl",
    "{c}.jsonl.gz",
    "{c}/{s}.*",
    "{c}/{s}-*",
    "{c}/{s}/*",
    "{c}/*-{s}.*",
    "{s}/{c}.*",
    "data/{s}-*",
    "{s}.*",
    "{s}-*",
)


def table_files(folder: Path, configs: list[str], split: str) -> list[Path]:
    """The files of the first of these configurations that the folder has, in their order.

    configs: names for one and the same, such as default and qrels; "" or "default" is the folder
        itself too.
    split: a configuration that has one split only is taken whatever that is called.

    Raises ValueError naming the folder and what it has.
    """
    if not folder.is_dir():
        raise ValueError(
            f"{str(folder)!r} does not exist; fetch the data set or set another data root."
        )
    declared = _declared(folder)
    for config in configs:
        if config in declared:
            return _files_of_config(folder, config, declared[config], split)
    for config in configs:
        for place in USUAL_PLACES:
            if "{c}" not in place and config not in ("", "default"):
                continue
            files = _matching(folder, place.format(c=config, s=split))
            if files:
                return files
        only = [path for path in _matching(folder, f"{config}/*") if config]
        if only and len({_split_of(path) for path in only}) == 1:
            return only
    there = sorted(
        path.name for path in folder.iterdir() if not path.name.startswith(".")
    )
    raise ValueError(
        f"{str(folder)!r} has no table {' or '.join(filter(None, configs)) or 'of rows'} for the "
        f"split {split!r}; it holds {', '.join(there[:8]) or 'nothing'}."
    )


def table_rows(files: list[Path], image: str = "image") -> Iterator[Row]:
    """The rows of the files; a cell of the column `image` is a Deferred, or None."""
    return itertools.chain.from_iterable(_rows_of(path, image) for path in files)


def _declared(folder: Path) -> dict[str, Any]:
    """Configuration -> its data_files, from the front matter of the README."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    parts = text.split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        facts = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise ValueError(
            f"{readme} opens with facts that are not YAML ({' '.join(str(error).split())})."
        ) from None
    configs = facts.get("configs", []) if isinstance(facts, Mapping) else []
    return {
        str(config["config_name"]): config["data_files"]
        for config in configs
        if "data_files" in config
    }


def _files_of_config(
    folder: Path, config: str, data_files: Any, split: str
) -> list[Path]:
    if isinstance(data_files, Mapping):
        data_files = [
            {"split": name, "path": path} for name, path in data_files.items()
        ]
    if isinstance(data_files, str) or not all(
        isinstance(entry, Mapping) for entry in data_files
    ):
        data_files = [{"split": split, "path": data_files}]
    by_split = {str(entry["split"]): entry["path"] for entry in data_files}
    if split not in by_split and len(by_split) > 1:
        raise ValueError(
            f"{config or 'the data'} of {folder} has no split {split!r}; {nearest(split, by_split)}"
        )
    patterns = by_split.get(split, next(iter(by_split.values())))
    patterns = [patterns] if isinstance(patterns, str) else patterns
    # a stranger's patterns; links are not checked, as the hub's cache is made of them
    for pattern in patterns:
        if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts:
            raise ValueError(
                f"{folder}/README.md names {pattern!r}, which is not within its folder; "
                "tell its owner."
            )
    files = list(
        dict.fromkeys(
            path for pattern in patterns for path in _matching(folder, pattern)
        )
    )
    if not files:
        raise ValueError(
            f"{folder} lacks {', '.join(patterns)}, which its README.md names; fetch it again."
        )
    return files


def _matching(folder: Path, pattern: str) -> list[Path]:
    return sorted(
        path
        for path in folder.glob(pattern)
        if path.is_file() and path.name.endswith(READABLE)
    )


def _split_of(path: Path) -> str:
    return path.name.partition(".")[0].partition("-")[0]


def _rows_of(path: Path, image: str) -> Iterator[Row]:
    if path.name.endswith((".jsonl", ".gz")):
        yield from _lines_of_json(path)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path, image)
    else:
        yield from read_rows(RowsConfig(input=str(path)))


def _lines_of_json(path: Path) -> Iterator[Row]:
    """Without the filters of `read_rows`, which a corpus of millions has no use for."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                if line.strip():
                    yield json.loads(line)
    except (
        OSError,
        EOFError,
        ValueError,
    ) as error:  # bad JSON and UTF-8 are ValueErrors
        raise ValueError(f"{path} cannot be read ({error}); fetch it again.") from None


def _parquet_rows(path: Path, image: str) -> Iterator[Row]:
    file = _parquet_file(path)
    columns = [name for name in file.schema_arrow.names if name != image]
    has_images = len(columns) < len(file.schema_arrow.names)
    for group in range(file.num_row_groups):
        rows = file.read_row_group(group, columns=columns).to_pylist()
        there = _images_there(file, group, image, len(rows)) if has_images else ()
        for number, row in enumerate(rows):
            if has_images:
                read = functools.partial(_read_cell, path, group, number, image)
                row[image] = (
                    Deferred(f"{path}:{group}:{number}", read)
                    if there[number]
                    else None
                )
            yield row


def _images_there(file: Any, group: int, image: str, num_rows: int) -> list[bool]:
    """Which rows of a group have an image, read in batches: a group may be gigabytes."""
    there: list[bool] = []
    for batch in file.iter_batches(batch_size=64, row_groups=[group], columns=[image]):
        column = batch.column(0)
        cells = column.field("bytes") if hasattr(column, "field") else column
        valid = cells.is_valid() if column.null_count == 0 else column.is_valid()
        there += valid.to_pylist()
    assert len(there) == num_rows
    return there


def _read_cell(path: Path, group: int, number: int, image: str) -> bytes:
    cell = _cells(path, group, image)[number].as_py()
    content = cell["bytes"] if isinstance(cell, Mapping) else cell
    assert isinstance(content, bytes)
    return content


@functools.lru_cache(maxsize=2)  # images are read in their order, each group once
def _cells(path: Path, group: int, image: str) -> Any:
    return _parquet_file(path).read_row_group(group, columns=[image]).column(0)


def _parquet_file(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImportError(
            'reading Parquet needs pyarrow: pip install "unimodal[eval]"'
        ) from None
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ValueError(
            f"{path} is not a readable Parquet file ({error}); fetch it again."
        ) from None
