"""Where a model fails: the worst queries and what they found, and the worst pairs.

Q queries, N documents, P pairs, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unimodal.vectors import Vectors

from ..data.inputs import Input
from ..data.task_data import Ranking
from ..report.layout import lines_of, main_metrics
from ..results import TaskResult
from ..scoring.ranks import Ranks, ranks
from ..scoring.retrieval import Judgements, select
from ..scoring.score_row import Values
from ..scoring.sts import cosines

# the first of the lowest queries are ranked, so that a task of millions is not searched again
MAX_CANDIDATES = 2048
CLOSE = 1e-6  # cosines that may be ties: a product rounds a column by its position
# ties that are ranked at most, or a model that sees no difference would have all of them ranked
MAX_NEAR = 64

Scores = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RankedDocument:
    """A document at its rank for a query."""

    input: Input
    score: float  # the cosine
    rank: int  # from 1
    is_relevant: bool


@dataclass(frozen=True)
class WorstQuery:
    """A query that went wrong, what it should have found, and what came first."""

    query: Input
    metric: str  # the task's first; "" without any
    value: float | None  # in that metric
    rank: int  # of its best relevant document
    relevant: list[RankedDocument]  # best first
    top: list[RankedDocument]  # best first


@dataclass(frozen=True)
class WorstPair:
    """Two texts that the model sees closer together, or further apart, than people do."""

    left: str
    right: str
    score: float  # people's
    cosine: float
    human_place: float  # share of the pairs that people find less similar
    place: float  # share of the pairs that the model finds less similar


@dataclass(frozen=True)
class _Search:
    """A ranking with its vectors, and the documents that each query should find."""

    ranking: Ranking
    queries: Vectors  # (Q, D)
    documents: Vectors  # (N, D)
    relevant: list[list[int]]

    def ranks(self, queries: list[int], documents: list[list[int]]) -> Ranks:
        """The rank at which each of these queries meets each of its documents, as when scored."""
        judgements = self.ranking.judgements
        excluded = judgements.excluded
        return ranks(
            self.queries[queries],
            self.documents,
            documents,
            judgements.document_ids,
            excluded=None if excluded is None else select(excluded, queries),
        )


def worst_queries(
    result: TaskResult, count: int = 8, *, num_top: int = 4, num_relevant: int = 2
) -> list[WorstQuery]:
    """The queries of a ranking with the lowest value of its first metric, worst first.

    Among equals the one whose best relevant document comes last is the worst. Of a hit rate the
    relevant documents are those that it counts. Queries without one, tasks without a ranking and
    results without vectors give none.
    """
    ranking = result.data.as_ranking()
    if ranking is None or result.queries is None or result.documents is None:
        return []
    metric = main_metrics(lines_of({"": result.rows})).get(result.name, "")
    relevant = [
        _counted_documents(ranking.judgements, query, metric)
        for query in range(len(ranking.queries))
    ]
    search = _Search(ranking, result.queries, result.documents, relevant)
    values = result.values.get(metric)
    worst = _worst_first(search, values)[:count]
    queries = []
    for (query, best_rank), met in zip(
        worst, _meet(search, [query for query, _ in worst], num_top), strict=True
    ):
        queries.append(
            WorstQuery(
                ranking.queries[query],
                metric,
                None if values is None else float(values[query]),
                best_rank,
                [document for document in met if document.is_relevant][:num_relevant],
                [document for document in met if document.rank <= num_top],
            )
        )
    return queries


def worst_pairs(result: TaskResult, count: int = 8) -> list[WorstPair]:
    """The pairs whose place by the model is furthest from their place by people, worst first."""
    pairs = result.data.as_pairs()
    if pairs is None or result.queries is None or result.documents is None:
        return []
    similarities = cosines(result.queries, result.documents)
    human = _places(np.array(pairs.scores))
    model = _places(similarities)
    worst = np.argsort(-np.abs(human - model), kind="stable")[:count]
    return [
        WorstPair(
            pairs.left[pair],
            pairs.right[pair],
            pairs.scores[pair],
            float(similarities[pair]),
            float(human[pair]),
            float(model[pair]),
        )
        for pair in worst.tolist()
    ]


def _worst_first(search: _Search, values: Values | None) -> list[tuple[int, int]]:
    """Queries that are not perfect, worst first, with the rank of their best relevant document."""

    def value_of(query: int) -> float:
        return 0.0 if values is None else float(values[query])

    candidates = [query for query, some in enumerate(search.relevant) if some]
    candidates.sort(key=value_of)  # stable: equals stay in their order
    candidates = candidates[:MAX_CANDIDATES]
    ranked = search.ranks(candidates, select(search.relevant, candidates))
    best = {
        query: int(np.min(own_ranks))
        for query, own_ranks in zip(candidates, ranked, strict=True)
    }
    candidates.sort(key=lambda query: (value_of(query), -best[query]))
    return [
        (query, best[query])
        for query in candidates
        if best[query] > 1 or (values is not None and values[query] < 1)
    ]


def _counted_documents(judgements: Judgements, query: int, metric: str) -> list[int]:
    """The documents that the metric counts and the query searches."""
    documents = judgements.relevant[query]
    lowest = judgements.hit_gain if metric.startswith("hit_rate") else 0.0
    excluded = () if judgements.excluded is None else judgements.excluded[query]
    gains = [1.0] * len(documents)
    if judgements.gains is not None:
        gains = list(judgements.gains[query])
    return [
        document
        for document, gain in zip(documents, gains, strict=True)
        if gain > 0 and gain >= lowest and document not in excluded
    ]


def _meet(
    search: _Search, queries: list[int], num_top: int
) -> list[list[RankedDocument]]:
    """Of each query the relevant documents and the first ones, best first."""
    judgements = search.ranking.judgements
    scores = search.queries[queries] @ search.documents.T  # (queries, N)
    positions: list[list[int]] = []
    for query, row in zip(queries, scores, strict=True):
        excluded = () if judgements.excluded is None else judgements.excluded[query]
        searched = np.setdiff1d(np.arange(len(row)), excluded)
        first = _first(row, searched, num_top, judgements.document_ids)
        positions.append(list(dict.fromkeys([*search.relevant[query], *first])))

    met = []
    ranked = search.ranks(queries, positions)
    for query, row, documents, own_ranks in zip(
        queries, scores, positions, ranked, strict=True
    ):
        relevant = set(search.relevant[query])
        by_rank = sorted(zip(own_ranks.tolist(), documents, strict=True))
        met.append(
            [
                RankedDocument(
                    search.ranking.documents[document],
                    float(row[document]),
                    rank,
                    document in relevant,
                )
                for rank, document in by_rank
            ]
        )
    return met


def _first(
    scores: Scores, searched: Positions, count: int, ids: Sequence[str] | None
) -> list[int]:
    """Positions that may be among the first: the best scores, and ties with the last of them."""
    known = scores[searched]
    last = np.partition(known, -min(count, len(known)))[-min(count, len(known))]
    ahead = searched[known > last + CLOSE].tolist()
    near = searched[np.abs(known - last) <= CLOSE].tolist()
    # in the order of ties
    near.sort(key=lambda at: str(at) if ids is None else ids[at], reverse=True)
    return [*ahead, *near[:MAX_NEAR]]


def _places(values: Values) -> Values:
    """The share of the others below each value; equal ones share the middle of their places."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, "left")
    up_to = np.searchsorted(ordered, values, "right")
    return np.asarray(
        (below + up_to - 1) / 2 / max(1, len(values) - 1), dtype=np.float64
    )
