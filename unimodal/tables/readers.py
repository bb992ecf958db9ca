"""Rows of a table from any common file, joined and filtered.

A field may reach into a nested value with dots: `names.de` is row["names"]["de"].
"""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pydantic import Field, field_validator, model_validator

from unimodal.config import Config, nearest
from unimodal.json_text import name_kind, parse_json
from unimodal.tables.fields import (
    Row,
    field_of,
    has_field,
    is_missing,
    missing_field,
    value_of,
    without_point,
)
from unimodal.tables.files import is_hidden, is_image_name

# Characters; the csv module stops at 131,072, and a page of HTML or base64 has more.
_LONGEST_CELL = 2**31 - 1


class RowsConfig(Config):
    """A table and which of its rows are wanted."""

    input: str
    """Table (.jsonl, .json, .csv, .tsv, .parquet, .txt), glob, save_to_disk folder or hf:NAME."""
    split: str = "train"
    """Split of a Hugging Face data set."""
    join: dict[str, str] = Field({})
    """Field: "FILE:COLUMN" replaces its value by the row of FILE with that COLUMN."""
    where: dict[str, Any] = Field({})
    """Rows to keep: field: value, or a list of values; null: the value is missing."""
    hash_field: str = ""
    """Field to split by: keep rows whose hash of it falls in hash_range."""
    hash_range: tuple[int, int] = (0, 100)
    """Percent of the hashes to keep, [low, high)."""
    exclude: dict[str, str] = Field({})
    """Rows to drop: field: "FILE:COLUMN[,COLUMN]", whose values are listed there."""

    @field_validator("input")
    @classmethod
    def _input_has_a_name(cls, name: str) -> str:
        # A variable of the shell that is not set gives it; it would be the current folder.
        if not name.strip():
            raise ValueError(
                "it is empty; name a table, a folder or shards (. is the current folder)."
            )
        return name

    @model_validator(mode="after")
    def _range_is_a_range(self) -> RowsConfig:
        low, high = self.hash_range
        if not 0 <= low < high <= 100:
            raise ValueError(
                f"hash_range ({low}, {high}) is not a range of percent; write for example (0, 90)."
            )
        if self.hash_range != (0, 100) and not self.hash_field:
            raise ValueError(
                f"hash_range ({low}, {high}) needs a field to hash; set hash_field."
            )
        return self


class BadRow(NamedTuple):
    """A line of JSON or CSV that is not a row; the lines after it can be read."""

    place: str
    reason: str  # continues the place: "is not JSON (...)"


def read_rows(
    config: RowsConfig,
    root: Path = Path(),
    skip: Callable[[int, str], None] | None = None,
) -> Iterator[Row]:
    """The wanted rows in the order of the file; files are relative to `root`.

    skip: called with the number of a line that cannot be read and the reason; without it, such a
        line is an error.

    Raises ValueError for a missing file or field, for a bad line, and if no row is left.
    """
    return (row for _, row in read_numbered_rows(config, root, skip))


def read_numbered_rows(
    config: RowsConfig,
    root: Path = Path(),
    skip: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[int, Row]]:
    """As read_rows, each row with its number in the unfiltered input."""
    row_filter = RowFilter(config, root)
    first: Row = {}
    num_rows = num_kept = num_bad = 0
    for number, row in enumerate(_records(config.input, config.split, root)):
        num_rows = number + 1
        if isinstance(row, BadRow):
            if skip is None:
                raise _bad_row(row)
            skip(number, f"{row.place} {row.reason}")
            num_bad += 1
            continue
        first = first or row
        kept = row_filter(row, f"row {number} of {config.input}")
        if kept is not None:
            num_kept += 1
            yield number, kept
    for field in config.where:
        if num_rows > num_bad and field not in row_filter.seen:
            raise missing_field(first, field, f"any row of {config.input}")
    if not num_rows:
        raise ValueError(f"{config.input} has no rows; check that the file is whole.")
    if not num_kept and (not num_bad or num_bad < num_rows):
        raise ValueError(
            f"{config.input}: 0 of {num_rows} rows are left; loosen where, hash_range or exclude."
        )


class RowFilter:
    """Joins and filters of a table; the tables that they need are read once."""

    def __init__(self, config: RowsConfig, root: Path = Path()) -> None:
        self.config = config
        self.seen: set[str] = set()  # fields of `where` that some row had
        self._where_own: dict[str, Any] = {}
        self._where_joined: dict[str, Any] = {}
        for name, wanted in config.where.items():
            is_joined = name.partition(".")[0] in config.join
            where = self._where_joined if is_joined else self._where_own
            where[name] = wanted
        self._joins = {
            field: _lookup(field, place, root) for field, place in config.join.items()
        }
        self._excluded = {
            field: _read_column(place, root) for field, place in config.exclude.items()
        }

    def __call__(self, row: Row, place: str) -> Row | None:
        """The row with its joined rows, or None if it is not wanted.

        place: what errors call the row.
        """
        config = self.config
        # First, because a row that lacks its joined row may be filtered out.
        if not _matches(row, self._where_own, self.seen):
            return None
        for field, lookup in self._joins.items():
            row = {**row, field: lookup(_strict(row, field, place), place)}
        if not _matches(row, self._where_joined, self.seen):
            return None
        if config.hash_field:
            value = _strict(row, config.hash_field, place)
            if not _is_in_range(value, config, place):
                return None
        for field, values in self._excluded.items():
            value = _strict(row, field, place)
            if isinstance(value, Mapping):  # as a joined row is
                raise ValueError(
                    f"exclude: {field!r} is an object in {place}; name a field of it, {field}.NAME."
                )
            if _texts(value) & values:
                return None
        return row


def num_rows(config: RowsConfig, root: Path = Path()) -> int | None:
    """The number of rows before any filter, for progress bars; None where that takes long."""
    if config.input.startswith("hf:"):
        return None
    total = 0
    for path in table_paths(config.input, root):
        if path.is_dir():
            total += len(saved_data_set(path, config.split))
        elif path.suffix == ".parquet":
            total += int(pyarrow_parquet().ParquetFile(path).metadata.num_rows)
        else:
            with path.open("rb") as file:
                total += sum(
                    block.count(b"\n")
                    for block in iter(lambda: file.read(1 << 20), b"")
                )
    return total


def hash_percent(value: str) -> int:
    """0..99 from the value alone, on every machine: rows that are held out stay held out."""
    digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100


def _strict(row: Row, field: str, place: str) -> Any:
    try:
        return field_of(row, field)
    except KeyError:
        raise missing_field(row, field, place) from None


def _matches(row: Row, where: Mapping[str, Any], seen: set[str]) -> bool:
    matches = True
    for field, wanted in where.items():
        # Rows of JSON lines may leave a field out; only a field of no row at all is an error.
        if has_field(row, field):
            seen.add(field)
        value = value_of(row, field)
        options = wanted if isinstance(wanted, list) else [wanted]
        matches = matches and any(_is_equal(value, option) for option in options)
    return matches


def _is_equal(value: Any, wanted: Any) -> bool:
    if is_missing(value) or is_missing(wanted):
        return is_missing(value) and is_missing(wanted)
    if isinstance(value, str) and not isinstance(wanted, str):  # as in a CSV
        if isinstance(wanted, bool):
            return value.lower() == str(wanted).lower()
        return value == str(wanted)
    if isinstance(value, bool) is not isinstance(wanted, bool):
        return False  # True == 1 in Python
    return bool(value == wanted)


def _is_in_range(value: Any, config: RowsConfig, place: str) -> bool:
    if is_missing(value):
        raise ValueError(
            f"{config.hash_field!r} is empty in {place}; hold out by a field that every row has."
        )
    return config.hash_range[0] <= hash_percent(str(value)) < config.hash_range[1]


def _lookup(field: str, place: str, root: Path) -> Callable[[Any, str], Row]:
    name, columns = _columns(place, "join")
    table: dict[str, Row] = {}
    numbers: dict[str, int] = {}
    for number, row in enumerate(_whole(name, root)):
        key = _strict(row, columns[0], f"row {number} of {name}")
        if is_missing(key):
            continue
        text = str(without_point(key))
        table[text] = row
        if numbers.setdefault(text, number) != number:
            raise ValueError(
                f"rows {numbers[text]} and {number} of {name} both have the {columns[0]} "
                f"{key!r}; join by a column that tells rows apart."
            )

    def find(value: Any, row_place: str) -> Row:
        if is_missing(value):
            raise ValueError(
                f"{field} is empty in {row_place}, and a row of {place} is joined by it; "
                "filter it out."
            )
        text = str(without_point(value))
        if text not in table:
            raise ValueError(
                f"{field} {value!r} in {row_place} is in no row of {place}; add it or "
                "filter it out."
            )
        return table[text]

    return find


def _read_column(place: str, root: Path) -> set[str]:
    name, columns = _columns(place, "exclude")
    texts: set[str] = set()
    for number, row in enumerate(_whole(name, root)):
        for column in columns:
            texts |= _texts(_strict(row, column, f"row {number} of {name}"))
    return texts


def _columns(place: str, option: str) -> tuple[str, list[str]]:
    name, _, columns = place.rpartition(":")
    if not name or not columns:
        raise ValueError(
            f"{option} {place!r} has no column; write FILE:COLUMN, for example held_out.csv:id."
        )
    return name, columns.split(",")


def _texts(value: Any) -> set[str]:
    values = value if isinstance(value, list) else [value]
    return {str(without_point(part)) for part in values if not is_missing(part)}


def _whole(name: str, root: Path) -> Iterator[Row]:
    """Every row of a table for joins and exclusions; a row that cannot be read is an error."""
    for row in _records(name, "train", root):
        if isinstance(row, BadRow):
            raise _bad_row(row)
        yield row


def _bad_row(row: BadRow) -> ValueError:
    return ValueError(f"{row.place} {row.reason}; repair or remove it.")


def _records(name: str, split: str, root: Path) -> Iterator[Row | BadRow]:
    """Every row of an input, unfiltered."""
    if name.startswith("hf:"):
        return iter(hub_data_set(name, split))
    return itertools.chain.from_iterable(
        saved_data_set(path, split) if path.is_dir() else READERS[path.suffix](path)
        for path in table_paths(name, root)
    )


def table_paths(name: str, root: Path) -> list[Path]:
    """The files of a table by its name or glob.

    Raises ValueError where there is none, and for a file that is not a table.
    """
    path = root / name
    paths: list[Path] = []
    if path.exists():
        paths = [path]
    elif any(mark in name for mark in "*?["):
        anchor = Path(path.anchor)
        takes_hidden = path.name.startswith(".")
        for file in sorted(anchor.glob(str(path.relative_to(anchor)))):
            if takes_hidden or not is_hidden(file.name):
                paths.append(file)
    if not paths:
        raise ValueError(
            f"input {str(path)!r} does not exist; give a file, a glob of files or a "
            "save_to_disk folder."
        )
    for path in paths:
        if path.is_file() and is_image_name(path):
            raise ValueError(
                f"{path} is an image, not a table; give a table that names it."
            )
        if path.is_file() and path.suffix not in READERS:
            raise ValueError(
                f"{path} ends with {path.suffix!r}; rows are read from {', '.join(READERS)}."
            )
    return paths


def _read_jsonl(path: Path) -> Iterator[Row | BadRow]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield parse_line(line)
            except ValueError as error:
                yield BadRow(f"{path}, line {number}", f"is {error}")


def _read_json(path: Path) -> Iterator[Row]:
    yield from read_json(path.read_bytes(), path)


def read_json(content: bytes, path: Path) -> list[Row]:
    """The rows of a .json file with this content: a list of objects.

    Raises ValueError for anything else.
    """
    try:
        rows = parse_json(content)
    except UnicodeDecodeError as error:
        raise not_utf8(f"{path}", error) from None
    except ValueError as error:
        raise ValueError(
            f"{path} is not JSON ({error}); repair it, or write one object per line into a .jsonl "
            "file."
        ) from None
    if not isinstance(rows, list):
        raise ValueError(
            f"{path} holds {name_kind(rows)}; it must be a list of objects."
        )
    return [as_row(row, f"{path}, item {number}") for number, row in enumerate(rows)]


def parse_line(line: bytes) -> Row:
    """A line of JSON as a row.

    Raises ValueError with what the line is instead: "not JSON (...)", "not UTF-8 (...)".
    """
    try:
        row = parse_json(line)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error})") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError(f"{name_kind(row)}, not an object of fields and values")
    return row


def as_row(row: Any, place: str) -> Row:
    """A value as a row; raises ValueError, naming the place, if it is not an object."""
    if not isinstance(row, dict):
        raise ValueError(
            f"{place} holds {name_kind(row)}; a row is an object of fields and values."
        )
    return row


def _read_texts(path: Path) -> Iterator[Row]:
    for _, text in read_lines(path):
        row = row_of_text(text)
        if row is not None:
            yield row


def row_of_text(line: str) -> Row | None:
    """A line of text as a row; None where it is blank."""
    text = line.strip()
    return {"text": text} if text else None


def read_lines(path: Path) -> Iterator[tuple[bytes, str]]:
    """The lines of a file, as bytes and as text.

    Raises ValueError, naming the line, for one that is not UTF-8.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = decode_line(line, is_first=number == 1)
            except UnicodeDecodeError as error:
                raise not_utf8(f"{path}, line {number}", error) from None
            yield line, text


def decode_line(line: bytes, *, is_first: bool) -> str:
    """A line of a file as a text, without the byte-order mark of an editor in the first one."""
    return line.decode("utf-8-sig" if is_first else "utf-8")


def not_utf8(place: str, error: UnicodeDecodeError) -> ValueError:
    """The error for a file in another encoding."""
    return ValueError(f"{place} is not UTF-8 ({error}); save it as UTF-8.")


def _read_csv(path: Path) -> Iterator[Row | BadRow]:
    with path.open("rb") as file:
        lines: list[bytes] = []
        line = 0
        header: list[str] = []
        for cells in cells_of(file, path, lines):
            line += len(lines)
            lines.clear()
            if not header:
                header = cells
                continue
            if not cells:  # an empty line
                continue
            try:
                yield row_of_cells(cells, header)
            except ValueError as error:
                yield BadRow(f"{path}, line {line}", f"cannot be read ({error})")


def row_of_cells(cells: Sequence[str], header: Sequence[str]) -> Row:
    """The cells under a header as a row; raises ValueError where their numbers differ."""
    if len(cells) != len(header):
        plural = "" if len(cells) == 1 else "s"
        raise ValueError(f"{len(cells)} cell{plural} under a header of {len(header)}")
    return dict(zip(header, cells, strict=True))


def cells_of(
    file: BinaryIO, path: Path, taken: list[bytes], at_start: bool = True
) -> Iterator[list[str]]:
    """Rows of cells from the position of the file.

    taken: gets the lines that each row is made of.
    at_start: the position is the start, where a header comes first.

    Raises ValueError for a header that cannot be used, a quote that is not closed, and bytes that
    are not UTF-8.
    """
    csv.field_size_limit(_LONGEST_CELL)
    num_read = 0  # lines of the rows that are complete

    def lines() -> Iterator[str]:
        for number, line in enumerate(file):
            taken.append(line)
            yield decode_line(line, is_first=at_start and not number)

    reader = csv.reader(
        lines(), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True
    )
    try:
        is_header_next = at_start
        for cells in reader:
            if is_header_next and cells:
                _check_header(cells, path)
                is_header_next = False
            yield cells
            num_read = reader.line_num
    except UnicodeDecodeError as error:  # of the line after those that the reader got
        raise not_utf8(f"{path}, line {reader.line_num + 1}", error) from None
    except csv.Error as error:
        place = f"{path}, line {reader.line_num}"
        reason = str(error)
        way_out = "repair or remove it."
        if "new-line" in reason:
            reason = "lines end with a carriage return alone"
            way_out = "save the file with Unix line endings."
        if reason == "unexpected end of data":
            place = f"{path}, the row that begins in line {num_read + 1},"
            reason = "a quote is opened and never closed"
            way_out = 'close it, or write it twice within a cell, "".'
        raise ValueError(f"{place} cannot be read ({reason}); {way_out}") from None


def _check_header(header: Sequence[str], path: Path) -> None:
    mark = next((mark for mark in ";\t" if len(header) == 1 and mark in header[0]), "")
    if mark:
        raise ValueError(
            f"{path}: its columns are separated by {mark!r}; save it with commas, or as "
            ".tsv with tabs."
        )
    check_columns(header, path)


def check_columns(names: Sequence[str], path: Path) -> None:
    """Raises ValueError where two columns have one name: a row would keep only the last.

    Several columns may have no name, as spreadsheets append them.
    """
    for name, count in Counter(names).items():
        if name and count > 1:
            raise ValueError(
                f"{path} has the column {name!r} twice; rename one of them."
            )


def _read_parquet(path: Path) -> Iterator[Row]:
    # Small batches: a row may hold a whole image.
    for batch in open_parquet(path).iter_batches(batch_size=256):
        yield from batch.to_pylist()


READERS: dict[str, Callable[[Path], Iterator[Row | BadRow]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_texts,  # one text per line, as the field `text`
}


def open_parquet(path: Path) -> Any:
    """A Parquet file, open; raises ValueError for other files, and for two columns of one name."""
    try:
        file = pyarrow_parquet().ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ValueError(
            f"{path} is not a readable Parquet file ({error}); write it again."
        ) from None
    check_columns(file.schema_arrow.names, path)
    return file


def pyarrow_parquet() -> Any:
    """pyarrow.parquet."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImportError(
            'reading Parquet needs pyarrow: pip install "unimodal[train]"'
        ) from None
    return parquet


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise ImportError(
            'reading Hugging Face data sets needs datasets: pip install "unimodal[train]"'
        ) from None
    return datasets


def saved_data_set(path: Path, split: str) -> Any:
    """A folder of save_to_disk; images are their original bytes."""
    try:
        loaded = _datasets().load_from_disk(str(path))
    except FileNotFoundError:
        raise ValueError(
            f"{path} is a folder without a data set; write one with datasets.save_to_disk."
        ) from None
    if isinstance(loaded, Mapping):
        if split not in loaded:
            raise ValueError(
                f"{path} has no split {split!r}; {nearest(split, list(loaded))}"
            )
        loaded = loaded[split]
    return _keep_bytes(loaded)


def hub_data_set(name: str, split: str) -> Any:
    """hf:NAME[:CONFIG]; images are their original bytes."""
    path, _, config = name.removeprefix("hf:").partition(":")
    try:
        return _keep_bytes(_datasets().load_dataset(path, config or None, split=split))
    except (FileNotFoundError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name} cannot be loaded ({reason}); check the name, its configuration and split."
        ) from None


def _keep_bytes(dataset: Any) -> Any:
    """Return images as their original bytes instead of decoding them."""
    image = _datasets().Image
    for column, feature in dataset.features.items():
        if isinstance(feature, image):
            dataset = dataset.cast_column(column, image(decode=False))
    return dataset
