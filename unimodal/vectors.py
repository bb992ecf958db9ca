"""Vectors of length 1, and the cosines of any."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """(n, D) vectors, each divided by its length -> (n, D) float32; one of length
    0 stays as it is.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def cosines(left: Any, right: Any) -> NDArray[np.float32]:
    """Cosines of all pairs: (n, D) and (m, D) vectors of any length and type of number -> (n, m).

    A single vector, (D,), is taken too, and leaves its axis out.

    Raises ValueError for what is not such vectors, for two numbers of dimensions, and for a vector
    without a direction.
    """
    left = _directions(left, "left")
    right = _directions(right, "right")
    if left.shape[-1] != right.shape[-1]:
        raise ValueError(
            f"the left vectors have {left.shape[-1]} dimensions and the right ones "
            f"{right.shape[-1]}; compare vectors of one model and one length."
        )
    return np.asarray(left @ right.T, dtype=np.float32)


def _directions(vectors: Any, side: str) -> NDArray[np.float32]:
    """The vectors at length 1. A sum of squares in float64 does not overflow, and whole numbers do
    not wrap around.
    """
    try:
        given = np.asarray(vectors)
    except (
        TypeError,
        ValueError,
    ):  # lists of several lengths, tensors of a type that numpy does not have
        given = np.asarray(None)

    if given.dtype.kind not in "biuf" or given.ndim not in (1, 2):
        raise ValueError(
            f"the {side} vectors are {vectors!r:.60}; give an array of numbers, (n, D), "
            "as encode returns it."
        )

    rows = np.atleast_2d(given)
    lengths = np.sqrt(
        np.einsum("nd,nd->n", rows, rows, dtype=np.float64, casting="unsafe")
    )
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise ValueError(
            f"{side} vector {bad[0]} {'is not finite' if lengths[bad[0]] else 'is zero'} and so "
            f"has no cosine with others ({bad.size:,} of {len(rows):,} are like it); leave it "
            "out, or encode its input again."
        )
    found = np.empty(rows.shape, dtype=np.float32)
    np.divide(rows, lengths[:, None], out=found, casting="same_kind")
    return found.reshape(given.shape)
