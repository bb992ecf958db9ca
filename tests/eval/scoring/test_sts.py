from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from eval.data.pairs import PairData
from eval.scoring.sts import bm25_similarities, cosines
from unimodal.bm25 import bm25_scores
from unimodal.vectors import Vectors

TEXTS = ["a red ball", "a blue ball", "the hat", "a red and a red and a blue ball"]
PAIRS = PairData(
    left=[TEXTS[0], TEXTS[0], TEXTS[2], TEXTS[3]],
    right=[TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[1]],
    scores=[5, 3, 0, 4],
    groups={"ends": [0, 2]},
)
LEFT = np.eye(2, dtype=np.float32)[[0, 0, 0, 0]]
RIGHT = np.array([[1, 0], [0.6, 0.8], [0, 1], [0.8, 0.6]], dtype=np.float32)


def test_bm25_similarity_equals_its_formula() -> None:
    scores = bm25_scores(TEXTS, TEXTS).astype(np.float64)
    expected = [
        (scores[a, b] + scores[b, a]) / (2 * np.sqrt(scores[a, a] * scores[b, b]))
        for a, b in [(0, 0), (0, 1), (2, 0), (3, 1)]
    ]
    np.testing.assert_allclose(bm25_similarities(PAIRS.left, PAIRS.right), expected)
    assert expected[0] == pytest.approx(1.0)
    assert expected[2] == 0.0


def test_a_text_without_words_is_like_no_other() -> None:
    similarities = bm25_similarities(["...", "?"], ["...", "a ball"])
    assert similarities.tolist() == [0.0, 0.0]


def test_the_similarity_of_a_pair_is_its_cosine() -> None:
    np.testing.assert_allclose(cosines(LEFT, RIGHT), [1.0, 0.6, 0.0, 0.8], atol=1e-7)


def test_groups_are_scored_apart_and_metrics_beside_each_other() -> None:
    rows, values = PAIRS.score("pairs", ["spearman", "pearson"], LEFT, RIGHT)
    assert [(row.task, row.metric) for row in rows] == [
        ("pairs", "spearman"),
        ("pairs", "pearson"),
        ("pairs/ends", "spearman"),
        ("pairs/ends", "pearson"),
    ]
    assert (rows[0].value, rows[0].chance) == (1.0, 0.0)
    assert [row.num for row in rows] == [
        4,
        4,
        len(PAIRS.groups["ends"]),
        len(PAIRS.groups["ends"]),
    ]
    assert rows[1].value == pytest.approx(
        np.corrcoef([1, 0.6, 0, 0.8], PAIRS.scores)[0, 1]
    )
    assert rows[0].baseline is not None
    np.testing.assert_allclose(values["cosine"], [1, 0.6, 0, 0.8], atol=1e-7)


def test_an_interval_comes_with_each_row_unless_it_is_not_wanted() -> None:
    worse = RIGHT[[1, 0, 3, 2]]
    rows, _ = PAIRS.score("pairs", ["spearman"], LEFT, worse)
    assert rows[0].low is not None
    assert rows[0].high is not None
    assert rows[0].value is not None
    assert rows[0].low <= rows[0].value <= rows[0].high
    plain, _ = PAIRS.score("pairs", ["spearman"], LEFT, worse, with_intervals=False)
    assert (plain[0].value, plain[0].low) == (rows[0].value, None)


def test_without_vectors_rows_have_the_words_alone() -> None:
    rows, values = PAIRS.score("pairs", ["spearman"], None, None)
    assert values == {}
    assert [row.value for row in rows] == [None, None]
    assert rows[0].baseline is not None


@pytest.mark.parametrize(
    ("scores", "right", "note"),
    [
        ([3, 3, 3, 3], RIGHT, "the scores of all 4 pairs are 3"),
        (
            [5, 3, 0, 4],
            RIGHT[[1, 1, 1, 1]],
            "the model gives all 4 pairs the same similarity",
        ),
    ],
)
def test_an_undefined_correlation_has_no_value_and_says_why(
    scores: list[float], right: Vectors, note: str
) -> None:
    pairs = dataclasses.replace(PAIRS, scores=scores, groups={"first": [0], "none": []})
    with pytest.warns(
        UserWarning, match=f"pairs: spearman and pearson undefined: {note}"
    ):
        rows, _ = pairs.score("pairs", ["spearman", "pearson"], LEFT, right)
    assert [(row.value, row.low, row.note) for row in rows[:2]] == [
        (None, None, note)
    ] * 2
    assert [(row.task, row.value, row.note) for row in rows[2::2]] == [
        ("pairs/first", None, "1 pair"),
        ("pairs/none", None, "0 pairs"),
    ]
    assert all(row.is_undefined for row in rows)


def test_a_baseline_that_is_undefined_is_none() -> None:
    pairs = PairData(
        ["one", "two", "three"], ["four", "five", "six"], [1, 2, 3]
    )  # no two share a word
    (row,), _ = pairs.score("pairs", ["spearman"], LEFT[:3], RIGHT[:3])
    assert row.value is not None
    assert row.baseline is None
