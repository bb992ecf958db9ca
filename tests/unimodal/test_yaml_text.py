"""YAML is read as version 1.2 says, what YAML loses without a word is refused, and what is written
comes back.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from unimodal.yaml_text import dump_yaml, parse_value, parse_yaml, read_yaml


@pytest.mark.parametrize(
    "text", ["on", "off", "yes", "no", "y", "n", "Y", "N", "On", "OFF", "Yes", "NO"]
)
def test_only_true_and_false_are_booleans(text: str) -> None:
    assert parse_value(f"[title, {text}]") == ["title", text]
    assert parse_yaml(f"{text}: {text}", "a.yaml") == {text: text}
    assert parse_value("[true, False, TRUE]") == [True, False, True]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12:30", "12:30"),
        ("1:30:00.5", "1:30:00.5"),
        ("2026-11-30", "2026-11-30"),
        ("2026-11-30T10:00:00Z", "2026-11-30T10:00:00Z"),
        ("010", 10),
        ("-010", -10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("+7", 7),
        ("3e-4", 3e-4),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        ("=", "="),
        ("~", None),
        ("null", None),
        ("nUll", "nUll"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_a_plain_value_is_what_the_core_schema_says(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(parse_value(".nan"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "tasks:\n  a: 1\nsteps: 2\ntasks:\n  b: 1",
            "line 4: the key 'tasks' is written twice, in lines 1 and 4",
        ),
        (
            "a:\n- {x: 1,\n   'x': 2}",
            "line 3: the key 'x' is written twice, in lines 2 and 3",
        ),
        (
            "a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a",
            "line 4: the key '<<' is written twice",
        ),
        (
            "a:\n  b: {c:d}",
            "line 2: {c:d} has the one key 'c:d' and no value; write a blank after the "
            "colon, {c: d}",
        ),
        ("a: [1\nb: 2", "line 2 is not YAML: "),
        (
            "a: 1\n\tb: 2",
            "line 2 is not YAML: found character '\\t' that cannot start any token",
        ),
        ("a: 1\n---\nb: 2", "line 2 is not YAML: "),
        ("a: \x07", " is not YAML: unacceptable character #x0007"),
        (
            "a: !!python/name:os.system ''",
            "line 1 is not YAML: could not determine a constructor",
        ),
    ],
)
def test_a_fault_has_its_file_and_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse_yaml(text, "a.yaml")
    assert str(caught.value).startswith("a.yaml")
    assert "\n" not in str(caught.value)


def test_an_anchor_may_be_laid_under_other_values() -> None:
    assert parse_yaml("a: &a {x: 1, y: 1}\nb:\n  <<: *a\n  x: 2", "a.yaml")["b"] == {
        "x": 2,
        "y": 1,
    }


def test_an_empty_value_in_a_block_is_null() -> None:
    assert parse_yaml("a:\nb: 1", "a.yaml") == {"a": None, "b": 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes("name: café\nb: 1\n".encode(encoding))
    assert read_yaml(tmp_path / "a.yaml") == {"name": "café", "b": 1}


def test_a_file_in_latin_1_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("steps: 1\nname: café\n".encode("latin-1"))
    with pytest.raises(
        ValueError,
        match=r"a\.yaml, line 2 is not UTF-8 \(byte 0xe9\); save the file as UTF-8\.",
    ):
        read_yaml(tmp_path / "a.yaml")


def test_what_is_written_is_read_as_the_same_by_this_and_by_older_readers() -> None:
    texts = [
        "on",
        "3e-4",
        "1e3",
        "12:30",
        "010",
        "0o17",
        "2026-11-30",
        "1_000",
        "~",
        "null",
        "true",
        "yes",
        "=",
        "<<",
    ]
    texts += ["5.", ".5", "+1", "0x1f", "café", "a: b", "#x", "", "{a:b}", "two\nlines"]
    values = {
        "texts": texts,
        "others": [None, True, 1, 1e-5, 3e-4, 1e22, math.inf, {}, []],
    }
    assert parse_yaml(dump_yaml(values), "a.yaml") == values
    assert yaml.safe_load(dump_yaml(values)) == values
