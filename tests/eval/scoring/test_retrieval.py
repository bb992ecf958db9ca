from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eval.data.inputs import Deferred, Fused, Input
from eval.data.retrieval import RetrievalData
from eval.scoring import retrieval
from eval.scoring.metrics import METRICS
from eval.scoring.retrieval import (
    TEXT_METRICS,
    chances,
    vector_ranks,
)

SHOP = RetrievalData(
    queries=["red ball", "blue hat"],
    documents=["a ball that is red", "a hat", "a blue ball", "a hat, blue"],
    relevant=[[0], [1, 3]],
)
PHOTO = Path("hat.jpg")
QUERIES = np.eye(4, dtype=np.float32)[
    :2
]  # the first is nearest to document 0, the second to 3, then to 1
DOCUMENTS = np.array(
    [[1, 0, 0, 0], [0, 0.6, 0.8, 0], [0.8, 0.6, 0, 0], [0, 1, 0, 0]], dtype=np.float32
)


def test_bm25_ranks_by_common_words() -> None:
    assert SHOP.bm25_values(["mrr_at_10", "map_at_10"])["mrr_at_10"].tolist() == [
        1.0,
        1.0,
    ]
    assert replace(SHOP, relevant=[[2], [1]]).bm25_values(["mrr_at_10"])[
        "mrr_at_10"
    ].tolist() == [0.5, 0.5]


def test_bm25_is_computed_once_for_the_same_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = SHOP.bm25_values(TEXT_METRICS)
    monkeypatch.delattr(retrieval, "Bm25Index")
    again = RetrievalData(
        list(SHOP.queries), list(SHOP.documents), [list(one) for one in SHOP.relevant]
    )
    assert {
        name: one.tolist() for name, one in again.bm25_values(TEXT_METRICS).items()
    } == {name: one.tolist() for name, one in first.items()}


@pytest.mark.parametrize(
    ("queries", "documents", "half", "has_words"),
    [
        (["a"], ["b"], "text", True),
        (["a"], [PHOTO], "cross-modal", False),
        ([b"jpeg"], [Deferred("in a tar", bytes)], "image", False),
        (["a"], [Fused("b", PHOTO)], "cross-modal", True),
        ([Fused("a", PHOTO)], [Fused("b", PHOTO)], "cross-modal", True),
    ],
)
def test_a_half_is_told_by_the_inputs_and_bm25_by_the_words(
    queries: list[Input], documents: list[Input], half: str, has_words: bool
) -> None:
    data = RetrievalData(queries, documents, [[0]])
    assert data.half == half
    assert bool(data.bm25_values(TEXT_METRICS)) == has_words


def test_captions_have_the_hit_rates_of_clip_papers_texts_the_ndcg_of_beir_and_lookup_both() -> (
    None
):
    assert replace(SHOP, both_ways=True).default_metrics[0] == "hit_rate_at_1"
    assert SHOP.default_metrics == ("ndcg_at_10", "hit_rate_at_1")
    assert replace(SHOP, documents=[PHOTO]).default_metrics == (
        "ndcg_at_10",
        "hit_rate_at_1",
        "hit_rate_at_10",
    )


def test_rows_hold_the_mean_over_the_queries_chance_and_bm25() -> None:
    data = replace(SHOP, relevant=[[2], [1, 3]])
    (hit_rate, recall), values = data.score(
        "shop",
        ["hit_rate_at_1", "recall_at_1"],
        QUERIES,
        DOCUMENTS,
        with_intervals=False,
    )
    assert values["hit_rate_at_1"].tolist() == [0.0, 1.0]
    assert values["recall_at_1"].tolist() == [0.0, 0.5]
    assert (hit_rate.task, hit_rate.metric, hit_rate.value, hit_rate.low) == (
        "shop",
        "hit_rate_at_1",
        0.5,
        None,
    )
    assert hit_rate.chance == (1 / 4 + 2 / 4) / 2
    assert hit_rate.baseline == 0.5
    assert (recall.value, recall.chance) == (0.25, 1 / 4)


def test_an_interval_holds_the_mean() -> None:
    rows, _ = replace(SHOP, relevant=[[2], [1, 3]]).score(
        "shop", TEXT_METRICS, QUERIES, DOCUMENTS
    )
    for row in rows:
        assert row.low is not None
        assert row.high is not None
        assert row.value is not None
        assert row.low < row.value < row.high


def test_a_perfect_score_of_two_queries_is_not_certain() -> None:
    rows, _ = replace(SHOP, relevant=[[1], [1]]).score(
        "shop",
        TEXT_METRICS,
        DOCUMENTS[[1, 1]],
        DOCUMENTS,
    )
    assert [(row.value, row.num) for row in rows] == [(1.0, 2)] * 2
    assert [row.low for row in rows] == pytest.approx([0.342] * 2, abs=0.001)
    assert [row.high for row in rows] == [1.0] * 2


def test_without_vectors_rows_have_chance_alone() -> None:
    rows, values = SHOP.score("shop", TEXT_METRICS, None, None)
    assert values == {}
    assert [(row.value, row.low, row.num) for row in rows] == [(None, None, None)] * 2
    assert all(row.chance for row in rows)


def test_gains_ids_hits_and_what_is_not_searched_are_those_of_the_data() -> None:
    graded = replace(
        SHOP,
        relevant=[[0, 2], [3]],
        gains=[[1, 3], [2]],
        hit_gain=3.0,
        excluded=[[], [3]],
    )
    found = vector_ranks(graded.judgements, QUERIES, DOCUMENTS)
    assert found.flat[:2].tolist() == [1, 2]
    assert found.flat[2] > 10**9
    assert (found.gains.tolist(), found.hit_gain) == ([1, 3, 2], 3.0)
    tied = replace(SHOP, relevant=[[0], [1]], document_ids=["a", "b", "c", "d"])
    same = np.repeat(QUERIES[:1], 4, axis=0)
    assert vector_ranks(tied.judgements, QUERIES, same).flat.tolist() == [4, 3]
    assert chances(graded.judgements, ["hit_rate_at_1"])[
        "hit_rate_at_1"
    ] == pytest.approx((1 / 4 + 0) / 2)


def test_chance_is_that_of_the_documents_that_a_query_searches() -> None:
    data = RetrievalData(
        ["a", "b", "c"], list("wxyz"), [[0], [1], [2, 3]], excluded=[[1, 2], [], [0, 0]]
    )
    found = chances(
        data.judgements, ["hit_rate_at_1", "recall_at_2", "ndcg_at_1", "mrr_at_1"]
    )
    first = (1 / 2 + 1 / 4 + 2 / 3) / 3
    recall = (2 / 2 + 2 / 4 + 2 / 3) / 3
    expected = {
        "hit_rate_at_1": first,
        "recall_at_2": recall,
        "ndcg_at_1": first,
        "mrr_at_1": first,
    }
    assert found == pytest.approx(expected)


def test_a_query_that_searches_nothing_has_no_chance() -> None:
    data = RetrievalData(["a", "b"], ["x", "y"], [[0], [1]], excluded=[[0, 1], []])
    metrics = [f"{family}_at_2" for family in METRICS]
    assert all(0 < value <= 0.5 for value in chances(data.judgements, metrics).values())


def test_a_metric_that_is_named_twice_has_the_chance_of_one() -> None:
    data = RetrievalData(["a", "b"], ["x", "y"], [[0], [1]])
    assert chances(data.judgements, ["hit_rate_at_1", "hit_rate_at_1"]) == {
        "hit_rate_at_1": 0.5
    }
