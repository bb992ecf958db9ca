"""The random crop equals torchvision's in what it may do, and leaves no picture squashed."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from training.config import AugmentConfig
from training.data.collate import augment
from training.data.order import generator
from unimodal.config import PreprocessConfig


def _plane(width: int, height: int) -> Image.Image:
    """A picture whose red is the column and whose green is the row, in 0..255 of its own size."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8))


def _seen(image: Image.Image, config: AugmentConfig, seed: int) -> tuple[float, float]:
    """The shares of the width and of the height that a crop kept."""
    pixels = np.asarray(augment(image, PreprocessConfig(image_size=32), config, generator(seed)), dtype=float)
    return float(np.ptp(pixels[:, :, 0])) / 255, float(np.ptp(pixels[:, :, 1])) / 255


@pytest.mark.parametrize("size", [(64, 64), (90, 64), (64, 90)])
def test_a_crop_keeps_the_share_and_the_ratio_that_were_asked_for(size: tuple[int, int]) -> None:
    config = AugmentConfig(crop_scale=(0.4, 0.6), crop_ratio=(0.9, 1.1))
    for seed in range(20):
        wide, high = _seen(_plane(*size), config, seed)
        assert 0.3 < wide * high < 0.7
        assert 0.8 < (wide * size[0]) / (high * size[1]) < 1.25


def test_a_picture_too_long_for_the_share_gives_its_largest_centred_crop_not_a_squashed_one() -> None:
    wide, high = _seen(_plane(300, 100), AugmentConfig(crop_scale=(0.9, 1.0), crop_ratio=(3 / 4, 4 / 3)), 0)
    assert high == pytest.approx(1, abs=0.05)
    assert wide * 300 == pytest.approx(4 / 3 * 100, rel=0.08)


def test_the_same_key_gives_the_same_crop_and_flips_come_half_the_time() -> None:
    config = AugmentConfig(flip=True)
    image = _plane(50, 50)
    flipped = []
    for seed in range(60):
        first, second = (
            np.asarray(augment(image, PreprocessConfig(image_size=16), config, generator(seed)), dtype=float)
            for _ in "ab"
        )
        np.testing.assert_array_equal(first, second)
        flipped.append(first[0, 0, 0] > first[0, -1, 0])
    assert 15 < sum(flipped) < 45


@pytest.mark.parametrize("ratio", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_a_range_that_is_none_is_refused(ratio: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"crop_ratio .* is no range of positive numbers"):
        AugmentConfig(crop_ratio=ratio)
