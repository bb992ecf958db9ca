"""Scores of a ranking, by vectors, by words and by chance.

Q queries, N documents, D embedding dimension.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from unimodal.bm25 import Bm25Index
from unimodal.vectors import Vectors

from .chance import chance
from .metrics import metric_values
from .ranks import NEVER, Ranks, ranks, ranks_of_lists, ranks_of_scores
from .score_row import Values

IMAGE_TEXT_METRICS = ("hit_rate_at_1", "hit_rate_at_5", "hit_rate_at_10")
TEXT_METRICS = ("ndcg_at_10", "hit_rate_at_1")
# of product lookup and of images of documents
OTHER_METRICS = ("ndcg_at_10", "hit_rate_at_1", "hit_rate_at_10")
# queries x documents: some minutes; a larger task has no baseline
MAX_BM25_SCORES = 5_000_000_000

_T = TypeVar("_T")


@dataclass(frozen=True)
class Judgements:
    """Which documents are relevant for which query, and how much."""

    relevant: Sequence[Sequence[int]]  # of each query: positions of documents
    num_documents: int
    gains: Sequence[Sequence[float]] | None = (
        None  # of the same documents; None: 1 each
    )
    document_ids: Sequence[str] | None = (
        None  # ties are ordered by them; None: the positions
    )
    excluded: Sequence[Sequence[int]] | None = (
        None  # documents that a query does not search
    )
    lost: Sequence[Sequence[float]] | None = (
        None  # gains of relevant documents that are missing
    )
    hit_gain: float = 0.0  # hit rates count documents of at least this gain

    def select(self, queries: Sequence[int]) -> Judgements:
        """The judgements of some of the queries."""
        return Judgements(
            select(self.relevant, queries),
            self.num_documents,
            None if self.gains is None else select(self.gains, queries),
            self.document_ids,
            None if self.excluded is None else select(self.excluded, queries),
            None if self.lost is None else select(self.lost, queries),
            self.hit_gain,
        )


def select(values: Sequence[_T], numbers: Iterable[int]) -> list[_T]:
    """The values at these positions."""
    return [values[number] for number in numbers]


def vector_values(
    judgements: Judgements,
    metrics: Sequence[str],
    query_vectors: Vectors,
    document_vectors: Vectors,
) -> dict[str, Values]:
    """metric -> (Q,) each query's value, by cosine.

    query_vectors: (Q, D), document_vectors: (N, D), unit vectors.
    """
    ranked = vector_ranks(judgements, query_vectors, document_vectors)
    return {metric: metric_values(metric, ranked) for metric in metrics}


def vector_ranks(
    judgements: Judgements, query_vectors: Vectors, document_vectors: Vectors
) -> Ranks:
    """Ranks of the relevant documents by cosine similarity."""
    return ranks(
        query_vectors,
        document_vectors,
        judgements.relevant,
        judgements.document_ids,
        gains=judgements.gains,
        excluded=judgements.excluded,
        lost=judgements.lost,
        hit_gain=judgements.hit_gain,
    )


def judged_ranks(blocks: Iterable[Vectors], judgements: Judgements) -> Ranks:
    """Ranks of the relevant documents by scores that come in blocks (some queries, N)."""
    return ranks_of_scores(
        blocks,
        judgements.relevant,
        judgements.num_documents,
        judgements.document_ids,
        gains=judgements.gains,
        excluded=judgements.excluded,
        lost=judgements.lost,
        hit_gain=judgements.hit_gain,
    )


def chances(judgements: Judgements, metrics: Sequence[str]) -> dict[str, float]:
    """metric -> the expected score of a random order of the documents that each query searches."""
    totals = dict.fromkeys(metrics, 0.0)
    for num_documents, ranked in _group_by_size(judgements):
        for metric in totals:
            totals[metric] += chance(metric, num_documents, ranked) * len(ranked)
    return {
        metric: total / len(judgements.relevant) for metric, total in totals.items()
    }


def bm25_values(
    judgements: Judgements,
    metrics: Sequence[str],
    queries: Sequence[str],
    documents: Sequence[str],
) -> dict[str, Values]:
    """metric -> (Q,) each query's value by BM25.

    There are none if a text is empty, or if there are more than MAX_BM25_SCORES scores. The ranks
    are remembered, as an evaluation inside training needs them again and again.
    """
    if not all(queries) or not all(documents):
        return {}
    if len(queries) * len(documents) > MAX_BM25_SCORES:
        return {}
    ranked = _bm25_ranks(tuple(queries), tuple(documents), _hashable(judgements))
    return {metric: metric_values(metric, ranked) for metric in metrics}


@functools.lru_cache(maxsize=32)
def _bm25_ranks(
    queries: tuple[str, ...], documents: tuple[str, ...], judgements: Judgements
) -> Ranks:
    return judged_ranks(Bm25Index(documents).score_blocks(queries), judgements)


def _hashable(judgements: Judgements) -> Judgements:
    ids = judgements.document_ids
    return Judgements(
        _nested_tuples(judgements.relevant),
        judgements.num_documents,
        None if judgements.gains is None else _nested_tuples(judgements.gains),
        None if ids is None else tuple(ids),
        None if judgements.excluded is None else _nested_tuples(judgements.excluded),
        None if judgements.lost is None else _nested_tuples(judgements.lost),
        judgements.hit_gain,
    )


def _nested_tuples(lists: Sequence[Sequence[_T]]) -> tuple[tuple[_T, ...], ...]:
    return tuple(tuple(values) for values in lists)


def _group_by_size(judgements: Judgements) -> Iterator[tuple[int, Ranks]]:
    """How many documents are searched, and the relevant ones of the queries that search that many.

    The ranks are unknown, except NEVER of documents that a query does not search or that are lost.
    """
    groups: dict[int, tuple[list[list[int]], list[list[float]]]] = {}
    for query, documents in enumerate(judgements.relevant):
        excluded = set(judgements.excluded[query]) if judgements.excluded else set()
        lost = judgements.lost[query] if judgements.lost else []
        gains = judgements.gains[query] if judgements.gains else [1.0] * len(documents)
        positions = [
            NEVER if document in excluded else document for document in documents
        ]
        num_searched = judgements.num_documents - len(excluded)
        relevant, known_gains = groups.setdefault(num_searched, ([], []))
        relevant.append([*positions, *[NEVER] * len(lost)])
        known_gains.append([*gains, *lost])
    for num_searched, (relevant, known_gains) in groups.items():
        yield num_searched, ranks_of_lists(relevant, known_gains, judgements.hit_gain)
