from __future__ import annotations

from typing import Any

import pytest

from eval.data.retrieval import RetrievalData
from eval.results import TaskResult
from eval.scoring.score_row import Half, ScoreRow
from eval.suites import Suite
from eval.summary import balance_rows, summary_rows
from unimodal.config import parse_config

DATA = RetrievalData(["q"], ["d"], [[0]])


def scored(name: str, half: Half, *rows: tuple[str, float | None, str]) -> TaskResult:
    return TaskResult(
        name,
        half,
        DATA,
        [
            ScoreRow(name, metric, value, 0.1, 0.2, variant=variant)
            for metric, value, variant in rows
        ],
    )


def suite_of(averages: dict[str, Any], **tasks: Any) -> Suite:
    return parse_config(Suite, {"tasks": tasks, "averages": averages})


def captions(name: str) -> dict[str, Any]:
    return {"kind": "image-text", "rows": {"input": f"{name}.jsonl"}}


LANGUAGES = {"kind": "xtd10", "languages": ["de", "en"]}


def test_languages_are_averaged_and_their_mean_is_in_the_averages_of_the_suite() -> (
    None
):
    suite = suite_of(
        {
            "pictures": {
                "tasks": ["xtd/text->image", "figures/text->image"],
                "metric": "hit_rate_at_1",
            }
        },
        xtd=LANGUAGES,
        figures=captions("figures"),
    )
    results = [
        scored(
            "xtd/de/text->image",
            "cross-modal",
            ("hit_rate_at_1", 0.2, ""),
            ("hit_rate_at_1", 0.1, "8 dims"),
        ),
        scored(
            "xtd/en/text->image",
            "cross-modal",
            ("hit_rate_at_1", 0.4, ""),
            ("hit_rate_at_1", 0.3, "8 dims"),
        ),
        scored("figures/text->image", "cross-modal", ("hit_rate_at_1", 0.9, "")),
    ]
    values = {
        (row.task, row.metric, row.variant): row.value
        for row in summary_rows(results, suite)
    }
    assert values == {
        ("xtd/text->image", "hit_rate_at_1", ""): pytest.approx(0.3),
        ("xtd/text->image", "hit_rate_at_1", "8 dims"): pytest.approx(0.2),
        ("pictures", "hit_rate_at_1", ""): pytest.approx(0.6),
    }
    assert summary_rows(results, suite)[0].chance == pytest.approx(0.1)


def test_a_mean_of_which_a_task_is_not_there_is_left_out() -> None:
    suite = suite_of(
        {"both": {"tasks": ["a", "b"], "metric": "ndcg_at_10"}}, a=captions("a")
    )
    with pytest.warns(
        UserWarning, match="the average 'both' is left out: b has no row of ndcg_at_10"
    ):
        assert summary_rows([scored("a", "text", ("ndcg_at_10", 0.5, ""))], suite) == []
    both = suite_of(
        {"both": {"tasks": ["a", "b"], "metric": "ndcg_at_10"}},
        a=captions("a"),
        b=captions("b"),
    )
    unscored = [
        scored("a", "text", ("ndcg_at_10", 0.5, "")),
        scored("b", "text", ("ndcg_at_10", None, "")),
    ]
    assert summary_rows(unscored, both) == []


def undefined(name: str, half: Half, metric: str) -> TaskResult:
    return TaskResult(
        name,
        half,
        DATA,
        [ScoreRow(name, metric, None, 0.0, None, note="all scores are 3")],
    )


def test_an_undefined_score_is_left_out_of_means_and_named() -> None:
    suite = suite_of(
        {
            "all": {"tasks": ["a", "b", "c"], "metric": "spearman"},
            "none": {"tasks": ["c"], "metric": "spearman"},
        },
        a=captions("a"),
        b=captions("b"),
        c=captions("c"),
    )
    results = [
        scored("a", "text", ("spearman", 0.4, "")),
        scored("b", "text", ("spearman", 0.8, "")),
        undefined("c", "text", "spearman"),
        scored("d", "cross-modal", ("hit_rate_at_1", 0.5, "")),
    ]
    rows = {(row.task, row.metric): row for row in summary_rows(results, suite)}
    mean = rows["all", "spearman"]
    nothing = rows["none", "spearman"]
    assert mean.value == pytest.approx(0.6)
    assert mean.note == "the mean of 2 of 3: c undefined"
    assert (nothing.value, nothing.is_undefined) == (None, True)
    assert rows["balance", "text_mean"].value == pytest.approx(0.6)
    assert rows["balance", "text_mean"].note == "the mean of 3 of 4: c undefined"


def test_a_balance_with_a_half_below_zero_says_why_it_has_no_harmonic_mean() -> None:
    rows = balance_rows(
        [
            scored("a", "text", ("spearman", -0.4, "")),
            scored("b", "cross-modal", ("ndcg", 0.5, "")),
        ]
    )
    assert (rows[-1].metric, rows[-1].value) == ("harmonic_mean", None)
    assert "below 0" in rows[-1].note


def test_balance_counts_each_task_once_and_names_the_weaker_half() -> None:
    results = [
        scored("beir/one", "text", ("ndcg_at_10", 0.5, ""), ("hit_rate_at_1", 0.9, "")),
        scored("beir/two", "text", ("ndcg_at_10", 0.7, "")),
        scored("sts", "text", ("spearman", 0.8, "")),
        scored(
            "photos/text->image",
            "cross-modal",
            ("hit_rate_at_1", 0.2, ""),
            ("hit_rate_at_1", 0.1, "8 dims"),
        ),
        scored("photos/image->text", "cross-modal", ("hit_rate_at_1", 0.4, "")),
        scored("looks", "image", ("ndcg_at_10", 0.99, "")),
    ]
    values = {row.metric: row.value for row in balance_rows(results)}
    assert values == {
        "text_mean": pytest.approx(0.7),
        "cross-modal_mean": pytest.approx(0.3),
        "min": pytest.approx(0.3),
        "harmonic_mean": pytest.approx(2 / (1 / 0.7 + 1 / 0.3)),
    }


def test_one_half_alone_has_no_balance() -> None:
    assert balance_rows([scored("sts", "text", ("spearman", 0.8, ""))]) == []
    unscored = scored("photos/text->image", "cross-modal", ("hit_rate_at_1", None, ""))
    assert balance_rows([scored("sts", "text", ("spearman", 0.8, "")), unscored]) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"averages": {"all": {"tasks": ["a", "a"], "metric": "ndcg"}}},
            "averages.all.tasks: 'a' is there twice",
        ),
        (
            {"analysis": {"dims": [8, 8]}},
            "analysis.dims: 8 is there twice; name each once",
        ),
        (
            {"analysis": {"robustness": ["typos", "typos"]}},
            "analysis.robustness: 'typos' is there twice",
        ),
        (
            {"tasks": {"a": {**captions("a"), "metrics": ["recall_at_5"] * 2}}},
            "metrics: 'recall_at_5' is there twice",
        ),
    ],
)
def test_what_would_count_twice_is_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(Suite, {"tasks": {"a": captions("a")}, **values})
