"""An input is cut into partitions that give its rows, each from the byte where it begins."""

from __future__ import annotations

import csv
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tests.torture.conftest import add_sample
from unimodal.search.index.partitions import find_partitions
from unimodal.search.index.reading import Partition, RawRow, read_partition
from unimodal.tables.readers import RowsConfig, read_numbered_rows

ROWS = [
    {"id": f"p{n}", "title": f"hat\n“{n}”, red", "price": str(n)} for n in range(23)
]


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [
        json.dumps(row) + ("\r\n" if number % 2 else "\n")
        for number, row in enumerate(rows)
    ]
    path.write_text("\n" + "\n\n".join(lines), encoding="utf-8", newline="")


def _write_cells(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        cells = csv.DictWriter(
            file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
        )
        cells.writeheader()
        for row in rows:
            cells.writerow(row)
            file.write("\r\n")  # csv skips an empty line


def _write_list(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows), encoding="utf-8")


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    with parquet.ParquetWriter(path, pa.Table.from_pylist(rows).schema) as writer:
        for first, last in ((0, 2), (2, 4), (4, 20), (20, 23)):
            writer.write_table(pa.Table.from_pylist(rows[first:last]))


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "a.jsonl": _write_lines,
    "a.csv": _write_cells,
    "a.tsv": _write_cells,
    "a.json": _write_list,
    "a.parquet": _write_parquet,
}


def without_parsed(partitions: list[Partition]) -> list[Partition]:
    return [replace(partition, parsed=None) for partition in partitions]


def rows_of(partitions: list[Partition]) -> list[dict[str, Any]]:
    return [raw.row for partition in partitions for raw in read_partition(partition)]


@pytest.mark.parametrize("per_unit", [1, 5, 23, 100])
@pytest.mark.parametrize("name", WRITERS)
def test_the_partitions_of_a_table_give_its_rows(
    tmp_path: Path, name: str, per_unit: int
) -> None:
    path = tmp_path / name
    WRITERS[name](path, ROWS)
    partitions = find_partitions(str(path), "train", per_unit)
    assert rows_of(partitions) == ROWS
    numbers = [
        raw.number for partition in partitions for raw in read_partition(partition)
    ]
    assert numbers == [
        number for number, _ in read_numbered_rows(RowsConfig(input=str(path)))
    ]
    assert [partition.rows for partition in partitions] == [
        len(list(read_partition(partition))) for partition in partitions
    ]
    assert max(partition.rows for partition in partitions) <= per_unit
    assert len({partition.name for partition in partitions}) == len(partitions)


@pytest.mark.parametrize("name", WRITERS)
def test_rows_that_are_not_kept_are_read_from_the_file(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    WRITERS[name](path, ROWS)
    kept = find_partitions(str(path), "train", 5)
    monkeypatch.setattr(
        "unimodal.search.index.partitions.MAX_PARSED_BYTES", path.stat().st_size // 2
    )
    read = find_partitions(str(path), "train", 5)
    assert read == kept
    assert rows_of(read) == rows_of(kept) == ROWS
    assert rows_of(pickle.loads(pickle.dumps(kept))) == ROWS
    assert all(partition.parsed is not None for partition in kept)
    assert (read[-1].parsed is None) is (name != "a.json")


def test_an_empty_line_may_come_before_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n\nid,title\n1,a\n\n2,b\n", encoding="utf-8")
    partitions = find_partitions(str(path), "train", 1)
    rows = [{"id": "1", "title": "a"}, {"id": "2", "title": "b"}]
    assert rows_of(partitions) == rows_of(without_parsed(partitions)) == rows
    assert [row for _, row in read_numbered_rows(RowsConfig(input=str(path)))] == rows


@pytest.mark.parametrize("name", WRITERS)
def test_a_partition_is_read_without_those_before_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, ROWS)
    last = find_partitions(str(path), "train", 5)[-1]
    assert [raw.row for raw in read_partition(last)] == ROWS[last.first :]
    if last.kind in ("lines", "cells"):
        assert last.start > path.stat().st_size // 2


def test_a_parquet_file_is_cut_where_its_row_groups_end(tmp_path: Path) -> None:
    _write_parquet(tmp_path / "a.parquet", ROWS)
    partitions = find_partitions(str(tmp_path / "a.parquet"), "train", 7)
    assert [(partition.first, partition.rows) for partition in partitions] == [
        (0, 4),
        (4, 7),
        (11, 7),
        (18, 5),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_rows_that_are_added_leave_the_partitions_before_them_as_they_are(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    WRITERS[name](path, ROWS[:20])
    before = find_partitions(str(path), "train", 10)
    WRITERS[name](path, ROWS)
    after = find_partitions(str(path), "train", 10)
    assert [partition.identity for partition in after[:1]] == [
        partition.identity for partition in before[:1]
    ]
    assert len(after) == 3


@pytest.mark.parametrize("name", WRITERS)
def test_a_row_that_changes_changes_its_partition(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path, ROWS)
    before = find_partitions(str(path), "train", 10)
    WRITERS[name](path, [*ROWS[:-1], {**ROWS[-1], "price": "9"}])
    os.utime(
        path, ns=(0, before[0].rows)
    )  # a Parquet file is told by its size and its time
    after = find_partitions(str(path), "train", 10)
    assert after[-1].identity != before[-1].identity
    if name in ("a.jsonl", "a.csv"):
        assert [partition.identity for partition in after[:-1]] == [
            partition.identity for partition in before[:-1]
        ]


def test_a_line_that_is_no_object_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id": 1}\n{"id": \n[1]\n\xff\n{"id": 5}\n')
    (partition,) = find_partitions(str(tmp_path / "a.jsonl"), "train", 10)
    rows = list(read_partition(partition))
    assert list(read_partition(replace(partition, parsed=None))) == rows
    assert rows[0] == RawRow(0, {"id": 1})
    assert rows[4] == RawRow(4, {"id": 5})
    faults = [row.fault for row in rows[1:4]]
    expected = [
        "the line is not JSON (",
        "the line is a list, not an object",
        "the line is not UTF-8 (",
    ]
    assert [
        fault[: len(start)] for fault, start in zip(faults, expected, strict=True)
    ] == expected


def test_a_row_of_too_few_cells_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,title\n1,a\n2\n", encoding="utf-8")
    (partition,) = find_partitions(str(tmp_path / "a.csv"), "train", 10)
    rows = list(read_partition(partition))
    assert list(read_partition(replace(partition, parsed=None))) == rows
    assert rows[1] == RawRow(1, {}, "1 cell under a header of 2")


def test_several_tables_are_partitions_under_their_own_names(tmp_path: Path) -> None:
    for folder in ("2023", "2024"):
        (tmp_path / folder).mkdir()
        _write_lines(tmp_path / folder / "a.jsonl", ROWS)
    partitions = find_partitions(str(tmp_path / "*" / "a.jsonl"), "train", 100)
    assert [partition.label for partition in partitions] == [
        "2023/a.jsonl",
        "2024/a.jsonl",
    ]
    assert len({partition.name for partition in partitions}) == 2


@pytest.mark.parametrize("name", ["*/a.jsonl", "202?/*.jsonl"])
def test_a_table_has_its_name_whatever_lies_beside_it(
    tmp_path: Path, name: str
) -> None:
    for folder in ("2024", "2025"):
        (tmp_path / folder).mkdir()
        _write_lines(tmp_path / folder / "a.jsonl", ROWS)
        first = find_partitions(str(tmp_path / name), "train", 100)[0]
        assert first.label == "2024/a.jsonl"


@pytest.mark.parametrize("name", ["*/a.tar", "{2024,2024}/a.tar"])
def test_a_shard_has_its_name_whatever_lies_beside_it(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "2024").mkdir()
    with tarfile.open(tmp_path / "2024" / "a.tar", "w") as tar:
        add_sample(tar, "000", b"pixels", b"{}")
    (alone,) = find_partitions(str(tmp_path / name), "train", 100)
    assert alone.label == "2024/a.tar"


def test_a_shard_that_was_cut_short_gives_its_whole_samples_and_a_row_that_says_so(
    tmp_path: Path,
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for key in ("000", "001"):
            add_sample(tar, key, b"pixels", b"{}")
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 5 * 512])  # within the second sample

    (partition,) = find_partitions(str(tmp_path / "a.tar"), "train", 100)
    rows = list(read_partition(partition))

    assert [row.number for row in rows] == [0, 1]
    assert rows[0].fault == ""
    assert rows[1].fault.startswith("the shard is truncated (")


def test_a_folder_gives_its_images_by_their_paths(
    tmp_path: Path, images: list[Image.Image]
) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "deep/a.JPG", "c.webp"):
        images[0].save(tmp_path / name, "JPEG" if name.endswith("JPG") else None)
    (tmp_path / "notes.txt").touch()
    partitions = find_partitions(str(tmp_path), "train", 2)
    assert [row["id"] for row in rows_of(partitions)] == [
        "b.png",
        "c.webp",
        "deep/a.JPG",
    ]
    assert rows_of(partitions)[0] == {"id": "b.png", "image": "b.png"}


def test_a_link_to_no_image_is_a_row(tmp_path: Path, images: list[Image.Image]) -> None:
    images[0].save(tmp_path / "a.png")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert [
        row["id"] for row in rows_of(find_partitions(str(tmp_path), "train", 2))
    ] == [
        "a.png",
        "b.jpg",
    ]


def test_an_image_that_is_replaced_changes_its_partition(
    tmp_path: Path, images: list[Image.Image]
) -> None:
    for number in range(4):
        images[0].save(tmp_path / f"{number}.png")
    before = find_partitions(str(tmp_path), "train", 2)
    images[1].save(tmp_path / "3.png")
    after = find_partitions(str(tmp_path), "train", 2)
    assert [a.identity == b.identity for a, b in zip(after, before, strict=True)] == [
        True,
        False,
    ]


def test_a_tar_is_a_partition(tmp_path: Path) -> None:
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for sample in range(3):
                add_sample(
                    tar,
                    f"{sample:03}",
                    b"pixels",
                    json.dumps({"captions": ["a", "b"], "price": sample}).encode(),
                )
    partitions = find_partitions(str(tmp_path), "train", 1)
    assert [(partition.label, partition.rows) for partition in partitions] == [
        ("0.tar", 3),
        ("1.tar", 3),
    ]
    wanted = {"captions": ["a", "b"], "price": 2, "key": "002", "image": b"pixels"}
    assert rows_of(partitions[:1])[2] == wanted
    assert rows_of(
        find_partitions(str(tmp_path / "{0..1}.tar"), "train", 1)
    ) == rows_of(partitions)


def test_a_sample_that_is_broken_says_so(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        add_sample(tar, "000", b"pixels", b"{")
        add_sample(tar, "001", b"pixels", b'{"captions": "not a list"}')
        add_sample(tar, "002", b"pixels", b'{"captions": ["a"]}')
    rows = list(read_partition(find_partitions(str(tmp_path / "0.tar"), "train", 1)[0]))
    assert [
        "is not JSON" in rows[0].fault,
        "not a list of texts" in rows[1].fault,
        rows[2].fault,
    ] == [True, True, ""]


def test_a_data_set_is_cut_into_ranges(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "set"))
    partitions = find_partitions(str(tmp_path / "set"), "train", 10)
    assert [partition.rows for partition in partitions] == [10, 10, 3]
    assert rows_of(partitions) == ROWS


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "'.*nothing' does not exist"),
        ("empty", "empty is empty; give a folder of images, a table or shards"),
        (
            "tables",
            r"tables holds .csv, but no image and no .tar; give its tables as '.*tables/\*.csv'",
        ),
        ("notes.doc", "ends with '.doc'; rows are read from .jsonl"),
        ("broken.parquet", "broken.parquet is not a readable Parquet file"),
        ("broken.tar", "broken.tar is not a tar file"),
        ("broken.json", "broken.json is not JSON"),
    ],
)
def test_what_is_no_input_is_refused_by_what_it_is(
    tmp_path: Path, name: str, message: str
) -> None:
    for folder in ("empty", "tables"):
        (tmp_path / folder).mkdir()
    for file in (
        "tables/a.csv",
        "notes.doc",
        "broken.parquet",
        "broken.tar",
        "broken.json",
    ):
        (tmp_path / file).write_text("no", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        find_partitions(str(tmp_path / name), "train", 10)
