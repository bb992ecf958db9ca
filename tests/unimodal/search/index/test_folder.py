"""The list of inputs is written whole, read back, and refused where it is not one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unimodal.search.index.folder import (
    INPUTS,
    IndexedInput,
    find_file,
    publish,
    read_inputs,
    staged,
    write_inputs,
)


def test_inputs_keep_their_order_and_names_of_any_bytes(tmp_path: Path) -> None:
    inputs = [
        IndexedInput(
            "/b/\udcff.jsonl", ("b.parquet",), 3, 1, 0, "2026-01-02T03:04:05+00:00"
        ),
        IndexedInput("/a/冬.jsonl", ("a.parquet", "a2.parquet"), 2, 0, 0),
    ]
    write_inputs(tmp_path, inputs)
    assert read_inputs(tmp_path) == inputs
    assert read_inputs(tmp_path / "nowhere") == []


def test_a_staged_file_gets_its_name_when_its_input_is_listed(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        staged(tmp_path, name).write_text(name)
    publish(tmp_path, [IndexedInput("/a.jsonl", ("a.parquet",), 1, 0, 0)])
    assert [find_file(tmp_path, name).name for name in ("a.parquet", "b.parquet")] == [
        "a.parquet",
        "_b.parquet",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no JSON", "is not a list of inputs; remove the folder"),
        ("[]", "is not a list of inputs"),
        (
            json.dumps({"format_version": 1, "inputs": [{"input": "a"}]}),
            "is not a list of inputs",
        ),
        (
            json.dumps({"format_version": 2, "inputs": 3}),
            "has format 2, and this version of unimodal reads 1",
        ),
    ],
)
def test_what_is_not_a_list_of_inputs_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / INPUTS).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_inputs(tmp_path)
