"""Zero-shot classification: images, and classes that are put into words.

n some of the images, Q images, C classes, D embedding dimension.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from unimodal.vectors import Vectors

from ..scoring.retrieval import Judgements, select
from ..scoring.score_row import Half, ScoreRow, Values
from ..scoring.statistics import mean_rows, mean_scores
from ..scoring.zero_shot import ZERO_SHOT_METRICS, zero_shot_chance, zero_shot_values
from .inputs import Input, Side
from .task_data import Numbers, Ranking, SubsetScores, TaskData, refuse_empty


@dataclass(frozen=True)
class ZeroShotData(TaskData):
    """Images, the class of each, and how a class is put into words.

    The vector of a class is the normalized mean of its templates' vectors, as in CLIP's prompt
    ensembles (Radford et al., 2021, section 3.1.4) and CLIP_benchmark.
    """

    images: list[Input]
    labels: list[int]  # of each image: a position in class_names
    class_names: list[str]
    templates: list[str]  # "{c}" stands for the name of the class: "a photo of a {c}."

    def inputs(self) -> tuple[Side, Side]:
        """The images, and every class in every template."""
        texts = [
            template.replace("{c}", name)
            for name in self.class_names
            for template in self.templates
        ]
        return Side(self.images), Side(texts, group_size=len(self.templates))

    @property
    def half(self) -> Half:
        """Cross-modal."""
        return "cross-modal"

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """Accuracies."""
        return ZERO_SHOT_METRICS

    def score(
        self,
        task: str,
        metrics: Sequence[str],
        queries: Vectors | None,
        documents: Vectors | None,
        *,
        with_intervals: bool = True,
    ) -> tuple[list[ScoreRow], dict[str, Values]]:
        """A row for each metric beside chance, and each image's values.

        queries: (Q, D) of the images. documents: (C, D) of the classes.
        """
        values: dict[str, Values] = {}
        if queries is not None and documents is not None:
            values = zero_shot_values(self.labels, metrics, queries, documents)
        chance = {
            metric: zero_shot_chance(metric, len(self.class_names))
            for metric in metrics
        }
        rows = mean_rows(
            task, metrics, values, chance, {}, with_intervals=with_intervals
        )
        return rows, values

    def check(self, name: str) -> ZeroShotData:
        """Raise ValueError for missing images or classes, and for a label without a class.

        Warns of classes with the same name.
        """
        refuse_empty(name, "images", self.images)
        refuse_empty(name, "class names", self.class_names)
        for label in sorted(self.labels):
            if not 0 <= label < len(self.class_names):
                raise ValueError(
                    f"{name}: label {label} is of none of its {len(self.class_names)} classes; "
                    "add it."
                )
        _warn_of_same_names(name, self.class_names)
        if not self.templates or not all("{c}" in text for text in self.templates):
            raise ValueError(
                f"{name}: templates {self.templates[:2]} must say where the class goes; write "
                '"{c}".'
            )
        return self

    def score_subset(
        self,
        metrics: Sequence[str],
        numbers: Numbers,
        queries: Vectors,
        documents: Vectors,
    ) -> SubsetScores:
        """Score some of the images, perhaps with other vectors."""
        labels = select(self.labels, numbers.tolist())
        values = zero_shot_values(labels, metrics, queries, documents)
        return SubsetScores(values, mean_scores(values))

    def as_ranking(self) -> Ranking:
        """Each image should find its class."""
        judgements = Judgements(
            [[label] for label in self.labels], len(self.class_names)
        )
        return Ranking(self.images, self.class_names, judgements)


def _warn_of_same_names(name: str, class_names: Sequence[str]) -> None:
    repeated = [value for value, count in Counter(class_names).items() if count > 1]
    if repeated:
        warnings.warn(
            f"{name}: {repeated[0]!r} is the name of several classes ({len(repeated)} such names), "
            "which no model can tell apart: all images but those of one of them count as wrong; "
            "write other words into classnames.txt.",
            stacklevel=3,
        )
