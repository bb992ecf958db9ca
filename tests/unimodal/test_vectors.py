"""Each formula on vectors equals the one written out, or the library whose codes it gives."""

from __future__ import annotations

import numpy as np
import pytest

from unimodal.vectors import (
    Vectors,
    fuse,
    int8_ranges,
    int8_reach,
    normalize,
    pack_signs,
    quantize_int8,
    quantize_int8_in_ranges,
    restore_int8_in_ranges,
    truncate,
    weighted_sum,
)


def drawn(count: int, dim: int, seed: int = 0) -> Vectors:
    return normalize(np.random.default_rng(seed).standard_normal((count, dim)))


def test_directions_stay_lengths_become_one_and_nothing_stays_nothing() -> None:
    vectors = normalize(np.array([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]]))
    expected = np.array([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]])
    assert np.abs(vectors - expected).max() < 1e-7
    assert vectors.dtype == np.float32


def test_truncated_vectors_are_the_first_dimensions_normalized() -> None:
    vectors = drawn(5, 8)
    np.testing.assert_array_equal(truncate(vectors, 3), normalize(vectors[:, :3]))
    np.testing.assert_array_equal(truncate(vectors, None), normalize(vectors))


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, np.float32(0.3), 1.0])
def test_an_item_with_both_parts_is_their_weighted_sum(weight: float) -> None:
    texts = drawn(5, 8)
    images = drawn(5, 8, seed=1)
    expected = (1 - weight) * texts + weight * images
    np.testing.assert_array_equal(weighted_sum(texts, images, weight), expected)
    np.testing.assert_array_equal(fuse(texts, images, weight), normalize(expected))


def test_a_part_alone_is_the_items_vector_whatever_the_weight() -> None:
    texts = drawn(2, 8)
    images = drawn(2, 8, seed=1)
    texts[0] = 0
    images[1] = 0
    sums = weighted_sum(texts, images, 0.9)
    np.testing.assert_array_equal(sums, np.stack([images[0], texts[1]]))
    np.testing.assert_array_equal(weighted_sum(texts[1], images[1], 0.9), texts[1])


def test_each_item_may_have_a_weight_of_its_own() -> None:
    texts = drawn(3, 8)
    images = drawn(3, 8, seed=1)
    weights = np.array([[0.1], [0.5], [0.7]])
    together = weighted_sum(texts, images, weights)
    for row, weight in enumerate([0.1, 0.5, 0.7]):
        alone = weighted_sum(texts[row], images[row], weight)
        np.testing.assert_array_equal(together[row], alone)


def test_signs_fill_bytes_from_the_highest_bit_and_padding_is_zero() -> None:
    signs = pack_signs(np.array([[1, -1, 0, 1, 1, 1, 1, 1, 1]], dtype=np.float32))
    assert signs.tolist() == [[0b10011111, 0b10000000]]


def test_one_scale_for_all_rounds_to_the_nearest_of_254_steps_and_clips() -> None:
    vectors = np.zeros((1, 256), np.float32)
    vectors[0, :3] = 1, -1, 0.1
    assert int8_reach(256) == 0.5
    assert quantize_int8(vectors)[0, :4].tolist() == [127, -127, 25, 0]
    assert int8_reach(16) == 1.0


def test_codes_in_ranges_are_those_of_sentence_transformers() -> None:
    quantization = pytest.importorskip("sentence_transformers.util.quantization")
    documents = drawn(90, 20)
    outside = documents * 1.3  # some values beyond the ranges
    outside[:, 3] = documents[:, 3] = 0.1  # and a dimension without a range
    ranges = int8_ranges(documents)
    expected = quantization.quantize_embeddings(outside, "int8", ranges=ranges)
    np.testing.assert_array_equal(quantize_int8_in_ranges(outside, ranges), expected)
    assert expected.min() == -128
    assert expected.max() == 127

    expected = quantization.quantize_embeddings(
        documents, "int8", calibration_embeddings=documents
    )
    np.testing.assert_array_equal(quantize_int8_in_ranges(documents, ranges), expected)
    expected = quantization.quantize_embeddings(documents, "ubinary")
    np.testing.assert_array_equal(pack_signs(documents), expected)


def test_a_value_restored_from_ranges_is_within_half_a_step() -> None:
    documents = drawn(90, 20)
    ranges = int8_ranges(documents)
    codes = quantize_int8_in_ranges(documents, ranges)
    error = np.abs(restore_int8_in_ranges(codes, ranges) - documents)
    inside = documents < ranges[1]  # the highest value is at the edge of the last step
    assert (error <= 0.5001 * (ranges[1] - ranges[0]) / 255)[inside].all()
