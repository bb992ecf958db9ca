"""Rows are the same from every kind of file, filters keep what they say, and errors name the way
out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unimodal.tables.readers import (
    RowsConfig,
    hash_percent,
    num_rows,
    read_numbered_rows,
    read_rows,
)

ROWS = [
    {"id": f"r{n}", "color": "red" if n % 2 else "blue", "open": n < 3}
    for n in range(10)
]


def write(folder: Path, name: str, rows: list[dict[str, Any]] = ROWS) -> str:
    path = folder / name
    if path.suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix in (".csv", ".tsv"):
        separator = "," if path.suffix == ".csv" else "\t"
        lines = [separator.join(rows[0])] + [
            separator.join(map(str, row.values())) for row in rows
        ]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        datasets = pytest.importorskip("datasets")
        datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(
            str(path)
        )
    return name


def ids(root: Path, **options: Any) -> list[str]:
    return [row["id"] for row in read_rows(RowsConfig(**options), root)]


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "saved"]
)
def test_every_kind_of_file_gives_the_same_filtered_rows(
    tmp_path: Path, name: str
) -> None:
    write(tmp_path, name)
    assert ids(tmp_path, input=name) == [row["id"] for row in ROWS]
    assert ids(tmp_path, input=name, where={"open": True}) == ["r0", "r1", "r2"]
    assert ids(
        tmp_path, input=name, where={"open": False, "color": ["red", "green"]}
    ) == ["r3", "r5", "r7", "r9"]


def test_a_glob_reads_its_files_in_order_and_numbers_go_on(tmp_path: Path) -> None:
    write(tmp_path, "b-0.jsonl", ROWS[:4])
    write(tmp_path, "b-1.jsonl", ROWS[4:])
    config = RowsConfig(input="b-*.jsonl", where={"color": "red"})
    assert [
        (number, row["id"]) for number, row in read_numbered_rows(config, tmp_path)
    ] == [(n, f"r{n}") for n in (1, 3, 5, 7, 9)]
    assert num_rows(config, tmp_path) == 10


def test_hash_ranges_share_the_rows_out_and_never_change(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    parts = [
        ids(tmp_path, input="a.jsonl", hash_field="id", hash_range=r)
        for r in [(0, 50), (50, 100)]
    ]
    assert sorted(parts[0] + parts[1]) == [row["id"] for row in ROWS]
    assert [hash_percent(text) for text in ("", "a", "m00101")] == [76, 43, 93]


def test_exclude_drops_rows_listed_in_any_of_the_columns(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    write(
        tmp_path,
        "held_out.csv",
        [{"left": "r1", "right": "r2"}, {"left": "r3", "right": "zz"}],
    )
    kept = ids(tmp_path, input="a.jsonl", exclude={"id": "held_out.csv:left,right"})
    assert kept == ["r0", "r4", "r5", "r6", "r7", "r8", "r9"]


def test_a_number_that_pandas_made_a_float_is_the_same_id_in_exclude_and_join(
    tmp_path: Path,
) -> None:
    write(tmp_path, "a.jsonl", [{"id": "x", "brand": 7.0}, {"id": "y", "brand": 8.0}])
    write(tmp_path, "held_out.csv", [{"brand": 7}])
    write(
        tmp_path,
        "brands.csv",
        [{"brand": 7, "name": "Acme"}, {"brand": 8, "name": "Best"}],
    )

    assert ids(tmp_path, input="a.jsonl", exclude={"brand": "held_out.csv:brand"}) == [
        "y"
    ]

    joined = RowsConfig(input="a.jsonl", join={"brand": "brands.csv:brand"})
    assert [row["brand"]["name"] for row in read_rows(joined, tmp_path)] == [
        "Acme",
        "Best",
    ]


def test_excluding_by_an_object_is_refused_for_it_would_exclude_nothing(
    tmp_path: Path,
) -> None:
    write(
        tmp_path,
        "a.jsonl",
        [
            {"id": "x", "brand": {"name": "Acme"}},
            {"id": "y", "brand": {"name": "Best"}},
        ],
    )
    write(tmp_path, "held_out.csv", [{"name": "Acme"}])

    with pytest.raises(ValueError, match="'brand' is an object in row 0 of a"):
        ids(tmp_path, input="a.jsonl", exclude={"brand": "held_out.csv:name"})
    assert ids(
        tmp_path, input="a.jsonl", exclude={"brand.name": "held_out.csv:name"}
    ) == ["y"]


def test_join_puts_the_other_row_in_place_of_its_key(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl")
    write(
        tmp_path,
        "colors.jsonl",
        [{"name": "red", "warm": True}, {"name": "blue", "warm": False}],
    )
    options: dict[str, Any] = {
        "input": "a.jsonl",
        "join": {"color": "colors.jsonl:name"},
    }
    assert ids(tmp_path, **options, where={"color.warm": True}) == [
        "r1",
        "r3",
        "r5",
        "r7",
        "r9",
    ]
    write(tmp_path, "colors.jsonl", [{"name": "red", "warm": True}])
    with pytest.raises(
        ValueError,
        match=r"color 'blue' in row 0 of a.jsonl is in no row of colors.jsonl:name",
    ):
        ids(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "nowhere.jsonl"}, "does not exist"),
        ({"input": " "}, "it is empty; name a table, a folder or shards"),
        ({"input": "a.xlsx"}, "ends with '.xlsx'"),
        (
            {"where": {"colour": "red"}},
            "field 'colour' is not in any row of a.jsonl; did you mean 'color'",
        ),
        ({"input": "empty.csv"}, "empty.csv has no rows; check that the file is whole"),
        ({"where": {"color": "green"}}, "0 of 10 rows are left"),
        (
            {"hash_field": "idd", "hash_range": (0, 50)},
            "field 'idd' is not in row 0 of a.jsonl; did you mean 'id'",
        ),
        ({"exclude": {"id": "held_out.csv"}}, "has no column"),
        ({"exclude": {"id": "held_out.csv:lft"}}, "did you mean 'left'"),
        ({"exclude": {"ids": "held_out.csv:left"}}, "did you mean 'id'"),
    ],
)
def test_errors_name_the_thing_and_the_way_out(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    write(tmp_path, "a.jsonl")
    write(tmp_path, "held_out.csv", [{"left": "r1", "right": "r2"}])
    (tmp_path / "a.xlsx").touch()
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match=message):
        ids(tmp_path, **{"input": "a.jsonl", **options})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": 1}\n{"id": \n', "a.jsonl, line 2 is not JSON"),
        (
            "a.jsonl",
            b'{"id": 1}\n\n[1]\n',
            "a.jsonl, line 3 is a list, not an object",
        ),
        ("a.jsonl", b'{"id": "\xff"}\n', "a.jsonl, line 1 is not UTF-8"),
        (
            "a.csv",
            b"id,name\n1,x\n2\n",
            r"a.csv, line 3 cannot be read \(1 cell under a header of 2\)",
        ),
        (
            "a.csv",
            b"id,name\n1,\xff\n",
            "a.csv, line 2 is not UTF-8 .*; save it as UTF-8",
        ),
        (
            "a.csv",
            b"id;name\n1;x\n",
            "a.csv: its columns are separated by ';'; save it with commas, or as .tsv with",
        ),
        ("a.csv", b"id\tname\n1\tx\n", r"a.csv: its columns are separated by '\\t'"),
        (
            "a.csv",
            b"id,name,name\n1,x,y\n",
            "a.csv has the column 'name' twice; rename one of them",
        ),
        (
            "a.csv",
            b'id,name\n1,x\n2,"y\n3,z\n',
            "a.csv, the row that begins in line 3, cannot be read .*never closed",
        ),
        (
            "a.csv",
            b"id,name\r1,x\r",
            "a.csv, line 1 cannot be read .*carriage return alone.*; save the file with",
        ),
        ("a.json", b'{"id": 1}', "a.json holds an object"),
        ("a.parquet", b"PAR1", "a.parquet is not a readable Parquet file"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_rows(RowsConfig(input=name), tmp_path))


def test_a_parquet_file_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(["Hat"]), pa.array(["Cup"])], names=["title", "title"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(
        ValueError, match=r"a\.parquet has the column 'title' twice; rename one of them"
    ):
        list(read_rows(RowsConfig(input="a.parquet"), tmp_path))


def test_columns_without_a_name_may_be_several(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,,\n1,,\n")
    assert ids(tmp_path, input="a.csv") == ["1"]


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    text = "x" * 200_000
    (tmp_path / "a.csv").write_text(f"id,page\n1,{text}\n")
    rows = list(read_rows(RowsConfig(input="a.csv"), tmp_path))
    assert rows[0]["page"] == text


def test_a_hash_range_needs_a_field_and_an_order() -> None:
    with pytest.raises(ValueError, match="set hash_field"):
        RowsConfig(input="a.jsonl", hash_range=(0, 50))
    with pytest.raises(ValueError, match="not a range of percent"):
        RowsConfig(input="a.jsonl", hash_field="id", hash_range=(50, 50))


def test_a_split_that_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path, "saved")
    with pytest.raises(ValueError, match="has no split 'trian'; did you mean 'train'"):
        ids(tmp_path, input="saved", split="trian")


MISSING: list[Any] = [None, float("nan"), "", "  ", []]


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_a_missing_value_is_no_value_for_filters_and_joins(
    tmp_path: Path, value: Any
) -> None:
    rows = [
        {"id": "a", "color": value, "of": value},
        {"id": "b", "color": "red", "of": "x"},
        {"id": "c", "of": "nan"},
    ]
    name = write(tmp_path, "a.jsonl", rows)
    assert ids(tmp_path, input=name, where={"color": None}) == ["a", "c"]
    assert ids(tmp_path, input=name, where={"color": ["red", None]}) == ["a", "b", "c"]
    write(tmp_path, "listed.jsonl", [{"id": value}, {"id": "c"}])
    assert ids(tmp_path, input=name, exclude={"of": "listed.jsonl:id"}) == [
        "a",
        "b",
        "c",
    ]
    with pytest.raises(ValueError, match=r"'color' is empty in row 0 of a.jsonl"):
        ids(tmp_path, input=name, hash_field="color", hash_range=(0, 50))
    write(
        tmp_path, "joined.jsonl", [{"key": value, "left": 1}, {"key": "x", "left": 2}]
    )
    with pytest.raises(
        ValueError,
        match=r"of is empty in row 0 of a.jsonl, and a row of joined.jsonl:key",
    ):
        ids(tmp_path, input=name, join={"of": "joined.jsonl:key"})
    with pytest.raises(
        ValueError,
        match=r"of 'nan' in row 2 of a.jsonl is in no row of joined.jsonl:key",
    ):
        ids(
            tmp_path,
            input=name,
            join={"of": "joined.jsonl:key"},
            where={"id": ["b", "c"]},
        )
    assert ids(
        tmp_path,
        input=name,
        join={"of": "joined.jsonl:key"},
        where={"id": "b", "of.left": 2},
    ) == ["b"]


def test_a_join_by_a_column_that_names_two_rows_is_refused(tmp_path: Path) -> None:
    name = write(tmp_path, "a.jsonl")
    write(tmp_path, "twice.jsonl", [{"key": "red"}, {"key": "blue"}, {"key": "red"}])
    with pytest.raises(
        ValueError,
        match=r"rows 0 and 2 of twice.jsonl both have the key 'red'; join by a column that",
    ):
        ids(tmp_path, input=name, join={"color": "twice.jsonl:key"})


def test_a_list_of_texts_is_a_table_of_one_field(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(
        "\ufeffa hat\r\n\n  \n grün \x0b\u2028x\nlast".encode()
    )
    texts = [row["text"] for row in read_rows(RowsConfig(input="a.txt"), tmp_path)]
    assert texts == ["a hat", "grün \x0b\u2028x", "last"]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.json"])
def test_a_byte_order_mark_is_no_part_of_the_first_text(
    tmp_path: Path, name: str
) -> None:
    content = {
        "a.txt": "Hut",
        "a.csv": "text\nHut",
        "a.tsv": "text\nHut",
        "a.jsonl": '{"text": "Hut"}',
    }
    (tmp_path / name).write_text(
        "\ufeff" + content.get(name, '[{"text": "Hut"}]'), encoding="utf-8"
    )
    assert list(read_rows(RowsConfig(input=name), tmp_path)) == [{"text": "Hut"}]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.txt", "Hut\ngrün", "a.txt, line 2"),
        ("a.csv", "text\nHut\ngrün", "a.csv, line 3"),
        ("a.jsonl", '{"text": "Hut"}\n{"text": "grün"}', "a.jsonl, line 2"),
        ("a.json", '[{"text": "grün"}]', "a.json"),
    ],
)
def test_a_table_in_another_encoding_is_refused_by_file_and_line(
    tmp_path: Path, name: str, content: str, place: str
) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(
        ValueError,
        match=rf"{place} is not UTF-8 \('utf-8' codec can't decode byte 0xfc",
    ):
        list(read_rows(RowsConfig(input=name), tmp_path))


def test_a_glob_takes_no_hidden_files_and_an_image_is_not_a_table(
    tmp_path: Path,
) -> None:
    write(tmp_path, "a.jsonl")
    (tmp_path / "._a.jsonl").write_bytes(b"a Mac's")
    assert len(ids(tmp_path, input="*.jsonl")) == 10
    (tmp_path / "a.jpg").touch()
    with pytest.raises(
        ValueError,
        match=r"a.jpg is an image, not a table; give a table that names it",
    ):
        ids(tmp_path, input="a.jpg")
