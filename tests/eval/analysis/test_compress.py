"""Compressed vectors score what brute force gives them, and their codes are those of
sentence-transformers.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from eval.analysis import compress
from eval.analysis.compress import (
    compression_rows,
    hamming_distances,
    reranked,
)
from eval.data.inputs import Input
from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.results import TaskResult
from eval.scoring.metrics import spearman
from eval.scoring.score_row import ScoreRow
from unimodal.vectors import Vectors, int8_ranges, pack_signs, quantize_int8_in_ranges

DIM = 20
NUM_DOCUMENTS = 90


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    return np.asarray(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32
    )


@pytest.fixture
def documents() -> Vectors:
    return unit(
        np.random.default_rng(0).standard_normal((NUM_DOCUMENTS, DIM))
        * np.linspace(2, 0.5, DIM)
        + 0.1
    )


@pytest.fixture
def retrieval(documents: Vectors) -> TaskResult:
    """Thirty queries near a document each, with a second relevant document; the first three do not
    search one.
    """
    rng = np.random.default_rng(1)
    queries = unit(documents[:30] + 0.25 * rng.standard_normal((30, DIM)))
    relevant = [[number, number + 40] for number in range(30)]
    asked: list[Input] = [f"query {number}" for number in range(30)]
    searched: list[Input] = [f"document {number}" for number in range(NUM_DOCUMENTS)]
    excluded = [[50 + number] if number < 3 else [] for number in range(30)]
    data = RetrievalData(
        asked, searched, relevant, gains=[[2.0, 1.0]] * 30, excluded=excluded
    )
    rows = [
        ScoreRow("sections", "ndcg_at_10", 0.5, 0.1, 0.3),
        ScoreRow("sections", "hit_rate_at_1", 0.5, 0.1, 0.3),
    ]
    return TaskResult(
        "sections", "text", data, rows, queries=queries, documents=documents
    )


@pytest.fixture
def pairs(documents: Vectors) -> TaskResult:
    rng = np.random.default_rng(2)
    left = unit(documents + 0.5 * rng.standard_normal(documents.shape))
    scores = [
        float(score)
        for score in (left * documents).sum(axis=1)
        + 0.2 * rng.standard_normal(NUM_DOCUMENTS)
    ]
    data = PairData(["a"] * NUM_DOCUMENTS, ["b"] * NUM_DOCUMENTS, scores)
    return TaskResult(
        "cxc",
        "text",
        data,
        [ScoreRow("cxc", "spearman", 0.5, 0.0, 0.3)],
        queries=left,
        documents=documents,
    )


def by_variant(rows: list[ScoreRow], task: str) -> dict[str, Any]:
    return {row.variant: row.value for row in rows if row.task == task}


def naive_ndcg(result: TaskResult, scores: npt.NDArray[Any]) -> float:
    """Of an order by score, then by id from the last to the first, as strings."""
    data = result.data
    values = []
    assert isinstance(data, RetrievalData)
    assert data.excluded is not None
    for query, row in enumerate(scores):
        searched = [
            one for one in range(NUM_DOCUMENTS) if one not in data.excluded[query]
        ]
        order = sorted(searched, key=lambda one: (row[one], str(one)), reverse=True)[
            :10
        ]
        gains = dict(zip(data.relevant[query], (2.0, 1.0), strict=True))
        dcg = sum(
            gains.get(one, 0) / math.log2(rank + 2) for rank, one in enumerate(order)
        )
        values.append(dcg / (2 + 1 / math.log2(3)))
    return float(np.mean(values))


def naive_rerank(result: TaskResult, scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
    queries = result.queries
    documents = result.documents
    data = result.data
    assert queries is not None
    assert documents is not None
    assert isinstance(data, RetrievalData)
    assert data.excluded is not None
    found = np.array(scores, dtype=np.float64) - 1e6
    for query, row in enumerate(scores):
        searched = [
            one for one in range(NUM_DOCUMENTS) if one not in data.excluded[query]
        ]
        last = sorted((row[one] for one in searched), reverse=True)[39]
        for one in searched:
            if row[one] >= last:
                found[query, one] = queries[query] @ documents[one]
    return found


@pytest.mark.parametrize("dim", [3, 8, 64, 100])
def test_hamming_distances_count_the_signs_that_differ(dim: int) -> None:
    left, right = (
        np.random.default_rng(seed).standard_normal((7 + seed, dim)).astype(np.float32)
        for seed in (0, 1)
    )
    expected = [
        [int(((one > 0) != (other > 0)).sum()) for other in right] for one in left
    ]
    np.testing.assert_array_equal(
        hamming_distances(pack_signs(left), pack_signs(right)), expected
    )


@pytest.mark.parametrize("block", [1 << 22, 1])
def test_compressed_scores_equal_brute_force(
    retrieval: TaskResult,
    documents: Vectors,
    block: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compress, "BLOCK_SCORES", block)
    monkeypatch.setattr(compress, "BLOCK_ROWS", 7)
    queries = retrieval.queries
    assert queries is not None
    ranges = int8_ranges(documents)
    steps = (ranges[1] - ranges[0]).astype(np.float64) / 255
    coded = np.array(
        [
            [
                float(sum(q * steps * code))
                for code in quantize_int8_in_ranges(documents, ranges)
            ]
            for q in queries
        ]
    )
    agreeing = np.array(
        [
            [int(((one > 0) == (other > 0)).sum()) for other in documents]
            for one in queries
        ]
    )
    found = by_variant(compression_rows([retrieval]), "sections")
    expected = {
        "int8": naive_ndcg(retrieval, coded),
        "int8 + re-ranked": naive_ndcg(retrieval, naive_rerank(retrieval, coded)),
        "binary": naive_ndcg(retrieval, agreeing),
        "binary + re-ranked": naive_ndcg(retrieval, naive_rerank(retrieval, agreeing)),
    }
    assert found == pytest.approx(expected, abs=1e-9)
    assert found["binary"] < found["binary + re-ranked"] - 0.02


def test_what_is_not_ranked_again_stays_behind_in_its_order(
    retrieval: TaskResult, documents: Vectors
) -> None:
    queries = retrieval.queries
    assert queries is not None
    scores = (
        np.random.default_rng(3).standard_normal((30, NUM_DOCUMENTS)).astype(np.float32)
        * 100
    )
    found = reranked(scores.copy(), queries, documents)
    for before, after, query in zip(scores, found, queries, strict=True):
        order = np.argsort(-before)
        np.testing.assert_allclose(
            after[order[:40]], documents[order[:40]] @ query, atol=1e-6
        )
        np.testing.assert_array_equal(np.argsort(-after)[40:], order[40:])


def test_the_best_stay_ahead_even_if_the_full_vectors_call_them_opposites() -> None:
    scores = np.linspace(0, 1, NUM_DOCUMENTS, dtype=np.float32)[None]
    query = np.eye(4, dtype=np.float32)[:1]
    found = reranked(scores.copy(), query, -np.repeat(query, NUM_DOCUMENTS, axis=0))
    assert np.min(found[0, -40:]) > np.max(found[0, :-40])


def test_a_pool_smaller_than_what_is_ranked_again_is_ranked_by_the_full_vectors(
    documents: Vectors,
) -> None:
    few = documents[:5]
    coarse = np.zeros((2, 5), dtype=np.float32)
    found = reranked(coarse, documents[:2], few, [[1], [0]])
    np.testing.assert_allclose(
        found[0, [0, 2, 3, 4]], few[[0, 2, 3, 4]] @ documents[0], atol=1e-6
    )
    assert found[0, 1] == -np.inf


def test_equal_documents_tie_compressed_too() -> None:
    rng = np.random.default_rng(0)
    some = rng.standard_normal((500, 384))
    place = rng.permutation(1000)  # where each of the two copies stands
    documents = unit(np.concatenate([some, some])[np.argsort(place)])
    twins = [
        sorted((int(place[number]), int(place[500 + number])), key=str)
        for number in range(500)
    ]
    queries = unit(
        documents[[one for one, _ in twins]] + 0.01 * rng.standard_normal((500, 384))
    )
    for twin, hits in (
        (0, 0.0),
        (1, 1.0),
    ):  # of two equal ones that of the higher id is ahead
        data = RetrievalData(
            ["query"] * 500, ["document"] * 1000, [[one[twin]] for one in twins]
        )
        rows = [ScoreRow("sections", "hit_rate_at_1", hits, None, None)]
        task = TaskResult(
            "sections", "text", data, rows, queries=queries, documents=documents
        )
        found = by_variant(compression_rows([task]), "sections")
        assert found == dict.fromkeys(
            ("int8", "int8 + re-ranked", "binary", "binary + re-ranked"), hits
        )


def test_a_query_that_searches_nothing_finds_nothing(
    retrieval: TaskResult, documents: Vectors
) -> None:
    scores = np.ones((2, NUM_DOCUMENTS), dtype=np.float32)
    found = reranked(scores, documents[:2], documents, [[*range(NUM_DOCUMENTS)], [0]])
    assert (found[0] == -np.inf).all()
    assert np.isfinite(found[1, 1:]).all()


def test_pairs_are_compressed_too(pairs: TaskResult, documents: Vectors) -> None:
    left = pairs.queries
    data = pairs.data
    assert left is not None
    assert isinstance(data, PairData)
    found = by_variant(compression_rows([pairs]), "cxc")
    agreeing = [
        int(((one > 0) == (other > 0)).sum())
        for one, other in zip(left, documents, strict=True)
    ]
    assert found["binary"] == pytest.approx(spearman(agreeing, data.scores))
    plain = spearman((left * documents).sum(axis=1), data.scores)
    assert found["int8"] == pytest.approx(plain, abs=0.01)


def test_pairs_are_scored_by_the_metric_that_they_print_first(
    pairs: TaskResult, documents: Vectors
) -> None:
    left = pairs.queries
    data = pairs.data
    assert left is not None
    assert isinstance(data, PairData)
    rows = [ScoreRow("cxc", "pearson", 0.5, 0.0, 0.3), *pairs.rows]
    row = compression_rows([dataclasses.replace(pairs, rows=rows)])[0]
    assert (row.metric, row.variant) == ("pearson", "int8")
    assert row.value == pytest.approx(
        np.corrcoef((left * documents).sum(axis=1), data.scores)[0, 1], abs=0.01
    )


def test_bytes_are_those_of_what_is_searched(retrieval: TaskResult) -> None:
    assert by_variant(compression_rows([retrieval]), "index") == {
        "": 80,
        "int8": 20,
        "binary": 3,
        "int8 + re-ranked": 20,
        "binary + re-ranked": 3,
    }


def test_what_the_model_cannot_do_is_left_out(retrieval: TaskResult) -> None:
    unscored = TaskResult("sections", "text", retrieval.data, retrieval.rows)
    assert compression_rows([unscored]) == []
