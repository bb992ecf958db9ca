"""JSON that says one thing twice is refused, wherever a user's JSON is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unimodal.formats import native
from unimodal.json_text import name_kind, parse_json, show_value
from unimodal.search.index.items import IndexConfig, Item, cut_input, items
from unimodal.search.index.reading import RawRow
from unimodal.shards.sample import Sample, record_of
from unimodal.tables.readers import RowsConfig, read_rows

TWICE = '{"id": "a", "title": "red mug", "id": "b"}'


@pytest.mark.parametrize(
    "text", ['{"a": [1, {"b": null}], "c": "d"}', b"[]", "3", '{"a": {"a": 1}}']
)
def test_what_is_written_once_is_what_json_says(text: str | bytes) -> None:
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    ("value", "written", "kind"),
    [
        (None, "null", "a null"),
        (True, "true", "a truth value"),
        (1.5, "1.5", "a number"),
        ("a\nb", r"'a\nb'", "a text"),
        ({"a": None}, '{"a": null}', "an object"),
        (["x" * 99], '["' + "x" * 58 + "…", "a list"),
        (b"a" * 2000, "2,000 bytes", "a value"),
    ],
)
def test_a_value_is_shown_in_jsons_words(
    value: object, written: str, kind: str
) -> None:
    assert show_value(value) == written
    assert name_kind(value) == kind


@pytest.mark.parametrize("text", [TWICE, f"[{TWICE}]", '{"a": {"id": 1, "id": 1}}'])
def test_a_key_that_is_written_twice_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="the key 'id' is written twice in one object"):
        parse_json(text)


@pytest.mark.parametrize("depth", [101, 700, 200_000])
def test_what_is_nested_too_deeply_is_not_json(tmp_path: Path, depth: int) -> None:
    deep = '{"id": 1, "text": ' + "[" * (depth - 1) + "]" * (depth - 1) + "}"
    with pytest.raises(ValueError, match="it is nested more than 100 levels deep"):
        parse_json(deep)
    (tmp_path / "rows.jsonl").write_text(
        '{"id": 0, "text": "x"}\n' + deep + "\n", encoding="utf-8"
    )
    config = IndexConfig(input=str(tmp_path / "rows.jsonl"), text=("text",))
    (partition,) = cut_input(config)
    good, bad = items(partition, config, {})
    assert isinstance(good, Item)
    assert isinstance(bad, RawRow)
    assert bad.fault == "the line is not JSON (it is nested more than 100 levels deep)"


def test_a_hundred_levels_are_read() -> None:
    text = "[" * 100 + "]" * 100
    assert parse_json(text) == json.loads(text)


def test_a_row_that_has_a_key_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"id": "c", "title": "x"}\n' + TWICE + "\n", encoding="utf-8"
    )
    with pytest.raises(
        ValueError,
        match=r"rows\.jsonl, line 2 is not JSON \(the key 'id' is written twice",
    ):
        list(read_rows(RowsConfig(input="rows.jsonl"), tmp_path))


def test_a_sample_that_has_a_key_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="the key 'id' is written twice"):
        record_of(Sample("0", {"json": TWICE.encode()}))


def test_a_model_directory_that_has_a_key_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"embed_dim": 8, "embed_dim": 16}', encoding="utf-8"
    )
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        ValueError,
        match=r"config\.json is not JSON \(the key 'embed_dim' is written twice",
    ):
        native.load(tmp_path)
