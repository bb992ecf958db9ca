"""Vectors -> what goes over the wire: shorter, in fewer bits, as numbers or as base64.

n vectors, D dimensions.

    float      float32, as the model gives it
    int8       one byte a dimension, by one scale for all vectors (`unimodal.vectors.quantize_int8`)
    uint8      the same plus 128
    ubinary    one bit a dimension, 1 where x > 0, the first dimension in the highest bit of the first byte
    binary     the same bytes minus 128, as signed numbers

Sentence-transformers'
int8 with ranges of -r ... r is the same but for rounding; its binary and ubinary, and Cohere's, are
these exactly.
"""

from __future__ import annotations

import base64
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...vectors import pack_signs, quantize_int8, truncate

Number = Literal["float", "int8", "uint8", "binary", "ubinary"]
NUMBERS: tuple[Number, ...] = get_args(Number)


def shortened(
    vectors: NDArray[np.float32], dimensions: int | None, normalized: bool = True
) -> NDArray[np.float32]:
    """(n, D) unit vectors, their first `dimensions` only and normalised again -> (n, dimensions);
    None leaves them.
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    if normalized:
        return truncate(vectors, dimensions)
    return np.ascontiguousarray(vectors[:, :dimensions])


def quantized(vectors: NDArray[np.float32], number: Number) -> NDArray[Any]:
    """(n, D) float32 -> (n, D) float32, int8 or uint8, or (n, ceil(D / 8)) packed bits."""
    if number == "float":
        return vectors
    if number == "ubinary":
        return pack_signs(vectors)
    if number == "binary":
        return np.asarray(pack_signs(vectors).astype(np.int16) - 128, dtype=np.int8)
    signed = quantize_int8(vectors)
    if number == "int8":
        return signed
    return np.asarray(signed.astype(np.int16) + 128, dtype=np.uint8)


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
