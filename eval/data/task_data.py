"""What every kind of task data provides: what to encode, and how to score the vectors.

A new kind is one class, in a module of its own: it names its two sides, its half of the space and
its default metrics, and scores the vectors of its sides. Nothing else asks which kind it is.

n some of the queries, Q queries, N documents, D embedding dimension.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unimodal.config import nearest
from unimodal.vectors import Vectors

from ..scoring.retrieval import Judgements
from ..scoring.score_row import Half, ScoreRow, Values
from ..scoring.statistics import Comparison, Score, compare_means
from .inputs import Fused, Input, Side, modalities_of, text_of

Numbers = npt.NDArray[np.int64]


class Direction(NamedTuple):
    """One direction of a task, with its vectors."""

    suffix: str  # what follows the task's name: "/text->image"
    data: TaskData
    queries: Vectors | None  # (Q, D)
    documents: Vectors | None  # (N, D)


class Ranking(NamedTuple):
    """A task as queries that should find documents."""

    queries: Sequence[Input]
    documents: Sequence[Input]
    judgements: Judgements


class ScoredPairs(NamedTuple):
    """A task as pairs of texts, with the scores that people gave them."""

    left: Sequence[str]
    right: Sequence[str]
    scores: Sequence[float]


class SubsetScores(NamedTuple):
    """The scores of some of a task's queries."""

    values: dict[str, Values]  # metric -> each query's value
    scores: dict[str, Score]


class TaskData(ABC):
    """The data of one task.

    A kind must have `inputs`, `half`, `default_metrics` and `score`. The other methods serve checks
    and analyses; as they stand, a task is left out of an analysis that needs more.
    """

    @abstractmethod
    def inputs(self) -> tuple[Side, Side]:
        """Queries and documents: what is encoded, and the prompt before it."""

    @property
    @abstractmethod
    def half(self) -> Half:
        """Which half of the space the task measures."""

    @property
    @abstractmethod
    def default_metrics(self) -> tuple[str, ...]:
        """The metrics of a task whose configuration names none, the main one first."""

    @abstractmethod
    def score(
        self,
        task: str,
        metrics: Sequence[str],
        queries: Vectors | None,
        documents: Vectors | None,
        *,
        with_intervals: bool = True,
    ) -> tuple[list[ScoreRow], dict[str, Values]]:
        """A row for each metric, beside chance and BM25, and each query's values.

        queries, documents: of `inputs`, unit vectors; None if the model lacks a modality: rows have
            the value None then.
        with_intervals: also compute 95 % intervals.
        """

    @property
    def notes(self) -> Sequence[str]:
        """What was left out of the data or does not fit, for readers of the scores."""
        return ()

    def inputs_for(self, modalities: Iterable[str]) -> tuple[Side, ...]:
        """Its `inputs`; none if a model of these modalities cannot encode one of the sides."""
        sides = self.inputs()
        needed = frozenset[str]().union(*(modalities_of(side.inputs) for side in sides))
        return sides if needed <= set(modalities) else ()

    def check(self, name: str) -> TaskData:
        """The data, perhaps with more notes, once it is known that it can be scored.

        Raises ValueError, naming the task, for data that cannot be scored.
        """
        return self

    def check_metric(self, metric: str) -> None:
        """Raise ValueError, with the nearest name, for a metric that the kind does not have."""
        check_known(metric, self.default_metrics, "this task")

    @property
    def directions(self) -> tuple[str, ...]:
        """What follows the task's name in the rows of each direction."""
        return ("",)

    def split_directions(
        self, queries: Vectors | None, documents: Vectors | None
    ) -> list[Direction]:
        """Each direction that is scored, with its vectors."""
        return [Direction("", self, queries, documents)]

    def score_subset(
        self,
        metrics: Sequence[str],
        numbers: Numbers,
        queries: Vectors,
        documents: Vectors,
    ) -> SubsetScores | None:
        """Score some of the queries, perhaps with other vectors; None if the kind cannot.

        numbers: (n,) which queries. queries: (n, D) their vectors. documents: (N, D).
        """
        return None

    def compare(
        self,
        task: str,
        metrics: Sequence[str],
        first: Mapping[str, Values],
        second: Mapping[str, Values],
    ) -> list[Comparison]:
        """Compare two models by the values that `score` gave for each."""
        return compare_means(task, first, second)

    def answers(self) -> tuple[dict[int, Input], list[list[int]]]:
        """Documents that answer a query, by position, and the positions for each query.

        None by default: then the queries alone are looked for in training data.
        """
        return {}, [[] for _ in self.inputs()[0].inputs]

    def as_ranking(self) -> Ranking | None:
        """Queries that should find documents; None if the task is something else."""
        return None

    def as_corpus(self) -> Ranking | None:
        """A ranking whose documents are worth compressing, clustering and drawing, or None."""
        return None

    def as_pairs(self) -> ScoredPairs | None:
        """Pairs of texts with people's scores, or None."""
        return None


def check_known(metric: str, known: Sequence[str], owner: str) -> None:
    """Raise ValueError, with the nearest name, for a metric that is not among these."""
    if metric not in known:
        raise ValueError(
            f"there is no metric {metric!r} of {owner}; {nearest(metric, known)}"
        )


def refuse_empty(name: str, what: str, inputs: Sequence[Input]) -> None:
    """Raise ValueError, naming the task, for no inputs and for an empty text."""
    if not inputs:
        raise ValueError(f"{name} has no {what}; check its folder and its split.")
    for number, value in enumerate(inputs):
        is_text = isinstance(value, (str, Fused))
        if is_text and not text_of(value).strip():
            raise ValueError(
                f"{name}: number {number} of its {what} is an empty text; remove or repair it."
            )
