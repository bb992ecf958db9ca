"""The list of bad rows can be written and read, whatever a bad row holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unimodal.search.index.items import IndexConfig, cut_input, items
from unimodal.search.index.skipped import SKIPPED, listed, write_skipped
from unimodal.tables.skipped import is_over_limit, json_lines


def test_a_list_is_unicode_text_and_half_of_a_surrogate_pair_an_escape() -> None:
    lines = json_lines([{"reason": "grün"}, {"reason": "\ud800"}])
    assert lines == '{"reason": "grün"}\n{"reason": "\\ud800"}\n'
    assert [json.loads(line)["reason"] for line in lines.splitlines()] == [
        "grün",
        "\ud800",
    ]


def test_the_fields_of_a_bad_row_are_listed_whatever_their_names(
    tmp_path: Path,
) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"id": 1, "text": "a", "\\ud800": 1}\n', encoding="utf-8"
    )
    config = IndexConfig(
        input=str(tmp_path / "rows.jsonl"), text=("text",), hash_field="key"
    )
    (partition,) = cut_input(config)
    (bad,) = items(partition, config, {})
    head = {
        "input": config.input,
        "label": partition.label,
        "skipped": [{"row": 0, "id": "", "reason": bad.fault}],
    }
    write_skipped(tmp_path, listed(head))
    (line,) = (tmp_path / SKIPPED).read_text(encoding="utf-8").splitlines()
    assert "there is: id, text, \ud800" in json.loads(line)["reason"]


@pytest.mark.parametrize(
    ("skipped", "rows", "allowed", "ends"),
    [
        (100, 100, 0.01, False),
        (101, 1000, 0.01, True),
        (101, 20_000, 0.01, False),
        (1, 1000, 0, True),
        (0, 5, 0, False),
    ],
)
def test_a_run_ends_over_the_share_and_over_a_hundred(
    skipped: int, rows: int, allowed: float, ends: bool
) -> None:
    assert is_over_limit(skipped, rows, allowed) is ends
