"""Rows are the same from every kind of file, filters keep what they say, and errors name the way out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unimodal.rows import RowsConfig, hash_percent, num_rows, read_numbered_rows, read_rows

ROWS = [{"id": f"r{n}", "color": "red" if n % 2 else "blue", "open": n < 3} for n in range(10)]


def write(folder: Path, name: str, rows: list[dict[str, Any]] = ROWS) -> str:
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        separator = "," if path.suffix == ".csv" else "\t"
        lines = [separator.join(rows[0])] + [separator.join(map(str, row.values())) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        datasets = pytest.importorskip("datasets")
        datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(str(path))
    return name


def ids(root: Path, **options: Any) -> list[str]:
    return [row["id"] for row in read_rows(RowsConfig(**options), root)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "saved"])
def test_every_kind_of_file_gives_the_same_filtered_rows(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    assert ids(tmp_path, input=name) == [row["id"] for row in ROWS]
    assert ids(tmp_path, input=name, where={"open": True}) == ["r0", "r1", "r2"]
    assert ids(tmp_path, input=name, where={"open": False, "color": ["red", "green"]}) == ["r3", "r5", "r7", "r9"]


def test_a_glob_reads_its_files_in_order_and_numbers_go_on(tmp_path: Path) -> None:
    write(tmp_path, "b-0.jsonl", ROWS[:4])
    write(tmp_path, "b-1.jsonl", ROWS[4:])
    config = RowsConfig(input="b-*.jsonl", where={"color": "red"})
    assert [(number, row["id"]) for number, row in read_numbered_rows(config, tmp_path)] == [
        (n, f"r{n}") for n in (1, 3, 5, 7, 9)
    ]
    assert num_rows(config, tmp_path) == 10


def test_hash_ranges_share_the_rows_out_and_never_change(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    parts = [ids(tmp_path, input="a.jsonl", hash_field="id", hash_range=r) for r in [(0, 50), (50, 100)]]
    assert sorted(parts[0] + parts[1]) == [row["id"] for row in ROWS]
    assert [hash_percent(text) for text in ("", "a", "m00101")] == [76, 43, 93]


def test_exclude_drops_rows_listed_in_any_of_the_columns(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    write(tmp_path, "held_out.csv", [{"left": "r1", "right": "r2"}, {"left": "r3", "right": "zz"}])
    kept = ids(tmp_path, input="a.jsonl", exclude={"id": "held_out.csv:left,right"})
    assert kept == ["r0", "r4", "r5", "r6", "r7", "r8", "r9"]


def test_join_puts_the_other_row_in_place_of_its_key(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    write(tmp_path, "colors.jsonl", [{"name": "red", "warm": True}, {"name": "blue", "warm": False}])
    options: dict[str, Any] = {"input": "a.jsonl", "join": {"color": "colors.jsonl:name"}}
    assert ids(tmp_path, **options, where={"color.warm": True}) == ["r1", "r3", "r5", "r7", "r9"]
    write(tmp_path, "colors.jsonl", [{"name": "red", "warm": True}])
    with pytest.raises(ValueError, match=r"color 'blue' in row 0 of a.jsonl is in no row of colors.jsonl:name"):
        ids(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "nowhere.jsonl"}, "does not exist"),
        ({"input": "a.xlsx"}, "has the ending '.xlsx'"),
        ({"where": {"colour": "red"}}, "field 'colour' is not in any row of a.jsonl; did you mean 'color'"),
        ({"where": {"color": "green"}}, "0 of 10 rows are left"),
        ({"hash_field": "idd", "hash_range": (0, 50)}, "field 'idd' is not in row 0 of a.jsonl; did you mean 'id'"),
        ({"exclude": {"id": "held_out.csv"}}, "names no column"),
        ({"exclude": {"id": "held_out.csv:lft"}}, "did you mean 'left'"),
        ({"exclude": {"ids": "held_out.csv:left"}}, "did you mean 'id'"),
    ],
)
def test_errors_name_the_thing_and_the_way_out(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write(tmp_path, "a.jsonl")
    write(tmp_path, "held_out.csv", [{"left": "r1", "right": "r2"}])
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(ValueError, match=message):
        ids(tmp_path, **{"input": "a.jsonl", **options})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": 1}\n{"id": \n', "a.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'{"id": 1}\n\n[1]\n', "a.jsonl, line 3 is a list and not an object"),
        ("a.jsonl", b'{"id": "\xff"}\n', "a.jsonl, line 1 is not UTF-8"),
        ("a.csv", b"id,name\n1,x\n2\n", r"a.csv, line 3 cannot be read \(1 cell under a header of 2\)"),
        ("a.csv", b"id,name\n1,\xff\n", "a.csv, line 2 is not UTF-8 .*; save it as UTF-8"),
        ("a.csv", b"id;name\n1;x\n", "a.csv: its columns are separated by ';'; save it with commas, or as .tsv with"),
        ("a.csv", b"id\tname\n1\tx\n", r"a.csv: its columns are separated by '\\t'"),
        ("a.json", b'{"id": 1}', "a.json holds a dict"),
        ("a.parquet", b"PAR1", "a.parquet is not a readable Parquet file"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_rows(RowsConfig(input=name), tmp_path))


def test_a_hash_range_needs_a_field_and_an_order() -> None:
    with pytest.raises(ValueError, match="set hash_field"):
        RowsConfig(input="a.jsonl", hash_range=(0, 50))
    with pytest.raises(ValueError, match="no range of percent"):
        RowsConfig(input="a.jsonl", hash_field="id", hash_range=(50, 50))


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path, "saved")
    with pytest.raises(ValueError, match="has no split 'trian'; did you mean 'train'"):
        ids(tmp_path, input="saved", split="trian")
