"""Where a model fails: the queries that score lowest and what they found, the pairs that it sees
least as people do.

Q queries, N documents, P pairs, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..data.datasets import Input, PairData, RetrievalData, ZeroShotData
from ..report.layout import lines_of, main_metrics
from ..scoring.ranks import Ranks, ranks
from ..scoring.results import TaskResult, Values

# of the lowest queries the first so many are ranked, so that no task of millions is searched again
MAX_CANDIDATES = 2048
CLOSE = 1e-6  # cosines that may be ties: a product rounds a column by where it stands
# so many of them are ranked, or a model that sees no difference would have all of them ranked
MAX_NEAR = 64

Scores = npt.NDArray[np.float32]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """A document as a query met it."""

    input: Input
    score: float  # the cosine
    rank: int  # from 1
    is_relevant: bool


@dataclass(frozen=True)
class WorstQuery:
    """A query that went wrong, what it should have found, and what it found."""

    query: Input
    metric: str  # the task's first; "" without any
    value: float | None  # in that metric
    rank: int  # of its best relevant document
    relevant: list[Found]  # best first
    found: list[Found]  # best first


@dataclass(frozen=True)
class WorstPair:
    """Two texts that the model holds for closer, or further apart, than people do."""

    left: str
    right: str
    score: float  # people's
    cosine: float
    human_place: float  # share of the pairs that people find less similar
    place: float  # share of the pairs that the model finds less similar


def worst_queries(
    result: TaskResult, count: int = 8, *, num_found: int = 4, num_relevant: int = 2
) -> list[WorstQuery]:
    """The queries of a retrieval or zero-shot task with the lowest value of its first metric, worst
    first.

    Among equals the one whose best relevant document comes last is the worst. Of a hit rate the
    relevant documents are those that it counts. Queries without one, and tasks of pairs or of no
    vectors, give none.
    """
    if (
        isinstance(result.data, PairData)
        or result.queries is None
        or result.documents is None
    ):
        return []
    data = _as_retrieval(result.data)
    metric = main_metrics(lines_of({"": result.rows})).get(result.name, "")
    values = result.values.get(metric)
    relevant = [_relevant(data, query, metric) for query in range(len(data.queries))]
    asked = [query for query, positions in enumerate(relevant) if positions]
    asked.sort(
        key=lambda query: 0.0 if values is None else values[query]
    )  # stable: equals stay in their order
    candidates = asked[:MAX_CANDIDATES]
    ranked = _ranks(result, data, candidates, [relevant[query] for query in candidates])
    best = {
        query: int(np.min(one)) for query, one in zip(candidates, ranked, strict=True)
    }
    candidates.sort(
        key=lambda query: (0.0 if values is None else values[query], -best[query])
    )
    worst = [
        query
        for query in candidates
        if best[query] > 1 or (values is not None and values[query] < 1)
    ][:count]
    return [
        WorstQuery(
            data.queries[query],
            metric,
            None if values is None else float(values[query]),
            best[query],
            [one for one in met if one.is_relevant][:num_relevant],
            [one for one in met if one.rank <= num_found],
        )
        for query, met in zip(
            worst, _met(result, data, worst, relevant, num_found), strict=True
        )
    ]


def worst_pairs(result: TaskResult, count: int = 8) -> list[WorstPair]:
    """The pairs of an STS task whose place by the model is furthest from their place by people,
    worst first.
    """
    data = result.data
    if (
        not isinstance(data, PairData)
        or result.queries is None
        or result.documents is None
    ):
        return []
    cosines = np.einsum("pd,pd->p", result.queries, result.documents, dtype=np.float64)
    human = _places(np.array(data.scores))
    model = _places(cosines)
    worst = np.argsort(-np.abs(human - model), kind="stable")[:count]
    return [
        WorstPair(
            data.left[p],
            data.right[p],
            data.scores[p],
            float(cosines[p]),
            float(human[p]),
            float(model[p]),
        )
        for p in map(int, worst)
    ]


def _as_retrieval(data: RetrievalData | ZeroShotData) -> RetrievalData:
    """A class is what an image of a zero-shot task should find."""
    if isinstance(data, RetrievalData):
        return data
    return RetrievalData(
        data.images, list(data.class_names), [[label] for label in data.labels]
    )


def _relevant(data: RetrievalData, query: int, metric: str) -> list[int]:
    """The documents that the metric counts and the query searches."""
    lowest = data.hit_gain if metric.startswith("hit_rate") else 0.0
    excluded = () if data.excluded is None else data.excluded[query]
    gains = (
        [1.0] * len(data.relevant[query]) if data.gains is None else data.gains[query]
    )
    graded = zip(data.relevant[query], gains, strict=True)
    return [
        position
        for position, gain in graded
        if gain > 0 and gain >= lowest and position not in excluded
    ]


def _ranks(
    result: TaskResult,
    data: RetrievalData,
    queries: list[int],
    documents: list[list[int]],
) -> Ranks:
    """At which rank each of the queries meets each of its documents, as when it was scored."""
    assert result.queries is not None
    assert result.documents is not None
    excluded = (
        None if data.excluded is None else [data.excluded[query] for query in queries]
    )
    return ranks(
        result.queries[queries],
        result.documents,
        documents,
        data.document_ids,
        excluded=excluded,
    )


def _met(
    result: TaskResult,
    data: RetrievalData,
    queries: list[int],
    relevant: list[list[int]],
    num_found: int,
) -> list[list[Found]]:
    """Of each query the relevant documents and the first that it finds, best first."""
    assert result.queries is not None
    assert result.documents is not None
    scores = result.queries[queries] @ result.documents.T  # (queries, N)
    met: list[list[int]] = []
    for query, row in zip(queries, scores, strict=True):
        searched = np.setdiff1d(
            np.arange(len(row)), [] if data.excluded is None else data.excluded[query]
        )
        met.append(
            list(
                dict.fromkeys(
                    [
                        *relevant[query],
                        *_first(row, searched, num_found, data.document_ids),
                    ]
                )
            )
        )
    found = []
    for query, row, positions, places in zip(
        queries, scores, met, _ranks(result, data, queries, met), strict=True
    ):
        ordered = sorted(zip(map(int, places), positions, strict=True))
        wanted = set(relevant[query])
        found.append(
            [
                Found(data.documents[at], float(row[at]), rank, at in wanted)
                for rank, at in ordered
            ]
        )
    return found


def _first(
    scores: Scores, searched: Positions, count: int, ids: Sequence[str] | None
) -> list[int]:
    """The positions that may be among the first: the best scores, and what ties with the last of
    them.
    """
    known = scores[searched]
    last = np.partition(known, -min(count, len(known)))[-min(count, len(known))]
    ahead = searched[known > last + CLOSE]
    near = searched[np.abs(known - last) <= CLOSE]
    by_id = sorted(
        map(int, near), key=lambda at: str(at) if ids is None else ids[at], reverse=True
    )  # as ties are
    return [*map(int, ahead), *by_id[:MAX_NEAR]]


def _places(values: Values) -> Values:
    """The share of the others that lie below each value; equal ones share the middle of their
    places.
    """
    ordered = np.sort(values)
    below = np.searchsorted(ordered, values, "left")
    up_to = np.searchsorted(ordered, values, "right")
    return np.asarray(
        (below + up_to - 1) / 2 / max(1, len(values) - 1), dtype=np.float64
    )
