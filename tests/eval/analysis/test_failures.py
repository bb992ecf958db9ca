from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from eval.analysis.failures import worst_pairs, worst_queries
from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.data.zero_shot import ZeroShotData
from eval.results import TaskResult
from eval.scoring.metrics import metric_values
from eval.scoring.retrieval import vector_ranks
from eval.scoring.score_row import ScoreRow
from unimodal.vectors import Vectors


def unit(rows: int, seed: int) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)
    return np.asarray(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32
    )


def result_of(
    data: RetrievalData | ZeroShotData, queries: Vectors, documents: Vectors
) -> TaskResult:
    """With hit_rate_at_1 as the metric, worked out naively."""
    relevant = (
        data.relevant
        if isinstance(data, RetrievalData)
        else [[label] for label in data.labels]
    )
    best = (queries @ documents.T).argmax(axis=1)
    hits = np.array(
        [float(one in wanted) for one, wanted in zip(best, relevant, strict=True)]
    )
    rows = [ScoreRow("task", "hit_rate_at_1", float(hits.mean()), 0.1, None)]
    return TaskResult(
        "task", "text", data, rows, {"hit_rate_at_1": hits}, queries, documents
    )


def random_result(count: int = 40) -> TaskResult:
    data = RetrievalData(
        [f"query {n}" for n in range(count)],
        [f"document {n}" for n in range(count)],
        [[n, (n + 1) % count] for n in range(count)],
    )
    return result_of(data, unit(count, 1), unit(count, 2))


def test_the_worst_queries_are_those_whose_best_relevant_document_comes_last() -> None:
    result = random_result()
    assert result.queries is not None
    assert result.documents is not None
    assert isinstance(result.data, RetrievalData)
    scores = result.queries @ result.documents.T
    ranks = [
        min(int((row > row[d]).sum()) + 1 for d in result.data.relevant[q])
        for q, row in enumerate(scores)
    ]
    expected = sorted(range(40), key=lambda query: -ranks[query])[:5]
    found = worst_queries(result, 5)
    assert [one.rank for one in found] == [ranks[query] for query in expected]
    assert [one.query for one in found] == [f"query {query}" for query in expected]
    assert {one.value for one in found} == {0.0}


def test_a_worst_query_shows_what_it_found_and_what_it_should_have_found() -> None:
    result = random_result()
    assert result.queries is not None
    assert result.documents is not None
    one = worst_queries(result, 1, num_top=3)[0]
    scores = result.documents @ result.queries[int(str(one.query).split()[1])]
    order = np.argsort(-scores)
    assert [found.input for found in one.top] == [f"document {n}" for n in order[:3]]
    assert [found.score for found in one.top] == pytest.approx(scores[order[:3]])
    assert [found.rank for found in one.top] == [1, 2, 3]
    assert not any(found.is_relevant for found in one.top)
    assert len(one.relevant) == 2
    assert all(found.is_relevant for found in one.relevant)
    assert one.relevant[0].rank == one.rank < one.relevant[1].rank


def test_what_a_query_does_not_search_is_not_found() -> None:
    vectors = unit(3, 0)
    data = RetrievalData(
        ["a", "b", "c"], ["a", "b", "c"], [[1], [2], [0]], excluded=[[0], [1], [2]]
    )
    found = worst_queries(result_of(data, vectors, vectors), 3, num_top=3)
    assert found
    for one in found:
        assert one.query not in [document.input for document in one.top]
        assert one.rank <= 2


def test_a_grade_of_zero_is_not_relevant() -> None:
    documents = np.eye(3, dtype=np.float32)
    data = RetrievalData(["q"], ["x", "y", "z"], [[0, 2]], gains=[[0.0, 2.0]])
    one = worst_queries(result_of(data, documents[:1], documents), 1)[0]
    assert [found.input for found in one.relevant] == ["z"]
    assert not one.top[0].is_relevant


def test_ties_are_ranked_as_they_are_scored() -> None:
    data = RetrievalData(
        ["q"] * 3, list("abcd"), [[0], [3], [1]], document_ids=["4", "2", "3", "1"]
    )
    same = np.full(
        (7, 4), 0.5, dtype=np.float32
    )  # the model sees no difference at all: the last id comes first
    values = {
        "hit_rate_at_1": metric_values(
            "hit_rate_at_1", vector_ranks(data.judgements, same[:3], same[3:])
        )
    }
    rows = [ScoreRow("task", "hit_rate_at_1", 1 / 3, 0.25, None)]
    found = worst_queries(
        TaskResult("task", "text", data, rows, values, same[:3], same[3:]), num_top=3
    )
    assert [(one.rank, one.value, one.relevant[0].rank) for one in found] == [
        (4, 0.0, 4),
        (3, 0.0, 3),
    ]
    for one in found:
        assert [(document.input, document.rank) for document in one.top] == [
            ("a", 1),
            ("c", 2),
            ("b", 3),
        ]
    assert [document.is_relevant for document in found[1].top] == [False, False, True]


def test_a_document_that_its_query_does_not_search_is_not_what_it_should_have_found() -> (
    None
):
    vectors = np.eye(3, dtype=np.float32)
    data = RetrievalData(["q", "r"], list("abc"), [[0, 1], [0]], excluded=[[0], [0]])
    values = {"hit_rate_at_1": np.zeros(2)}
    rows = [ScoreRow("task", "hit_rate_at_1", 0.0, 0.25, None)]
    (one,) = worst_queries(
        TaskResult("task", "text", data, rows, values, vectors[[2, 2]], vectors)
    )
    assert (one.query, one.rank, [found.input for found in one.relevant]) == (
        "q",
        2,
        ["b"],
    )


def test_a_hit_rate_of_graded_documents_asks_for_those_that_are_hits() -> None:
    documents = np.eye(3, dtype=np.float32)
    data = RetrievalData(["q"], list("xyz"), [[0, 2]], gains=[[0.5, 1.0]], hit_gain=1.0)
    for metric, should in (("hit_rate_at_1", ["z"]), ("ndcg_at_10", ["x", "z"])):
        values = {metric: np.zeros(1)}
        rows = [ScoreRow("task", metric, 0.0, 0.1, None)]
        (one,) = worst_queries(
            TaskResult("task", "text", data, rows, values, documents[:1], documents)
        )
        assert [found.input for found in one.relevant] == should
        assert one.rank == one.relevant[0].rank


def test_a_query_that_found_its_document_first_is_no_failure() -> None:
    vectors = np.eye(4, dtype=np.float32)
    data = RetrievalData(list("abcd"), list("abcd"), [[0], [1], [2], [3]])
    assert worst_queries(result_of(data, vectors, vectors)) == []


def test_an_image_of_the_wrong_class_shows_the_classes() -> None:
    data = ZeroShotData(
        [Path("cat.jpg"), Path("dog.jpg")],
        [0, 1],
        ["cat", "dog"],
        ["a photo of a {c}."],
    )
    vectors = np.eye(2, dtype=np.float32)
    found = worst_queries(result_of(data, vectors[[1, 1]], vectors))
    assert [(one.query, one.top[0].input, one.relevant[0].input) for one in found] == [
        (Path("cat.jpg"), "dog", "cat")
    ]


def test_the_worst_pairs_are_those_that_people_place_elsewhere() -> None:
    cosines = np.array([0.9, 0.5, 0.1, 0.7], dtype=np.float32)
    left = np.tile(np.array([[1, 0]], dtype=np.float32), (4, 1))
    right = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    pairs = PairData(list("abcd"), list("wxyz"), [0.0, 2.0, 3.0, 1.0])
    found = worst_pairs(
        TaskResult("sts", "text", pairs, [], queries=left, documents=right), 2
    )
    assert [(one.left, one.right) for one in found] == [("a", "w"), ("c", "y")]
    assert found[0].human_place == 0
    assert found[0].place == 1
    assert found[0].cosine == pytest.approx(0.9)


def test_a_task_that_the_model_cannot_do_has_no_worst() -> None:
    assert worst_queries(TaskResult("task", "text", random_result().data, [])) == []
    assert worst_pairs(TaskResult("task", "text", PairData([], [], []), [])) == []
