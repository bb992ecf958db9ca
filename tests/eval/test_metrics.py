from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import pytrec_eval
import scipy.stats

from eval import metrics
from eval.metrics import (
    chance_hit_rate,
    chance_ndcg,
    check_vectors,
    hit_rate_at_k,
    mrr,
    ndcg_at_k,
    ranks,
    ranks_of_scores,
    recall_at_k,
    spearman,
)

Vectors: TypeAlias = npt.NDArray[np.float32]
MakeVectors: TypeAlias = Callable[[], tuple[Vectors, Vectors]]
NUM_QUERIES, NUM_DOCUMENTS = 40, 130


def relevance(seed: int = 0) -> list[list[int]]:
    """One to thirteen relevant documents for each query, so that some have more than ten."""
    random = np.random.default_rng(seed)
    return [random.permutation(NUM_DOCUMENTS)[: random.integers(1, 14)].tolist() for _ in range(NUM_QUERIES)]


def float_vectors() -> tuple[Vectors, Vectors]:
    random = np.random.default_rng(1)
    queries, documents = random.standard_normal((NUM_QUERIES, 8)), random.standard_normal((NUM_DOCUMENTS, 8))
    return queries.astype(np.float32), documents.astype(np.float32)


def tied_vectors() -> tuple[Vectors, Vectors]:
    """Small whole numbers: their products are exact, and most documents share their score with many others."""
    random = np.random.default_rng(2)
    queries, documents = random.integers(-1, 2, (NUM_QUERIES, 3)), random.integers(-1, 2, (NUM_DOCUMENTS, 3))
    return queries.astype(np.float32), documents.astype(np.float32)


def naive_ranks(scores: Vectors, relevant: Sequence[Sequence[int]]) -> list[list[int]]:
    """Sort by score, then by the id as a string, both descending."""
    found = []
    for row, positions in zip(scores, relevant, strict=True):
        order = sorted(range(len(row)), key=lambda document: (row[document], str(document)), reverse=True)
        found.append([order.index(position) + 1 for position in positions])
    return found


@pytest.mark.parametrize("vectors", [float_vectors, tied_vectors])
def test_ranks_equal_a_sort(vectors: MakeVectors) -> None:
    queries, documents = vectors()
    found = ranks(queries, documents, relevance())
    assert [ranks_of_one.tolist() for ranks_of_one in found] == naive_ranks(queries @ documents.T, relevance())


def test_ranks_do_not_depend_on_the_size_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, documents = tied_vectors()
    whole = ranks(queries, documents, relevance())
    monkeypatch.setattr(metrics, "BLOCK_SCORES", 3 * NUM_DOCUMENTS)
    for one, other in zip(whole, ranks(queries, documents, relevance()), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("vectors", [float_vectors, tied_vectors])
def test_metrics_equal_pytrec_eval(vectors: MakeVectors) -> None:
    queries, documents = vectors()
    relevant = relevance()
    gains = [[1 + position % 3 for position in positions] for positions in relevant]
    run = {
        str(query): {str(document): float(score) for document, score in enumerate(row)}
        for query, row in enumerate(queries @ documents.T)
    }
    names = {"ndcg_cut_10", "recall_10", "success_1", "success_5", "recip_rank"}
    plain = pytrec_eval.RelevanceEvaluator(
        {str(query): {str(one): 1 for one in positions} for query, positions in enumerate(relevant)}, names
    ).evaluate(run)
    graded = pytrec_eval.RelevanceEvaluator(
        {
            str(query): dict(zip(map(str, positions), gain, strict=True))
            for query, (positions, gain) in enumerate(zip(relevant, gains, strict=True))
        },
        {"ndcg_cut_10"},
    ).evaluate(run)
    found = ranks(queries, documents, relevant)
    ours = {
        "ndcg_cut_10": ndcg_at_k(found, 10),
        "recall_10": recall_at_k(found, 10),
        "success_1": hit_rate_at_k(found, 1),
        "success_5": hit_rate_at_k(found, 5),
        "recip_rank": mrr(found),
    }
    for name, values in ours.items():
        theirs = [plain[str(query)][name] for query in range(NUM_QUERIES)]
        np.testing.assert_allclose(values, theirs, atol=1e-6, err_msg=name)
    theirs = [graded[str(query)]["ndcg_cut_10"] for query in range(NUM_QUERIES)]
    np.testing.assert_allclose(ndcg_at_k(found, 10, gains), theirs, atol=1e-6)


def test_metrics_equal_their_formulas_by_hand() -> None:
    found = [np.array([3, 1]), np.array([7])]
    assert hit_rate_at_k(found, 1).tolist() == [1.0, 0.0]
    assert recall_at_k(found, 2).tolist() == [0.5, 0.0]
    assert mrr(found).tolist() == [1.0, 1 / 7]
    assert mrr(found, 5).tolist() == [1.0, 0.0]
    best = 1 + 1 / math.log2(3)
    np.testing.assert_allclose(ndcg_at_k(found, 10), [(1 + 0.5) / best, 1 / 3])


def test_ties_stand_in_descending_order_of_their_ids_as_strings() -> None:
    scores = [np.zeros((1, 3), dtype=np.float32)]
    assert ranks_of_scores(scores, [[0, 1, 2]], 3, ["9", "10", "a"])[0].tolist() == [2, 3, 1]


def test_a_query_without_a_relevant_document_is_refused() -> None:
    queries, documents = float_vectors()
    with pytest.raises(ValueError, match="query 1 has no relevant document"):
        ranks(queries[:2], documents, [[0], []])


def test_equal_vectors_score_no_better_than_chance_and_warn() -> None:
    vectors = np.full((200, 4), 0.5, dtype=np.float32)
    found = ranks(vectors, vectors, [[position] for position in range(200)])
    assert hit_rate_at_k(found, 1).mean() == 1 / 200
    with pytest.warns(RuntimeWarning, match="documents of figures: all 200 vectors are nearly equal"):
        check_vectors(vectors, "documents of figures")


def test_not_a_number_is_refused_with_the_name_of_the_task() -> None:
    vectors = float_vectors()[0]
    vectors[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"queries of figures: 1 of 40 vectors hold NaN or infinity; .*checkpoint"):
        check_vectors(vectors, "queries of figures")


def test_sound_vectors_pass_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_vectors(float_vectors()[0], "queries")
        check_vectors(float_vectors()[0][:1], "one query")


def test_chance_equals_a_simulation() -> None:
    random, num_documents, num_relevant, trials = np.random.default_rng(3), 30, 4, 20_000
    shuffled = [random.permutation(num_documents)[:num_relevant] + 1 for _ in range(trials)]
    for k in (1, 5, 10):
        simulated = hit_rate_at_k(shuffled, k).mean()
        assert float(chance_hit_rate(num_documents, num_relevant, k)) == pytest.approx(simulated, abs=0.012)
        simulated = ndcg_at_k(shuffled, k).mean()
        assert float(chance_ndcg(num_documents, num_relevant, k)) == pytest.approx(simulated, abs=0.012)


def test_chance_equals_the_binomial_formula_and_ends_at_one() -> None:
    expected = [1 - math.comb(50 - relevant, 10) / math.comb(50, 10) for relevant in (1, 3, 45)]
    np.testing.assert_allclose(chance_hit_rate(50, [1, 3, 45], 10), expected)
    assert chance_hit_rate(5, [1, 2], 10).tolist() == [1.0, 1.0]
    assert float(chance_ndcg(1, 1, 10)) == 1.0


@pytest.mark.parametrize("levels", [3, 1000])
def test_spearman_equals_scipy(levels: int) -> None:
    random = np.random.default_rng(levels)
    left = random.integers(0, levels, 200)
    right = left + random.normal(size=200).round(1) * levels
    assert spearman(left, right) == pytest.approx(scipy.stats.spearmanr(left, right).statistic, abs=1e-12)


def test_spearman_of_a_constant_is_zero() -> None:
    assert spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0.0
