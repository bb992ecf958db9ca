"""Vectors as they are sent: shorter, in fewer bits, as numbers or as base64.

n vectors, D dimensions.

    float      float32, as the model returns it
    int8       one byte per dimension, by one scale for all vectors (`vectors.quantize_int8`)
    uint8      the same plus 128
    ubinary    one bit per dimension, 1 where the value is positive (`vectors.pack_signs`)
    binary     the same bytes minus 128, as signed numbers

Sentence-transformers' int8 with ranges of -r ... r differs by rounding only; its binary and
ubinary, and Cohere's, are equal to these.
"""

from __future__ import annotations

import base64
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...vectors import Vectors, pack_signs, quantize_int8, truncate

Number = Literal["float", "int8", "uint8", "binary", "ubinary"]
NUMBERS: tuple[Number, ...] = get_args(Number)


def shorten(
    vectors: Vectors, dimensions: int | None, normalize: bool = True
) -> Vectors:
    """(n, D) unit vectors -> (n, dimensions), normalized again; None keeps all dimensions."""
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    if normalize:
        return truncate(vectors, dimensions)
    return np.ascontiguousarray(vectors[:, :dimensions])


def quantize(vectors: Vectors, number: Number) -> NDArray[Any]:
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


def encode_wire(vectors: Vectors, number: Number, in_base64: bool) -> list[Any]:
    """One value per vector for orjson: a row of numbers, or its little-endian bytes in base64."""
    rows = np.ascontiguousarray(quantize(vectors, number))
    if not in_base64:
        return list(rows)
    if number == "float":
        rows = rows.astype("<f4", copy=False)
    return [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]
