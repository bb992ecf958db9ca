"""Retrieval data: the other direction, and what cannot be scored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eval.data.inputs import Fused
from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.data.task_data import TaskData
from eval.data.zero_shot import ZeroShotData


def test_swapped_sides_search_in_the_other_direction() -> None:
    data = RetrievalData(
        queries=["one", "two"], documents=["a", "b"], relevant=[[0], [0, 1]]
    )
    assert data.swap_sides() == RetrievalData(
        queries=["a", "b"], documents=["one", "two"], relevant=[[0, 1], [1]]
    )
    assert data.swap_sides().swap_sides() == data


def test_swapped_sides_keep_ids_and_gains_and_ask_for_no_document_that_nobody_asked_for() -> (
    None
):
    data = RetrievalData(
        queries=["one", "two"],
        documents=["a", "b", "c"],
        relevant=[[2], [0, 2]],
        gains=[[1], [3, 2]],
        query_ids=["q1", "q2"],
        document_ids=["da", "db", "dc"],
    )
    assert data.swap_sides() == RetrievalData(
        queries=["a", "c"],
        documents=["one", "two"],
        relevant=[[1], [0, 1]],
        gains=[[3], [1, 2]],
        query_ids=["da", "dc"],
        document_ids=["q1", "q2"],
    )


GOOD = RetrievalData(["one", "two"], ["a", "b"], [[0], [1]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (replace(GOOD, queries=[], relevant=[]), "task has no queries; "),
        (replace(GOOD, documents=[]), "task has no documents; "),
        (
            replace(GOOD, documents=["a", " "]),
            "task: number 1 of its documents is an empty text; ",
        ),
        (
            replace(GOOD, queries=["one", Fused("", Path("a.jpg"))]),
            "task: number 1 of its queries is an empty text; ",
        ),
        (
            replace(GOOD, document_ids=["x", "x"]),
            "task: id 'x' is that of several documents; ",
        ),
        (
            replace(GOOD, relevant=[[0], []], query_ids=["p", "q"]),
            "task: query 'q' has no relevant document; leave",
        ),
        (
            replace(GOOD, relevant=[[0], []], lost=[[1.0], []]),
            "task: query '1' has no relevant document; leave",
        ),
        (PairData([], [], []), "task has no texts; "),
        (
            PairData(["a"], ["b"], [float("nan")]),
            "task: the score of pair 0 is nan; remove or repair the pair",
        ),
        (
            PairData(["a", ""], ["b", "c"], [1, 2]),
            "task: number 1 of its texts is an empty text; ",
        ),
        (
            ZeroShotData([b"x"], [2], ["cat", "dog"], ["{c}"]),
            "task: label 2 is of none of its 2 classes; ",
        ),
        (
            ZeroShotData([b"x"], [1], ["cat", "dog"], ["a photo"]),
            r'must say where the class goes; write "\{c\}"',
        ),
    ],
)
def test_what_cannot_be_scored_is_named(data: TaskData, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.check("task")


def test_a_query_that_cannot_find_what_is_relevant_stays_and_is_counted() -> None:
    lost = replace(GOOD, relevant=[[0], []], lost=[[], [1.0]])
    assert lost.check("task") == lost
    itself = replace(GOOD, excluded=[[], [1]]).check("task")
    assert isinstance(itself, RetrievalData)
    assert itself.notes == (
        "1 of 2 queries search none of their relevant documents and score 0",
    )


def test_what_can_be_scored_is_handed_on() -> None:
    assert GOOD.check("task") is GOOD
