from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest
import pytrec_eval
import scipy.stats

from eval.scoring import ranks as ranks_module
from eval.scoring.metrics import (
    METRICS,
    check_vectors,
    metric_values,
    parse_metric,
    pearson,
    spearman,
    unordered,
)
from eval.scoring.ranks import Ranks, ranks, ranks_of_lists
from unimodal.vectors import Vectors

MakeVectors: TypeAlias = Callable[[int], tuple[Vectors, Vectors]]
KS = (1, 3, 5, 10, 20, 100, 1000)
PYTREC = {
    "ndcg": "ndcg_cut",
    "map": "map_cut",
    "recall": "recall",
    "precision": "P",
    "hit_rate": "success",
}
NUM_QUERIES = 40


def float_vectors(num_documents: int = 130) -> tuple[Vectors, Vectors]:
    random = np.random.default_rng(1)
    queries = random.standard_normal((NUM_QUERIES, 8))
    documents = random.standard_normal((num_documents, 8))
    queries, documents = (
        side / np.linalg.norm(side, axis=1, keepdims=True)
        for side in (queries, documents)
    )
    return queries.astype(np.float32), documents.astype(np.float32)


def tied_vectors(num_documents: int = 130) -> tuple[Vectors, Vectors]:
    """Small whole numbers: their products are exact, and most documents share their score with many
    others.
    """
    random = np.random.default_rng(2)
    queries = random.integers(-1, 2, (NUM_QUERIES, 3))
    documents = random.integers(-1, 2, (num_documents, 3))
    return queries.astype(np.float32), documents.astype(np.float32)


@pytest.mark.parametrize("vectors", [float_vectors, tied_vectors])
@pytest.mark.parametrize("num_documents", [7, 130, 1300])
@pytest.mark.parametrize("graded", [False, True])
def test_metrics_equal_pytrec_eval(
    vectors: MakeVectors, num_documents: int, graded: bool
) -> None:
    queries, documents = vectors(num_documents)
    random = np.random.default_rng(num_documents)
    relevant = [
        random.permutation(num_documents)[
            : random.integers(1, min(60, num_documents) + 1)
        ].tolist()
        for _ in queries
    ]
    gains = [
        [1, *(int(random.integers(-1, 4)) if graded else 1 for _ in one[1:])]
        for one in relevant
    ]
    run = {
        str(query): {str(document): float(score) for document, score in enumerate(row)}
        for query, row in enumerate(queries @ documents.T)
    }
    judged = {
        str(query): {
            str(one): int(gain)
            for one, gain in zip(positions, gains[query], strict=True)
        }
        for query, positions in enumerate(relevant)
    }
    wanted = {f"{name}.{','.join(map(str, KS))}" for name in PYTREC.values()} | {
        "recip_rank"
    }
    theirs = pytrec_eval.RelevanceEvaluator(judged, wanted).evaluate(run)
    found = ranks(queries, documents, relevant, gains=gains)
    for (family, name), k in itertools.product(PYTREC.items(), KS):
        expected = [theirs[str(query)][f"{name}_{k}"] for query in range(NUM_QUERIES)]
        np.testing.assert_allclose(
            metric_values(f"{family}_at_{k}", found),
            expected,
            atol=1e-6,
            err_msg=f"{name}_{k}",
        )
    first = np.array([theirs[str(query)]["recip_rank"] for query in range(NUM_QUERIES)])
    for k in KS:
        np.testing.assert_allclose(
            metric_values(f"mrr_at_{k}", found),
            np.where(1 / first <= k, first, 0),
            atol=1e-6,
        )


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("wide", [False, True])
def test_lost_documents_count_as_in_pytrec_eval(
    graded: bool, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay in the ideal ranking and among those that recall counts; a query that lost all of
    them scores 0.
    """
    if wide:
        monkeypatch.setattr(ranks_module, "WIDE", 16)
        monkeypatch.setattr(ranks_module, "WIDE_COLUMNS", 37)
    queries, documents = tied_vectors()
    random = np.random.default_rng(5)
    relevant = [
        random.permutation(130)[: random.integers(0, 60)].tolist() for _ in queries
    ]
    gains = [
        [float(random.integers(1, 4)) if graded else 1.0 for _ in one]
        for one in relevant
    ]
    lost = [
        [float(random.integers(1, 4)) if graded else 1.0]
        * int(random.integers(not one, 4))
        for one in relevant
    ]
    relevant[3], gains[3], lost[3] = [], [], [1.0, 1.0]
    run = {
        str(query): {str(document): float(score) for document, score in enumerate(row)}
        for query, row in enumerate(queries @ documents.T)
    }
    judged = {
        str(query): {
            **{
                str(one): int(gain)
                for one, gain in zip(relevant[query], gains[query], strict=True)
            },
            **{f"lost {number}": int(gain) for number, gain in enumerate(lost[query])},
        }
        for query in range(NUM_QUERIES)
    }
    wanted = {f"{name}.{','.join(map(str, KS))}" for name in PYTREC.values()}
    theirs = pytrec_eval.RelevanceEvaluator(judged, wanted).evaluate(run)
    found = ranks(
        queries, documents, relevant, gains=gains if graded else None, lost=lost
    )
    assert theirs["3"]["ndcg_cut_10"] == 0.0
    for (family, name), k in itertools.product(PYTREC.items(), KS):
        expected = [theirs[str(query)][f"{name}_{k}"] for query in range(NUM_QUERIES)]
        np.testing.assert_allclose(
            metric_values(f"{family}_at_{k}", found),
            expected,
            atol=1e-6,
            err_msg=f"{name}_{k}",
        )


def test_metrics_equal_their_formulas_by_hand() -> None:
    found = ranks_of_lists([[3, 1], [7]])
    best = 1 + 1 / math.log2(3)
    expected = {
        "hit_rate_at_1": [1.0, 0.0],
        "recall_at_2": [0.5, 0.0],
        "precision_at_4": [0.5, 0.0],
        "mrr_at_10": [1.0, 1 / 7],
        "mrr_at_5": [1.0, 0.0],
        "map_at_10": [(1 + 2 / 3) / 2, 1 / 7],
        "map_at_2": [1 / 2, 0.0],
        "ndcg_at_10": [(1 + 0.5) / best, 1 / 3],
    }
    for metric, values in expected.items():
        np.testing.assert_allclose(metric_values(metric, found), values, err_msg=metric)


def test_five_captions_of_an_image_are_one_hit_and_a_fifth_of_the_recall() -> None:
    found = ranks_of_lists([[1, 9, 8, 7, 6]])
    assert metric_values("hit_rate_at_1", found).tolist() == [1.0]
    assert metric_values("recall_at_1", found).tolist() == [0.2]


def test_no_queries_have_no_values() -> None:
    none: Ranks = ranks_of_lists([])
    assert [metric_values(f"{family}_at_5", none).shape for family in METRICS] == [
        (0,)
    ] * len(METRICS)


@pytest.mark.parametrize("name", ["ndgc_at_10", "ndcg", "ndcg_at_0", "ndcg_at_x"])
def test_a_metric_that_is_none_is_named_with_the_nearest(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"no metric '{name}' of a ranking; .*ndcg_at_10"
    ):
        parse_metric(name)


def test_equal_vectors_are_refused_or_warned_of() -> None:
    same = np.full((10, 4), 0.5, dtype=np.float32)
    with pytest.raises(
        ValueError, match="documents of shop: all 10 vectors are nearly equal"
    ):
        check_vectors(same, "documents of shop")
    with pytest.warns(RuntimeWarning, match="all 10 vectors are nearly equal"):
        check_vectors(same, "documents of shop", refuse_collapsed=False)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused(value: float) -> None:
    vectors = float_vectors()[0]
    vectors[3, 2] = value
    with pytest.raises(
        ValueError, match="queries: 1 of 40 vectors hold NaN or infinity"
    ):
        check_vectors(vectors, "queries")


def test_a_vector_whose_length_is_not_one_is_refused() -> None:
    vectors = float_vectors()[0]
    check_vectors(vectors * np.float32(1.0009), "queries")
    vectors[3] *= 0.99
    with pytest.raises(
        ValueError, match=r"queries: a vector has the length 0\.99, not 1"
    ):
        check_vectors(vectors, "queries")


def test_sound_vectors_pass_and_so_does_a_single_one() -> None:
    check_vectors(float_vectors()[0], "queries")
    check_vectors(float_vectors()[0][:1], "one query")


@pytest.mark.parametrize("levels", [3, 1000])
def test_correlations_equal_scipy(levels: int) -> None:
    random = np.random.default_rng(levels)
    left = random.integers(0, levels, 200)
    right = left + random.normal(size=200).round(1) * levels
    assert spearman(left, right) == pytest.approx(
        scipy.stats.spearmanr(left, right).statistic, abs=1e-12
    )
    assert pearson(left, right) == pytest.approx(
        scipy.stats.pearsonr(left, right).statistic, abs=1e-12
    )


@pytest.mark.parametrize("side", [[0.1, 0.1, 0.1], [1.0, 1.0, 1.0], [1.0], []])
@pytest.mark.filterwarnings("ignore")  # scipy's own
def test_the_correlation_with_a_constant_is_undefined_as_scipys_is(
    side: list[float],
) -> None:
    other = [1.0, 2.0, 3.0][: len(side)]
    for ours in (spearman, pearson):
        assert math.isnan(ours(side, other))
        assert math.isnan(ours(other, side))
    if len(side) > 1:
        assert math.isnan(scipy.stats.spearmanr(side, other).statistic)
        assert math.isnan(scipy.stats.pearsonr(side, other).statistic)


def test_why_a_correlation_is_undefined_is_said() -> None:
    same = np.float32(0.7) + np.array(
        [0, 1e-7, -1e-7], dtype=np.float32
    )  # but for rounding
    assert (
        unordered(same, [1, 2, 3]) == "the model gives all 3 pairs the same similarity"
    )
    assert unordered([0.1, 0.2, 0.3], [3, 3, 3]) == "the scores of all 3 pairs are 3"
    assert unordered([0.1], [3]) == "1 pair"
    assert unordered([], []) == "0 pairs"
    assert unordered([0.1, 0.2, 0.2], [3, 2, 3]) == ""


def test_a_hit_is_a_document_of_the_gain_that_counts_as_one() -> None:
    found = dataclasses.replace(
        ranks_of_lists([[1, 4], [2, 3]], [[1, 3], [3, 3]]), hit_gain=3.0
    )
    assert metric_values("hit_rate_at_1", found).tolist() == [0.0, 0.0]
    assert metric_values("hit_rate_at_3", found).tolist() == [0.0, 1.0]
    assert metric_values("mrr_at_3", found).tolist() == [1.0, 0.5]
    assert found.hit_counts.tolist() == [1, 2]
