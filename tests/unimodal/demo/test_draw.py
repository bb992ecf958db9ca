"""The demo's images: every product can be drawn, the same way each time, and looks unlike its
neighbours.
"""

import itertools
import random

import numpy as np
import numpy.typing as npt
import pytest

from unimodal.demo.draw import SHAPES, SURFACES, Look, draw_product
from unimodal.demo.patterns import print_pattern
from unimodal.demo.scenes import SCENERY
from unimodal.demo.words import COLOURS, KINDS, MATERIALS, PATTERNS, SCENES

MUG = Look("mug", "red", "striped", "ceramic", "studio", 7)


def pixels(look: Look, size: int = 48) -> npt.NDArray[np.float64]:
    return np.asarray(draw_product(look, size), dtype=np.float64)


def test_every_word_of_the_tables_can_be_drawn() -> None:
    assert set(SHAPES) == set(KINDS)
    assert set(SURFACES) == set(MATERIALS)
    assert set(SCENERY) == set(SCENES)
    for number, (kind, colour) in enumerate(itertools.product(KINDS, COLOURS)):
        material = KINDS[kind].materials[number % len(KINDS[kind].materials)]
        pattern = list(PATTERNS)[number % len(PATTERNS)]
        scene = list(SCENES)[number % len(SCENES)]
        image = draw_product(Look(kind, colour, pattern, material, scene, number), 24)
        assert (image.size, image.mode) == ((24, 24), "RGB")


def test_drawing_is_a_function_of_the_look() -> None:
    assert np.array_equal(pixels(MUG), pixels(MUG))
    assert not np.array_equal(pixels(MUG), pixels(MUG._replace(seed=8)))


def test_larger_drawing_shows_the_same_image() -> None:
    small = pixels(MUG, 64)
    large = pixels(MUG, 192)
    reduced = large.reshape(64, 3, 64, 3, 3).mean((1, 3))
    assert np.abs(small - reduced).mean() < 3  # of 255


@pytest.mark.parametrize(
    "looks",
    [
        [MUG._replace(kind=kind) for kind in KINDS],
        [MUG._replace(colour=colour) for colour in COLOURS],
        [MUG._replace(pattern=pattern) for pattern in PATTERNS],
    ],
    ids=["kinds", "colours", "patterns"],
)
def test_no_two_values_of_an_attribute_look_alike(looks: list[Look]) -> None:
    drawn = [pixels(look) for look in looks]
    for one, other in itertools.combinations(range(len(looks)), 2):
        assert np.abs(drawn[one] - drawn[other]).mean() > 2, (looks[one], looks[other])


def test_plain_sheet_has_one_colour_and_a_printed_one_has_more() -> None:
    for pattern in PATTERNS:
        colours = (
            print_pattern(
                pattern, "red", (200, 30, 40), 60, random.Random(0)
            ).getcolors(4000)
            or []
        )
        assert (len(colours) == 1) == (pattern == "plain")
