"""Semantic textual similarity: pairs of texts and how similar people find them.

n some of the pairs, P pairs, D embedding dimension.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unimodal.vectors import Vectors

from ..scoring.score_row import Half, ScoreRow, Values
from ..scoring.statistics import (
    CORRELATIONS,
    Comparison,
    Score,
    compare_correlations,
    correlation_scores,
)
from ..scoring.sts import STS_METRICS, bm25_similarities, cosines
from .inputs import Input, Side
from .task_data import (
    Numbers,
    ScoredPairs,
    SubsetScores,
    TaskData,
    check_known,
    refuse_empty,
)


@dataclass(frozen=True)
class PairData(TaskData):
    """Pairs of texts and how similar people find them."""

    left: list[str]
    right: list[str]
    scores: list[float]
    # named subsets, as positions of pairs, that are scored separately too
    groups: dict[str, list[int]] = field(default_factory=dict)

    def inputs(self) -> tuple[Side, Side]:
        """The left and the right texts, without a prompt."""
        return Side(self.left), Side(self.right)

    @property
    def half(self) -> Half:
        """Text."""
        return "text"

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """Spearman's rank correlation."""
        return STS_METRICS

    def score(
        self,
        task: str,
        metrics: Sequence[str],
        queries: Vectors | None,
        documents: Vectors | None,
        *,
        with_intervals: bool = True,
    ) -> tuple[list[ScoreRow], dict[str, Values]]:
        """A row for each metric over all pairs, then over each group ("task/group").

        Chance is 0, the baseline BM25's. The values are those of each pair, under "cosine": a
        correlation has no parts. An undefined correlation (all scores alike, all cosines alike, one
        pair) has the value None, a note that says why, and a warning.
        """
        human = np.array(self.scores, dtype=np.float64)
        by_words = bm25_similarities(self.left, self.right)
        similarities = None
        if queries is not None and documents is not None:
            similarities = cosines(queries, documents)
        rows: list[ScoreRow] = []
        for name, pairs in self._positions(task).items():
            baselines = correlation_scores(
                by_words[pairs], human[pairs], metrics, with_intervals=False
            )
            scores = [Score(None) for _ in metrics]
            if similarities is not None:
                scores = correlation_scores(
                    similarities[pairs],
                    human[pairs],
                    metrics,
                    with_intervals=with_intervals,
                )
                _warn_of_undefined(name, metrics, scores)
            rows += [
                ScoreRow(
                    name,
                    metric,
                    score.value,
                    0.0,
                    baseline.value,
                    *score.bounds,
                    num=None if similarities is None else len(pairs),
                    note=score.note,
                )
                for metric, score, baseline in zip(
                    metrics, scores, baselines, strict=True
                )
            ]
        return rows, {} if similarities is None else {"cosine": similarities}

    def _positions(self, task: str) -> dict[str, list[int]]:
        """All pairs under the name of the task, then those of each group."""
        positions = {task: list(range(len(self.scores)))}
        for name, members in self.groups.items():
            positions[f"{task}/{name}"] = members
        return positions

    def check(self, name: str) -> PairData:
        """Raise ValueError for empty texts and scores that are not numbers."""
        refuse_empty(name, "texts", [*self.left, *self.right])
        for pair, score in enumerate(self.scores):
            if not math.isfinite(score):
                raise ValueError(
                    f"{name}: the score of pair {pair} is {score}; remove or repair the pair."
                )
        return self

    def check_metric(self, metric: str) -> None:
        """Raise ValueError, with the nearest name, for what is not a correlation."""
        check_known(metric, tuple(CORRELATIONS), "pairs")

    def score_subset(
        self,
        metrics: Sequence[str],
        numbers: Numbers,
        queries: Vectors,
        documents: Vectors,
    ) -> SubsetScores:
        """Score some of the pairs, perhaps with other vectors of the left texts."""
        similarities = cosines(queries, documents[numbers])
        human = np.array(self.scores, dtype=np.float64)[numbers]
        scores = correlation_scores(similarities, human, metrics)
        return SubsetScores(
            {"cosine": similarities}, dict(zip(metrics, scores, strict=True))
        )

    def compare(
        self,
        task: str,
        metrics: Sequence[str],
        first: Mapping[str, Values],
        second: Mapping[str, Values],
    ) -> list[Comparison]:
        """Compare the correlations of two models, over all pairs and over each group."""
        human = np.array(self.scores)
        comparisons = []
        for name, pairs in self._positions(task).items():
            comparisons += compare_correlations(
                name,
                metrics,
                human[pairs],
                first["cosine"][pairs],
                second["cosine"][pairs],
            )
        return comparisons

    def answers(self) -> tuple[dict[int, Input], list[list[int]]]:
        """Each left text has its right text as the answer."""
        return dict(enumerate(self.right)), [[pair] for pair in range(len(self.left))]

    def as_pairs(self) -> ScoredPairs:
        """Pairs with people's scores."""
        return ScoredPairs(self.left, self.right, self.scores)


def _warn_of_undefined(
    name: str, metrics: Sequence[str], scores: Sequence[Score]
) -> None:
    note = scores[0].note if scores else ""
    if note:
        warnings.warn(
            f"{name}: {' and '.join(metrics)} undefined: {note}.", stacklevel=3
        )
