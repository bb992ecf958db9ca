from __future__ import annotations

import numpy as np
import pytest

from eval import retrieval
from eval.datasets import RetrievalData
from eval.retrieval import TEXT_METRICS, bm25_ranks, retrieval_rows, vector_ranks

SHOP = RetrievalData(
    queries=["red ball", "blue hat"],
    documents=["a ball that is red", "a hat", "a blue ball", "a hat, blue"],
    relevant=[[0], [1, 3]],
)


def test_bm25_ranks_by_common_words() -> None:
    assert [found.tolist() for found in bm25_ranks(SHOP)] == [[1], [2, 1]]


def test_bm25_is_computed_once_for_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    first = bm25_ranks(SHOP)
    monkeypatch.delattr(retrieval, "Bm25Index")
    again = RetrievalData(list(SHOP.queries), list(SHOP.documents), [list(one) for one in SHOP.relevant])
    assert bm25_ranks(again) is first


def test_rows_hold_the_mean_over_the_queries_and_chance() -> None:
    ndcg, hit_rate = retrieval_rows("shop", SHOP, TEXT_METRICS, [np.array([2]), np.array([1, 2])], None)
    assert (hit_rate.value, hit_rate.chance, hit_rate.baseline) == (0.5, (1 / 4 + 2 / 4) / 2, None)
    assert ndcg.value == pytest.approx((1 / np.log2(3) + 1) / 2)


def test_a_collapsed_embedding_warns_with_the_task() -> None:
    vectors = np.full((4, 3), 3**-0.5, dtype=np.float32)
    with pytest.warns(RuntimeWarning, match="documents of shop: all 4 vectors are nearly equal"):
        vector_ranks("shop", SHOP, np.eye(3, dtype=np.float32)[:2], vectors)
