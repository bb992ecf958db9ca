"""Arithmetic on vectors: one formula each, for the model, the index, the server and evaluation.

n vectors, D dimensions. `Vectors` is a float32 array of (n, D), or (D,) where a docstring says so.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vectors: TypeAlias = NDArray[np.float32]
Weight: TypeAlias = float | np.floating[Any] | NDArray[np.floating[Any]]

# How many times the average size of a dimension `quantize_int8` keeps before it clips.
INT8_ROOM = 8.0


def normalize(vectors: NDArray[Any]) -> Vectors:
    """Divide each of (n, D) vectors by its length -> (n, D) float32; zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def truncate(vectors: NDArray[Any], dims: int | None) -> Vectors:
    """Keep the first `dims` dimensions and normalize again -> (n, dims); None keeps all."""
    return normalize(vectors[:, :dims])


def fuse(texts: Vectors, images: Vectors, weight: Weight) -> Vectors:
    """The vectors of items with a text and an image: their weighted sum, normalized.

    texts, images: (n, D) unit vectors; a row of zeros is a part that an item does not have.
    weight: the share of the images, one number or (n, 1).
    """
    return normalize(weighted_sum(texts, images, weight))


def weighted_sum(texts: Vectors, images: Vectors, weight: Weight) -> Vectors:
    """(1 - weight) x text + weight x image, or the one part that an item has, not yet normalized.

    texts, images: (n, D) or (D,) unit vectors, zeros for a part that an item does not have.
    """
    text_share = np.asarray(1 - weight, dtype=np.float32)
    image_share = np.asarray(weight, dtype=np.float32)
    has_text = texts.any(axis=-1, keepdims=True)
    has_image = images.any(axis=-1, keepdims=True)
    summed = text_share * texts + image_share * images
    return np.where(has_text & has_image, summed, texts + images)


def pack_signs(vectors: Vectors) -> NDArray[np.uint8]:
    """(n, D) -> (n, ceil(D / 8)): one bit per dimension, 1 where the value is positive.

    The first dimension is the highest bit of the first byte (sentence-transformers' "ubinary").
    """
    return np.packbits(vectors > 0, axis=1)


def quantize_int8(vectors: Vectors) -> NDArray[np.int8]:
    """Round unit vectors to a byte per dimension, by one scale for all -> (n, D) in -127 ... 127.

    x -> round(127 x / r), clipped, with r = `int8_reach(D)`: it needs no data, and one r for all
    vectors keeps the order by dot product and by cosine.
    """
    scaled = np.rint(vectors * (127 / int8_reach(vectors.shape[1])))
    return np.asarray(np.clip(scaled, -127, 127), dtype=np.int8)


def int8_reach(dims: int) -> float:
    """r of `quantize_int8`, the value that 127 stands for.

    A unit vector's dimensions are 1 / sqrt(D) on average; 8 times that leaves room for the large
    ones. At 768 dimensions a cosine of two int8 vectors is within 0.003 of the exact one.
    """
    return min(1.0, INT8_ROOM / float(np.sqrt(dims)))


def int8_ranges(vectors: Vectors) -> Vectors:
    """(2, D): the lowest and the highest value of each dimension among (n, D) vectors."""
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])


def quantize_int8_in_ranges(vectors: Vectors, ranges: Vectors) -> NDArray[np.int8]:
    """(n, D) codes -128 ... 127: which of 256 equal steps of its dimension's range a value is in.

    ranges: (2, D). The codes are those of sentence-transformers' "int8".
    """
    codes = np.clip(np.floor((vectors - ranges[0]) / _int8_steps(ranges)), 0, 255)
    return np.asarray(codes - 128, dtype=np.int8)


def restore_int8_in_ranges(codes: NDArray[np.int8], ranges: Vectors) -> Vectors:
    """(n, D) codes of `quantize_int8_in_ranges` -> the middle of each code's step, (n, D)."""
    middles = (codes.astype(np.float32) + 128.5) * _int8_steps(ranges)
    return np.asarray(ranges[0] + middles, dtype=np.float32)


def _int8_steps(ranges: Vectors) -> Vectors:
    """(D,): the width of one of 256 steps in each dimension; 1 where all values are equal."""
    steps = (ranges[1] - ranges[0]) / np.float32(255)
    return np.where(steps == 0, np.float32(1), steps)


def cosines(left: Any, right: Any) -> Vectors:
    """Cosines of all pairs: (n, D) and (m, D) vectors -> (n, m).

    The vectors may have any length and type of number. For a single vector, (D,), the result has no
    axis.

    Raises ValueError for other values, for two numbers of dimensions, and for a vector without a
    direction.
    """
    left = _directions(left, "left")
    right = _directions(right, "right")
    if left.shape[-1] != right.shape[-1]:
        raise ValueError(
            f"the left vectors have {left.shape[-1]} dimensions and the right ones "
            f"{right.shape[-1]}; compare vectors of one model and one length."
        )
    return np.asarray(left @ right.T, dtype=np.float32)


def _directions(vectors: Any, side: str) -> Vectors:
    """The vectors, (n, D) or (D,), at length 1."""
    numbers = _numbers(vectors, side)
    rows = np.atleast_2d(numbers)
    # In float64 a sum of squares does not overflow, and whole numbers do not wrap around.
    squares = np.einsum("nd,nd->n", rows, rows, dtype=np.float64, casting="unsafe")
    lengths = np.sqrt(squares)
    _check_lengths(lengths, side)
    directions = np.empty(rows.shape, dtype=np.float32)
    np.divide(rows, lengths[:, None], out=directions, casting="same_kind")
    return directions.reshape(numbers.shape)


def _numbers(vectors: Any, side: str) -> NDArray[Any]:
    """An array of numbers, (n, D) or (D,)."""
    try:
        numbers = np.asarray(vectors)
    # Lists of several lengths; tensors of a type that numpy does not have.
    except (TypeError, ValueError):
        numbers = np.asarray(None)
    if numbers.dtype.kind not in "biuf" or numbers.ndim not in (1, 2):
        raise ValueError(
            f"the {side} vectors are {vectors!r:.60}; give an array of numbers, (n, D), "
            "as encode returns it."
        )
    return numbers


def _check_lengths(lengths: NDArray[np.float64], side: str) -> None:
    has_direction = np.isfinite(lengths) & (lengths > 0)
    bad = np.flatnonzero(~has_direction)
    if not bad.size:
        return
    reason = "is not finite" if lengths[bad[0]] else "is zero"
    raise ValueError(
        f"{side} vector {bad[0]} {reason} and so has no cosine with others ({bad.size:,} of "
        f"{len(lengths):,} are like it); leave it out, or encode its input again."
    )
