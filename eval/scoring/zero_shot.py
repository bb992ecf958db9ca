"""Zero-shot classification: an image's class is the one whose words lie closest to it.

Q images, C classes, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unimodal.vectors import Vectors

from .ranks import ranks
from .score_row import Values

ZERO_SHOT_METRICS = ("accuracy", "accuracy_at_5", "mean_class_recall")


def zero_shot_chance(metric: str, num_classes: int) -> float:
    """The expected score of a random class."""
    return min(1.0, (5 if metric == "accuracy_at_5" else 1) / num_classes)


def zero_shot_values(
    labels: Sequence[int], metrics: Sequence[str], images: Vectors, classes: Vectors
) -> dict[str, Values]:
    """metric -> (Q,) each image's value; the metric is their mean.

    labels: (Q,) the class of each image. images: (Q, D), classes: (C, D), unit vectors.

    accuracy: 1 where its class comes first. accuracy_at_5: among the first five.
    mean_class_recall: the mean over the classes that have images of the share that is right, so
        that rare classes count as much as common ones; an image of a class of n of them counts Q /
        (n x classes with images).
    """
    class_ranks = ranks(images, classes, [[label] for label in labels]).flat
    is_first = np.asarray(class_ranks == 1, dtype=np.float64)
    counts = np.bincount(labels, minlength=len(classes))
    weights = len(class_ranks) / (counts[labels] * np.count_nonzero(counts))
    known = {
        "accuracy": is_first,
        "accuracy_at_5": np.asarray(class_ranks <= 5, dtype=np.float64),
        "mean_class_recall": is_first * weights,
    }
    return {metric: known[metric] for metric in metrics}
