"""A query's vector is the sum of its parts, moved away from what is not wanted."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from unimodal.embedder import Embedder
from unimodal.search.query.combine import combine_parts, move_away
from unimodal.vectors import Vectors, normalize


def vectors(count: int) -> list[Vectors]:
    return list(normalize(np.random.default_rng(0).standard_normal((count, 8))))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_words_and_an_image_have_the_vector_that_the_embedder_gives_both(
    embedder: Embedder, images: list[Image.Image], weight: float
) -> None:
    text, image = embedder.encode(["a red hat", images[0]])
    both = embedder.encode({"text": "a red hat", "image": images[0], "weight": weight})[
        0
    ]
    np.testing.assert_allclose(combine_parts(text, image, weight), both, atol=1e-6)


def test_a_part_alone_is_its_own_vector_whatever_the_weight() -> None:
    (part,) = vectors(1)
    assert combine_parts(part, None, 1.0) is part
    assert combine_parts(None, part, 0.0) is part


def test_negatives_are_subtracted_as_their_mean_and_the_rest_normalised() -> None:
    query, first, second = vectors(3)
    expected = query - 0.4 * (first + second) / 2
    np.testing.assert_allclose(
        move_away(query, [first, second], 0.4),
        expected / np.linalg.norm(expected),
        atol=1e-6,
    )
    assert move_away(query, [], 0.4) is query


def test_parts_that_cancel_each_other_out_are_refused() -> None:
    (part,) = vectors(1)
    with pytest.raises(
        ValueError,
        match="words and the image cancel each other out",
    ):
        combine_parts(part, -part, 0.5)
    with pytest.raises(ValueError, match="what is wanted and what is not cancel"):
        move_away(part, [part], 1.0)
