"""Texts and images that are the same in other clothes are known again, and others are not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from eval.analysis.likeness import (
    NUM_WORDS,
    Likeness,
    are_alike,
    bands,
    likeness,
    run_hashes,
    words_of,
)


def make_image(seed: int, width: int = 200, height: int = 150) -> Image.Image:
    """Soft blobs of colour, as a photograph has them."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, extension: str = "PNG", quality: int = 75) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, extension, quality=quality)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "other",
    [
        "a red hat on the table",
        "  A RED  hat,\ton the\nTable! ",
        "“A red hat” — on the table…",
        "ａ ｒｅｄ hat on the table",  # full width
        "a\u00a0red\u200bhat on the table",
    ],
)
def test_case_space_punctuation_and_width_do_not_make_another_text(other: str) -> None:
    assert words_of(other) == words_of("a red hat on the table")


def test_accents_vowel_signs_and_words_make_another_text() -> None:
    assert words_of("résumé") != words_of("resume")
    assert words_of("कि") != words_of("का")  # marks are part of a word
    assert words_of("a red hat") != words_of("a red hat on the table")


def test_scripts_without_spaces_have_a_word_for_each_character() -> None:
    assert words_of("红色的帽子 on 桌子") == [
        "红",
        "色",
        "的",
        "帽",
        "子",
        "on",
        "桌",
        "子",
    ]


def test_runs_lie_within_one_text_and_are_all_there() -> None:
    texts = [
        [f"{name}{n}" for n in range(length)]
        for name, length in (("a", 14), ("b", 3), ("c", 13), ("d", 12))
    ]
    hashes, numbers, starts = run_hashes(texts)
    assert list(zip(numbers.tolist(), starts.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (2, 0),
    ]
    assert len(set(hashes.tolist())) == 3
    assert run_hashes([texts[0][1:]])[0].tolist() == [hashes[1]]
    assert not len(run_hashes([texts[3]])[0])


def test_the_order_of_words_counts() -> None:
    words = [f"w{n}" for n in range(NUM_WORDS)]
    assert run_hashes([words])[0] != run_hashes([words[::-1]])[0]


@pytest.mark.parametrize(
    "changed",
    [
        encoded(make_image(1), "JPEG", 40),
        encoded(make_image(1).resize((90, 70)), "JPEG", 80),
        encoded(make_image(1).resize((400, 300)), "PNG"),
    ],
    ids=["encoded again", "half the size", "twice the size"],
)
def test_an_image_is_known_after_another_encoding_and_size(changed: bytes) -> None:
    assert are_alike(likeness(encoded(make_image(1))), likeness(changed), 6, 6.0)


def test_other_images_are_others() -> None:
    known = [likeness(encoded(make_image(seed))) for seed in range(40)]
    assert not [
        (i, j)
        for i in range(40)
        for j in range(i)
        if are_alike(known[i], known[j], 6, 6.0)
    ]


def test_one_shape_in_two_colours_is_two_images() -> None:
    """Their dHash is one: a red and a blue square on white."""
    squares = []
    for colour in ("#c01010", "#1010c0"):
        image = Image.new("RGB", (90, 90), "white")
        image.paste(Image.new("RGB", (50, 50), colour), (20, 20))
        squares.append(likeness(encoded(image)))
    assert squares[0].dhash == squares[1].dhash
    assert not are_alike(squares[0], squares[1], 6, 6.0)


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="not a readable image"):
        likeness(b"no image")


@pytest.mark.parametrize("distance", [0, 3, 6, 10])
def test_hashes_within_the_distance_share_a_band(distance: int) -> None:
    draw = np.random.default_rng(distance)
    for _ in range(200):
        known = int(draw.integers(0, 2**64, dtype=np.uint64))
        near = known
        for bit in draw.choice(64, size=distance, replace=False):
            near ^= 1 << int(bit)
        assert set(bands(known, distance)) & set(bands(near, distance))


def test_bands_hold_all_bits_of_a_hash() -> None:
    assert sum(bits.bit_count() for _, bits in bands(2**64 - 1, 6)) == 64


def test_too_many_bits_are_another_image() -> None:
    flat = np.zeros((16, 16, 3), np.uint8)
    assert are_alike(Likeness(0, flat), Likeness(0b111, flat), 3, 6.0)
    assert not are_alike(Likeness(0, flat), Likeness(0b1111, flat), 3, 6.0)
