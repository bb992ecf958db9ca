from __future__ import annotations

import base64

import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers.util.quantization import quantize_embeddings

from unimodal.embedder import Embedder
from unimodal.serve.api.encodings import (
    Number,
    encode_wire,
    quantize,
    shorten,
)
from unimodal.vectors import int8_reach, normalize


@pytest.fixture(scope="module")
def vectors() -> NDArray[np.float32]:
    return normalize(
        np.random.default_rng(0).standard_normal((50, 768)).astype(np.float32)
    )


def test_base64_is_exactly_the_bytes_of_the_floats(
    vectors: NDArray[np.float32],
) -> None:
    decoded = [
        np.frombuffer(base64.b64decode(text), "<f4")
        for text in encode_wire(vectors, "float", in_base64=True)
    ]
    assert np.array_equal(np.stack(decoded), vectors)


def test_a_shortened_vector_is_that_of_the_embedder(
    embedder: Embedder, texts: list[str]
) -> None:
    whole = embedder.encode(texts)
    short = embedder.encode(texts, truncate_dim=8)
    np.testing.assert_allclose(shorten(whole, 8), short, atol=1e-6)


def test_a_shortened_vector_need_not_be_normalised_again(
    vectors: NDArray[np.float32],
) -> None:
    assert np.array_equal(shorten(vectors, 64, normalize=False), vectors[:, :64])


@pytest.mark.parametrize("number", ["binary", "ubinary"])
def test_bits_are_those_of_sentence_transformers(
    vectors: NDArray[np.float32], number: Number
) -> None:
    theirs = quantize_embeddings(vectors, precision=number)
    ours = quantize(vectors, number)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("number", ["int8", "uint8"])
def test_bytes_are_those_of_sentence_transformers_but_for_rounding(
    vectors: NDArray[np.float32], number: Number
) -> None:
    ends = np.full(768, int8_reach(768), np.float32)
    theirs = quantize_embeddings(
        vectors, precision=number, ranges=np.stack([-ends, ends])
    )
    ours = quantize(vectors, number)
    assert ours.dtype == theirs.dtype
    assert (
        np.abs(ours.astype(int) - theirs.astype(int)).max() <= 2
    )  # they round down, with 255 steps to our 254


def test_bytes_keep_cosines_to_four_thousandths(vectors: NDArray[np.float32]) -> None:
    exact = vectors @ vectors.T
    signed = quantize(vectors, "int8").astype(np.float32)
    assert np.abs(normalize(signed) @ normalize(signed).T - exact).max() < 4e-3
    assert np.abs(signed @ signed.T * (int8_reach(768) / 127) ** 2 - exact).max() < 2e-2


def test_a_dimension_beyond_the_reach_is_cut_and_not_wrapped() -> None:
    vector = np.zeros((1, 256), np.float32)
    vector[0, :2] = 1, -1
    assert quantize(vector, "int8")[0, :3].tolist() == [127, -127, 0]
    assert quantize(vector, "uint8")[0, :3].tolist() == [255, 1, 128]


def test_bits_of_a_length_that_is_no_multiple_of_eight_are_padded_with_zeros() -> None:
    assert quantize(np.ones((1, 10), np.float32), "ubinary").tolist() == [[255, 192]]
