"""The vector that a query asks with: a weighted sum of its parts, moved away from what is not
wanted.

D embedding dimension, n of one kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.vectors import normalize, weighted_sum

Vector = NDArray[np.float32]

CANCELLED = (
    1e-3  # a length below which a sum of unit vectors has no direction but rounding's
)


def weighted(text: Vector | None, image: Vector | None, weight: float) -> Vector:
    """(1 - weight) x text + weight x image, of length 1: what `Embedder.encode` gives for both at
    once.

    text, image: (D,) unit vectors; of one alone the weight does not matter.
    """
    if text is None or image is None:
        alone = image if text is None else text
        assert alone is not None
        return alone
    return _of_length_1(
        weighted_sum(text, image, weight),
        "the words and the image cancel each other out",
    )


def moved_away(query: Vector, negatives: Sequence[Vector], weight: float) -> Vector:
    """query - weight x mean of the negatives, of length 1: Rocchio's formula for what is not
    relevant.

    (Rocchio, 1971; Manning et al., Introduction to Information Retrieval, 2008, section 9.1.1, with
    alpha = 1 and gamma = weight.) query: (D,) unit vector. negatives: unit vectors of (D,).
    """
    if not negatives:
        return query
    moved = query - weight * np.mean(negatives, axis=0)
    return _of_length_1(moved, "what is wanted and what is not cancel each other out")


def _of_length_1(vector: NDArray[Any], fault: str) -> Vector:
    if np.linalg.norm(vector) < CANCELLED:
        raise ValueError(f"{fault}; say it in other words, or give another weight.")
    (normalised,) = normalize(vector[None])
    return np.asarray(normalised)
