"""Where a model fails: the queries that score lowest and what they found, the pairs that it sees least as people do.

Q queries, N documents, P pairs, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .data.datasets import Input, PairData, RetrievalData, ZeroShotData
from .results import TaskResult, Values

MAX_CANDIDATES = (
    2048  # of the lowest queries the first so many are ranked, so that no task of millions is searched again
)
BLOCK = 8_000_000  # scores held at once

Scores = npt.NDArray[np.float32]


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
    value: float | None  # in the task's main metric
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


def worst_queries(result: TaskResult, count: int = 8, *, num_found: int = 4, num_relevant: int = 2) -> list[WorstQuery]:
    """The queries of a retrieval or zero-shot task with the lowest value of its first metric, worst first.

    Among equals the one whose best relevant document comes last is the worst. Queries without a relevant document, and
    tasks of pairs or of no vectors, give none.
    """
    if isinstance(result.data, PairData) or result.queries is None or result.documents is None:
        return []
    data = _as_retrieval(result.data)
    relevant = [_relevant(data, query) for query in range(len(data.queries))]
    values = _main_values(result)
    asked = [query for query, positions in enumerate(relevant) if positions]
    asked.sort(key=lambda query: 0.0 if values is None else values[query])  # stable: equals stay in their order
    ranks = np.zeros(len(data.queries), dtype=np.int64)
    for query, scores in _scores(result, data, asked[:MAX_CANDIDATES]):
        ranks[query] = 1 + np.count_nonzero(scores > scores[relevant[query]].max())
    candidates = asked[:MAX_CANDIDATES]
    candidates.sort(key=lambda query: (0.0 if values is None else values[query], -ranks[query]))
    worst = [query for query in candidates if ranks[query] > 1 or (values is not None and values[query] < 1)][:count]
    seen: dict[int, WorstQuery] = {}
    for query, scores in _scores(result, data, worst):
        value = None if values is None else float(values[query])
        right = sorted(relevant[query], key=lambda position: -scores[position])[:num_relevant]
        seen[query] = WorstQuery(
            data.queries[query],
            value,
            int(ranks[query]),
            [_found(data, position, scores, relevant[query]) for position in right],
            [_found(data, position, scores, relevant[query]) for position in _top(scores, num_found)],
        )
    return [seen[query] for query in worst]


def worst_pairs(result: TaskResult, count: int = 8) -> list[WorstPair]:
    """The pairs of an STS task whose place by the model is furthest from their place by people, worst first."""
    data = result.data
    if not isinstance(data, PairData) or result.queries is None or result.documents is None:
        return []
    cosines = np.einsum("pd,pd->p", result.queries, result.documents, dtype=np.float64)
    human, model = _places(np.array(data.scores)), _places(cosines)
    worst = np.argsort(-np.abs(human - model), kind="stable")[:count]
    return [
        WorstPair(data.left[p], data.right[p], data.scores[p], float(cosines[p]), float(human[p]), float(model[p]))
        for p in map(int, worst)
    ]


def _as_retrieval(data: RetrievalData | ZeroShotData) -> RetrievalData:
    """A class is what a picture of a zero-shot task should find."""
    if isinstance(data, RetrievalData):
        return data
    return RetrievalData(data.images, list(data.class_names), [[label] for label in data.labels])


def _relevant(data: RetrievalData, query: int) -> list[int]:
    if data.gains is None:
        return data.relevant[query]
    graded = zip(data.relevant[query], data.gains[query], strict=True)
    return [position for position, gain in graded if gain > 0]


def _main_values(result: TaskResult) -> Values | None:
    """Each query's value of the metric that the task's rows begin with."""
    main = next((row.metric for row in result.rows if row.metric in result.values), None)
    return None if main is None else result.values[main]


def _scores(result: TaskResult, data: RetrievalData, queries: list[int]) -> Iterator[tuple[int, Scores]]:
    """(query, its (N,) cosines), a block of queries at a time; what it does not search is -inf."""
    assert result.queries is not None
    assert result.documents is not None
    step = max(1, BLOCK // max(1, len(data.documents)))
    for start in range(0, len(queries), step):
        block = queries[start : start + step]
        for query, scores in zip(block, result.queries[block] @ result.documents.T, strict=True):
            if data.excluded is not None:
                scores[data.excluded[query]] = -np.inf
            yield query, scores


def _top(scores: Scores, count: int) -> list[int]:
    count = min(count, len(scores))
    best = np.argpartition(-scores, count - 1)[:count]
    return [int(one) for one in best[np.argsort(-scores[best], kind="stable")] if np.isfinite(scores[one])]


def _found(data: RetrievalData, position: int, scores: Scores, relevant: list[int]) -> Found:
    rank = 1 + int(np.count_nonzero(scores > scores[position]))
    return Found(data.documents[position], float(scores[position]), rank, position in relevant)


def _places(values: Values) -> Values:
    """The share of the others that lie below each value; equal ones share the middle of their places."""
    ordered = np.sort(values)
    below, up_to = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return np.asarray((below + up_to - 1) / 2 / max(1, len(values) - 1), dtype=np.float64)
