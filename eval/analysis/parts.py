"""A task's scores over some of its queries, perhaps with other vectors for them.

n queries, Q queries of the task, D embedding dimension.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from unimodal.vectors import Vectors

from ..data.datasets import PairData, RetrievalData
from ..scoring.metrics import unordered
from ..scoring.results import TaskResult, Values
from ..scoring.retrieval import vector_values
from ..scoring.statistics import (
    CORRELATIONS,
    Bounds,
    correlation_intervals,
    score_intervals,
)
from ..scoring.sts import cosines
from ..scoring.zero_shot import zero_shot_values

Numbers = npt.NDArray[np.int64]
_T = TypeVar("_T")


class PartScore(NamedTuple):
    """A score over some of a task's queries."""

    value: float | None  # None: undefined
    bounds: Bounds  # of its 95 % interval
    note: str = ""  # why it is undefined


def part_values(
    result: TaskResult, numbers: Numbers, queries: Vectors | None = None
) -> dict[str, Values]:
    """metric -> (n,) each query's value; of pairs "cosine" -> (n,), as a correlation has no parts.

    result: with vectors. numbers: (n,) which of its queries. queries: (n, D) their vectors; None:
        those they have.
    """
    assert result.queries is not None
    assert result.documents is not None
    data = result.data
    vectors = result.queries[numbers] if queries is None else queries
    if isinstance(data, PairData):
        return {"cosine": cosines(vectors, result.documents[numbers])}
    if isinstance(data, RetrievalData):
        part = dataclasses.replace(
            data,
            queries=_some(data.queries, numbers),
            relevant=_some(data.relevant, numbers),
            gains=None if data.gains is None else _some(data.gains, numbers),
            query_ids=None
            if data.query_ids is None
            else _some(data.query_ids, numbers),
            excluded=None if data.excluded is None else _some(data.excluded, numbers),
            lost=None if data.lost is None else _some(data.lost, numbers),
        )
        return vector_values(part, list(result.values), vectors, result.documents)
    pictures = dataclasses.replace(
        data, images=_some(data.images, numbers), labels=_some(data.labels, numbers)
    )
    return zero_shot_values(pictures, list(result.values), vectors, result.documents)


def part_scores(
    result: TaskResult, numbers: Numbers, values: dict[str, Values]
) -> dict[str, PartScore]:
    """metric -> its score over some of a task's queries and the 95 % interval of that.

    values: of `part_values` for the same queries.
    """
    data = result.data
    if isinstance(data, PairData):
        metrics = [
            one for one in CORRELATIONS if any(row.metric == one for row in result.rows)
        ]
        human = np.array(data.scores, dtype=np.float64)[numbers]
        if reason := unordered(values["cosine"], human):
            return {metric: PartScore(None, (None, None), reason) for metric in metrics}
        intervals = correlation_intervals(values["cosine"], human, metrics)
        scores = [CORRELATIONS[metric](values["cosine"], human) for metric in metrics]
    else:
        metrics = list(values)
        intervals = score_intervals(list(values.values())) if values else []
        scores = [float(one.mean()) for one in values.values()]
    found = [PartScore(*one) for one in zip(scores, intervals, strict=True)]
    return dict(zip(metrics, found, strict=True))


def _some(values: Sequence[_T], numbers: Numbers) -> list[_T]:
    return [values[number] for number in numbers]
