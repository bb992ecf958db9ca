"""Vectors -> what goes over the wire: shorter, in fewer bits, as numbers or as base64.

n vectors, D dimensions.

    float      float32, as the model gives it
    int8       x -> round(127 x / r), cut to -127 ... 127, with r = min(1, 8 / sqrt(D))
    uint8      the same plus 128
    ubinary    one bit a dimension, 1 where x > 0, the first dimension in the highest bit of the first byte
    binary     the same bytes minus 128, as signed numbers

One r for all vectors of one length, so that the order by dot product and by cosine stays: a unit
vector's dimensions are 1 / sqrt(D) on average, and 8 times that leaves room for the large ones. At
768 dimensions a cosine of two int8 vectors is within 0.003 of the exact one. Sentence-transformers'
int8 with ranges of -r ... r is the same but for rounding; its binary and ubinary, and Cohere's, are
these exactly.
"""

from __future__ import annotations

import base64
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...vectors import unit

Number = Literal["float", "int8", "uint8", "binary", "ubinary"]
NUMBERS: tuple[Number, ...] = get_args(Number)
ROOM = 8.0  # times the average size of a dimension, before it is cut


def shortened(
    vectors: NDArray[np.float32], dimensions: int | None, normalized: bool = True
) -> NDArray[np.float32]:
    """(n, D) unit vectors, their first `dimensions` only and normalised again -> (n, dimensions);
    None leaves them.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    kept = np.ascontiguousarray(vectors[:, :dimensions])
    return unit(kept) if normalized else kept


def quantized(vectors: NDArray[np.float32], number: Number) -> NDArray[Any]:
    """(n, D) float32 -> (n, D) float32, int8 or uint8, or (n, ceil(D / 8)) packed bits."""
    if number == "float":
        return vectors
    if number in ("binary", "ubinary"):
        packed = np.packbits(vectors > 0, axis=1)
        return (
            packed
            if number == "ubinary"
            else np.asarray(packed.astype(np.int16) - 128, dtype=np.int8)
        )
    signed = np.clip(np.rint(vectors * (127 / reach(vectors.shape[1]))), -127, 127)
    return (
        np.asarray(signed, dtype=np.int8)
        if number == "int8"
        else np.asarray(signed + 128, dtype=np.uint8)
    )


def reach(dimensions: int) -> float:
    """r: the value that 127 stands for."""
    return min(1.0, ROOM / float(np.sqrt(dimensions)))


def wire(vectors: NDArray[np.float32], number: Number, in_base64: bool) -> list[Any]:
    """One value for each vector that orjson writes: a row of numbers, or the row's bytes (little
    endian) in base64.
    """
    rows = np.ascontiguousarray(quantized(vectors, number))
    if not in_base64:
        return list(rows)
    if number == "float":
        rows = rows.astype("<f4", copy=False)
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]
