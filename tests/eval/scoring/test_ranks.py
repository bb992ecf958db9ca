from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pytest

from eval.scoring import ranks as module
from eval.scoring.ranks import NEVER, ranks, ranks_of_lists, ranks_of_scores
from unimodal.vectors import Vectors

MakeVectors: TypeAlias = Callable[[], tuple[Vectors, Vectors]]
NUM_QUERIES = 40
NUM_DOCUMENTS = 130


def relevance(seed: int = 0) -> list[list[int]]:
    """One to sixty relevant documents for each query: some have more than are
    counted one by one.
    """
    random = np.random.default_rng(seed)
    return [
        random.permutation(NUM_DOCUMENTS)[: random.integers(1, 61)].tolist()
        for _ in range(NUM_QUERIES)
    ]


def float_vectors() -> tuple[Vectors, Vectors]:
    random = np.random.default_rng(1)
    queries = random.standard_normal((NUM_QUERIES, 8))
    documents = random.standard_normal((NUM_DOCUMENTS, 8))
    return queries.astype(np.float32), documents.astype(np.float32)


def tied_vectors() -> tuple[Vectors, Vectors]:
    """Small whole numbers: their products are exact, and most documents share their score with many
    others.
    """
    random = np.random.default_rng(2)
    queries = random.integers(-1, 2, (NUM_QUERIES, 3))
    documents = random.integers(-1, 2, (NUM_DOCUMENTS, 3))
    return queries.astype(np.float32), documents.astype(np.float32)


def naive_ranks(scores: Vectors, relevant: Sequence[Sequence[int]]) -> list[list[int]]:
    """Sort by score, then by the id as a string, both descending."""
    found = []
    for row, positions in zip(scores, relevant, strict=True):
        order = sorted(
            range(len(row)),
            key=lambda document: (row[document], str(document)),
            reverse=True,
        )
        found.append([order.index(position) + 1 for position in positions])
    return found


@pytest.mark.parametrize("vectors", [float_vectors, tied_vectors])
def test_ranks_equal_a_sort(vectors: MakeVectors) -> None:
    queries, documents = vectors()
    found = ranks(queries, documents, relevance())
    assert any(len(positions) >= module.MANY for positions in relevance())
    assert [ranks_of_one.tolist() for ranks_of_one in found] == naive_ranks(
        queries @ documents.T, relevance()
    )


def test_ranks_do_not_depend_on_the_size_of_a_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queries, documents = tied_vectors()
    whole = ranks(queries, documents, relevance()).flat
    monkeypatch.setattr(module, "BLOCK_SCORES", 3 * NUM_DOCUMENTS)
    monkeypatch.setattr(module, "BLOCK_ROWS", 1)
    np.testing.assert_array_equal(ranks(queries, documents, relevance()).flat, whole)


def test_ranks_of_many_documents_come_in_blocks_of_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queries, documents = tied_vectors()
    excluded = [[query, query + 1] for query in range(NUM_QUERIES)]
    whole = ranks(queries, documents, relevance(), excluded=excluded).flat
    for name, value in (("WIDE", 100), ("WIDE_ROWS", 7), ("WIDE_COLUMNS", 31)):
        monkeypatch.setattr(module, name, value)
    np.testing.assert_array_equal(
        ranks(queries, documents, relevance(), excluded=excluded).flat, whole
    )


def test_ties_stand_in_descending_order_of_their_ids_as_strings() -> None:
    scores = [np.zeros((1, 3), dtype=np.float32)]
    assert ranks_of_scores(scores, [[0, 1, 2]], 3, ["9", "10", "a"])[0].tolist() == [
        2,
        3,
        1,
    ]


@pytest.mark.parametrize("wide", [False, True])
def test_equal_documents_tie_wherever_they_stand(
    wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(3)
    some, queries = (
        random.standard_normal((count, 384)).astype(np.float32) for count in (1003, 50)
    )
    place = random.permutation(2006)  # where each of the two copies stands
    documents = np.concatenate([some, some])[np.argsort(place)]
    twins = [[int(place[number]), int(place[1003 + number])] for number in range(50)]
    products = module._products
    columns = module._columns

    # BLAS may round a column by where it stands; where it does depends on processor and threads, so
    # here all do.
    def rounded(scores: Vectors) -> Vectors:
        scores[:, 1::2] = np.nextafter(scores[:, 1::2], np.float32(np.inf))
        return scores

    monkeypatch.setattr(
        module, "_products", lambda *sides: map(rounded, products(*sides))
    )
    monkeypatch.setattr(
        module,
        "_columns",
        lambda *sides: ((at, rounded(some)) for at, some in columns(*sides)),
    )
    if wide:
        monkeypatch.setattr(module, "WIDE", 1000)
        monkeypatch.setattr(module, "WIDE_COLUMNS", 301)
    found = ranks(queries, documents, twins)
    assert [abs(int(one - other)) for one, other in found] == [1] * 50
    assert [one < other for one, other in found] == [
        str(one) > str(other) for one, other in twins
    ]
    alone = ranks(queries, documents, [[other] for _, other in twins])
    assert alone.flat.tolist() == [int(ranks_of_one[1]) for ranks_of_one in found]


def test_a_document_that_a_query_does_not_search_is_ahead_of_none() -> None:
    def scores() -> list[Vectors]:
        return [np.array([[3, 2, 1], [3, 2, 1]], dtype=np.float32)]

    assert ranks_of_scores(scores(), [[1], [1]], 3).flat.tolist() == [2, 2]
    assert ranks_of_scores(
        scores(), [[1], [1]], 3, excluded=[[0], []]
    ).flat.tolist() == [1, 2]
    assert ranks_of_scores(
        scores(), [[1], [1, 2]], 3, excluded=[[0], [1]]
    ).flat.tolist() == [1, NEVER, 2]


def test_a_gain_of_zero_is_not_relevant() -> None:
    queries, documents = float_vectors()
    found = ranks(
        queries[:2], documents, [[0, 1], [2, 3, 4]], gains=[[0, 2], [1, -1, 3]]
    )
    whole = ranks(queries[:2], documents, [[1], [2, 4]])
    assert found.flat.tolist() == whole.flat.tolist()
    assert found.gains.tolist() == [2, 1, 3]
    assert found.offsets.tolist() == [0, 1, 3]


@pytest.mark.parametrize("gains", [None, [[1.0], [0.0]]])
def test_a_query_without_a_relevant_document_is_refused(
    gains: list[list[float]] | None,
) -> None:
    queries, documents = float_vectors()
    with pytest.raises(ValueError, match="query 1 has no relevant document"):
        ranks(queries[:2], documents, [[0], [1] if gains else []], gains=gains)


def test_ranks_know_their_query_and_their_place() -> None:
    known = ranks_of_lists([[3], [5, 1, 2]])
    assert known.counts.tolist() == [1, 3]
    assert known.queries.tolist() == [0, 1, 1, 1]
    assert known.places.tolist() == [1, 1, 2, 3]
    assert [one.tolist() for one in known] == [[3], [5, 1, 2]]
