"""Zero-shot classification: an image's class is the one whose words lie closest to it.

Q images, C classes, T templates, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unimodal.config import nearest
from unimodal.vectors import Vectors, normalize

from ..data.datasets import ZeroShotData
from .ranks import ranks
from .results import Row, Values
from .retrieval import mean_rows

ZERO_SHOT_METRICS = ("accuracy", "accuracy_at_5", "mean_class_recall")


def zero_shot_rows(
    task: str,
    data: ZeroShotData,
    metrics: Sequence[str],
    images: Vectors | None,
    classes: Vectors | None,
    *,
    with_intervals: bool = True,
) -> tuple[list[Row], dict[str, Values]]:
    """A row for each metric beside chance, and each image's values.

    images: (Q, D) unit vectors, classes: (C, D), of `class_vectors`; None where the model has
        none: rows have the value None then.
    with_intervals: also 95 % intervals (`statistics.score_intervals`).
    """
    values: dict[str, Values] = {}
    if images is not None and classes is not None:
        values = zero_shot_values(data, metrics, images, classes)
    count = len(data.class_names)
    chance = {
        metric: min(1.0, (5 if metric == "accuracy_at_5" else 1) / count)
        for metric in metrics
    }
    return mean_rows(
        task, metrics, values, chance, {}, with_intervals=with_intervals
    ), values


def zero_shot_values(
    data: ZeroShotData, metrics: Sequence[str], images: Vectors, classes: Vectors
) -> dict[str, Values]:
    """metric -> (Q,) each image's value; the metric is their mean.

    accuracy: 1 where its class comes first. accuracy_at_5: among the first five.
    mean_class_recall: the mean over the classes that have images of the share that is right, so
        that rare classes count as much as common ones; an image of a class of n of them counts Q /
        (n x classes with images).
    """
    found = ranks(images, classes, [[label] for label in data.labels]).flat
    first = np.asarray(found == 1, dtype=np.float64)
    counts = np.bincount(data.labels, minlength=len(data.class_names))
    weights = len(found) / (counts[data.labels] * np.count_nonzero(counts))
    known = {
        "accuracy": first,
        "accuracy_at_5": np.asarray(found <= 5, dtype=np.float64),
        "mean_class_recall": first * weights,
    }
    return {metric: known[metric] for metric in metrics}


def check_zero_shot_metric(metric: str) -> None:
    """Refuse, with the nearest name, what is no metric of a classification."""
    if metric not in ZERO_SHOT_METRICS:
        raise ValueError(
            f"there is no metric {metric!r} of a classification; "
            f"{nearest(metric, ZERO_SHOT_METRICS)}"
        )


def class_vectors(texts: Vectors, num_classes: int) -> Vectors:
    """(C x T, D) unit vectors of each class in each template, class by class -> (C, D).

    The mean of a class's templates, normalised (Radford et al., 2021, section 3.1.4; CLIP_benchmark
    does the same).
    """
    return normalize(texts.reshape(num_classes, -1, texts.shape[1]).mean(axis=1))
