"""A new kind of task data is one class: it is encoded, scored, analysed and reported as it is."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from eval.analysis.analyse import analyse
from eval.analysis.contamination import TaskOverlap, overlap_rows
from eval.analysis.failures import worst_pairs, worst_queries
from eval.cache import EmbeddingCache
from eval.data.inputs import Side
from eval.data.task_data import TaskData
from eval.evaluate import evaluate, score_names
from eval.plan import Counts, make_plan
from eval.report.page import write_report
from eval.results import compare
from eval.scoring.score_row import Half, ScoreRow, Values
from eval.scoring.statistics import mean_rows
from eval.suites import Suite
from unimodal.inputs import Plain
from unimodal.vectors import Vectors, normalize


@dataclass(frozen=True)
class DuplicateData(TaskData):
    """Pairs of texts that say the same, or not: is the cosine on the right side of one half?"""

    left: list[str]
    right: list[str]
    labels: list[bool]

    def inputs(self) -> tuple[Side, Side]:
        return Side(self.left), Side(self.right, "document")

    @property
    def half(self) -> Half:
        return "text"

    @property
    def default_metrics(self) -> tuple[str, ...]:
        return ("duplicate_accuracy",)

    def score(
        self,
        task: str,
        metrics: Sequence[str],
        queries: Vectors | None,
        documents: Vectors | None,
        *,
        with_intervals: bool = True,
    ) -> tuple[list[ScoreRow], dict[str, Values]]:
        values: dict[str, Values] = {}
        if queries is not None and documents is not None:
            is_same = (queries * documents).sum(axis=1) > 0.5
            hits = np.asarray(is_same == np.array(self.labels), dtype=np.float64)
            values = dict.fromkeys(metrics, hits)
        chance = dict.fromkeys(metrics, 0.5)
        rows = mean_rows(
            task, metrics, values, chance, {}, with_intervals=with_intervals
        )
        return rows, values


class WordHash:
    """Adds up a random vector for each word."""

    prompts: Mapping[str, str] = {}

    def __init__(self, *modalities: str) -> None:
        self.modalities = frozenset(modalities)

    def fingerprint(self) -> str:
        return ""

    def encode(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        vectors = np.zeros((len(inputs), 32), dtype=np.float32)
        for row, text in enumerate(inputs):
            for word in str(text).split():
                rng = np.random.default_rng(zlib.crc32(word.encode()))
                vectors[row] += rng.standard_normal(32)
        return normalize(vectors)

    encode_query = encode
    encode_document = encode


PAIRS = DuplicateData(
    ["a red hat", "a blue shoe", "a green bag", "a big lamp"],
    ["a red hat here", "blue shoe", "two dogs run", "a big lamp"],
    [True, True, False, False],
)


def suite(**task: object) -> Suite:
    rows = {"input": "rows.jsonl"}
    return Suite.model_validate(
        {
            "tasks": {"same": {"kind": "sts", "rows": rows, **task}},
            "averages": {"both": {"tasks": ["same"], "metric": "duplicate_accuracy"}},
            "analysis": {
                "dims": [16],
                "space": True,
                "compression": True,
                "neighbours": True,
                "map": "pca",
                "robustness": ["typos", "poor jpeg"],
            },
        }
    )


def test_it_is_scored_by_its_own_method_from_its_own_inputs(tmp_path: Path) -> None:
    tasks: dict[str, TaskData] = {"same": PAIRS}
    assert score_names(suite(), tasks) == ["same duplicate_accuracy"]
    (result,) = evaluate(WordHash("text"), suite(), tmp_path, tasks=tasks)
    row, short = result.rows
    assert (row.task, row.metric, row.value) == ("same", "duplicate_accuracy", 0.75)
    assert (row.chance, row.num, row.low is not None) == (0.5, 4, True)
    assert short.variant == "16 dims"
    assert result.half == "text"


def test_a_model_without_its_modality_has_no_score(tmp_path: Path) -> None:
    (result,) = evaluate(WordHash("image"), suite(), tmp_path, tasks={"same": PAIRS})
    assert [row.value for row in result.rows] == [None, None]


def test_a_metric_that_it_does_not_have_is_refused_with_the_nearest(
    tmp_path: Path,
) -> None:
    wrong = suite(metrics=["duplicate_acuracy"])
    with pytest.raises(ValueError, match=r"duplicate_acuracy.*duplicate_accuracy"):
        evaluate(WordHash("text"), wrong, tmp_path, tasks={"same": PAIRS})


def test_it_is_planned_compared_analysed_and_reported(tmp_path: Path) -> None:
    cache = EmbeddingCache(WordHash("text"))
    tasks: dict[str, TaskData] = {"same": PAIRS.check("same")}
    assert make_plan(cache, tasks, measure=False).total == Counts(7, 0, 7, 0)
    results = evaluate(WordHash("text"), suite(), tmp_path, tasks=tasks, cache=cache)
    (comparison,) = compare(results, results)
    assert (comparison.difference, comparison.p_value) == (0.0, 1.0)
    report = analyse(results, suite(), cache)
    assert {row.task for row in report.rows} >= {"both"}
    page = tmp_path / "report.html"
    write_report(page, {"model": report}, title="a report")
    assert "duplicate_accuracy" in page.read_text()


def test_an_analysis_that_needs_more_leaves_it_out(tmp_path: Path) -> None:
    (result,) = evaluate(WordHash("text"), suite(), tmp_path, tasks={"same": PAIRS})
    assert worst_queries(result) == []
    assert worst_pairs(result) == []
    documents, answers = PAIRS.answers()
    assert documents == {}
    assert answers == [[], [], [], []]
    shares = overlap_rows(result, TaskOverlap("same", 4, 0))
    assert [row.value for row in shares] == [0.0, None]
