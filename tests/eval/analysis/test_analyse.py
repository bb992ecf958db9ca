"""What a suite asks for beside its scores is there, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.analysis.analyse import analyse
from eval.cache import EmbeddingCache
from eval.evaluate import evaluate
from eval.report.page import ModelReport
from eval.suites import Suite
from tests.eval.analysis.test_robustness import Words, make_image
from unimodal.config import parse_config


def _report(folder: Path, analysis: dict[str, Any]) -> ModelReport:
    rows = [
        {"image": f"{number}.png", "text": f"number {number} of all images"}
        for number in range(12)
    ]
    for number, row in enumerate(rows):
        (folder / row["image"]).write_bytes(make_image(number, (40, 30)))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"kind": "image-text", "rows": {"input": "rows.jsonl"}}
    suite = parse_config(
        Suite, {"tasks": {"pictures": task}, "analysis": analysis}, source="test"
    )
    store = EmbeddingCache(Words())
    return analyse(evaluate(store.encoder, suite, folder, cache=store), suite, store)


def test_a_suite_that_asks_for_nothing_gets_no_more_than_its_scores(
    tmp_path: Path,
) -> None:
    report = _report(tmp_path, {})
    assert (report.rows, report.maps, report.clusters, report.duplicates) == (
        [],
        [],
        [],
        [],
    )


@pytest.mark.parametrize(
    ("analysis", "variants"),
    [
        ({"space": True}, {"", "centred"}),
        (
            {"compression": True},
            {"", "int8", "int8 + re-ranked", "binary", "binary + re-ranked"},
        ),
        ({"robustness": ["typos"]}, {"typos", "typos, difference"}),
        ({"neighbours": True}, {"cosine 0.95"}),
    ],
)
def test_each_analysis_gives_its_own_rows(
    tmp_path: Path, analysis: dict[str, Any], variants: set[str]
) -> None:
    report = _report(tmp_path, analysis)
    assert {row.variant for row in report.rows} == variants
    assert (
        bool(report.clusters) == bool(report.duplicates) == ("neighbours" in analysis)
    )


def test_a_map_is_drawn_where_one_is_asked_for(tmp_path: Path) -> None:
    assert [drawn.task for drawn in _report(tmp_path, {"map": "pca"}).maps] == [
        "pictures"
    ]
