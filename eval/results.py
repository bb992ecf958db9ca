"""The results of an evaluation, and the comparison of two.

Q queries, N documents, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from unimodal.vectors import Vectors

from .data.task_data import TaskData
from .scoring.score_row import Half, ScoreRow, Values
from .scoring.statistics import Comparison


@dataclass(frozen=True)
class TaskResult:
    """One direction of one task, scored: its rows, and what they come from.

    Pairs of texts have the left texts as queries and the right ones as documents.
    """

    name: str  # "figures/text->image", "sections", "cxc"
    half: Half  # the half of the space that it measures
    data: TaskData
    rows: list[ScoreRow]
    values: dict[str, Values] = field(
        default_factory=dict
    )  # metric -> (Q,), for statistics
    # (Q, D) and (N, D) unit vectors; None if the model cannot do this task
    queries: Vectors | None = None
    documents: Vectors | None = None

    @property
    def metrics(self) -> list[str]:
        """The metrics of its rows, the main one first."""
        return list(dict.fromkeys(row.metric for row in self.rows))


def rows_of(results: Iterable[TaskResult]) -> list[ScoreRow]:
    """All their rows."""
    return [row for result in results for row in result.rows]


def compare(
    first: Iterable[TaskResult], second: Iterable[TaskResult]
) -> list[Comparison]:
    """Compare two models in every metric of every task that both were scored on.

    Each test stands alone: of twenty comparisons of equal models one has p < 0.05. A score that is
    undefined for one of them is not compared. Raises ValueError for a task that has other queries
    or pairs in the two.
    """
    others = {result.name: result for result in second}
    comparisons: list[Comparison] = []
    for result in first:
        other = others.get(result.name)
        if other is None or result.queries is None or other.queries is None:
            continue
        if len(result.queries) != len(other.queries):
            raise ValueError(
                f"{result.name} has {len(result.queries)} queries for one model and "
                f"{len(other.queries)} for the other; score both on the same data."
            )
        comparisons += result.data.compare(
            result.name, result.metrics, result.values, other.values
        )
    return comparisons
