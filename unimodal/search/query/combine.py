"""The vector of a query: a weighted sum of its parts, moved away from what is not wanted.

D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unimodal.vectors import Vectors, normalize, weighted_sum

# A sum of unit vectors that is shorter than this has no direction but that of rounding.
CANCELLED = 1e-3


def combine_parts(
    text: Vectors | None, image: Vectors | None, weight: float
) -> Vectors:
    """(1 - weight) x text + weight x image, normalized, as `Embedder.encode` gives for both.

    text, image: (D,) unit vectors; without one of them the other is the result, whatever the
        weight. Raises ValueError where they cancel each other out.
    """
    if image is None:
        assert text is not None
        return text
    if text is None:
        return image
    summed = weighted_sum(text, image, weight)
    return _normalize(summed, "the words and the image cancel each other out")


def move_away(query: Vectors, negatives: Sequence[Vectors], weight: float) -> Vectors:
    """query - weight x mean of the negatives, normalized: Rocchio's formula for the non-relevant.

    (Rocchio, 1971; Manning et al., Introduction to Information Retrieval, 2008, section 9.1.1, with
    alpha = 1 and gamma = weight.) query: (D,) unit vector. negatives: unit vectors of (D,).
    """
    if not negatives:
        return query
    moved = query - weight * np.mean(negatives, axis=0)
    return _normalize(moved, "what is wanted and what is not cancel each other out")


def _normalize(vector: Vectors, fault: str) -> Vectors:
    if np.linalg.norm(vector) < CANCELLED:
        raise ValueError(f"{fault}; use other words, or another weight.")
    (normalized,) = normalize(vector[None])
    return np.asarray(normalized)
