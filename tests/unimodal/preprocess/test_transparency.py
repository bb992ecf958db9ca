"""Transparent pixels become the colour that the configuration names."""

from __future__ import annotations

import struct
import zlib
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unimodal.preprocess.samples import (
    MODES,
    encoded,
    noise,
    open_clip_transform,
)
from unimodal.model_config import (
    PreprocessConfig,
)
from unimodal.preprocess.images import (
    decode_image,
    image_to_pixels,
    load_image,
    to_png,
    to_rgb,
)

HIDDEN = np.array(
    [
        [[200, 30, 30], [0, 0, 0], [255, 255, 255]],
        [[10, 250, 90], [3, 5, 7], [99, 99, 99]],
    ],
    np.uint8,
)

ALPHA = np.array([[0, 255, 0], [128, 1, 254]], np.uint8)

GREY = HIDDEN[:, :, :1].repeat(3, axis=2)

KEYED = np.array([[0, 255, 255], [255, 0, 0]], np.uint8)  # 0 where the colour key is

PALETTE = HIDDEN.reshape(-1, 3)


def raw_png(
    rows: list[bytes],
    width: int,
    depth: int,
    kind: int,
    key: bytes,
    palette: bytes = b"",
) -> bytes:
    """A PNG by hand: Pillow writes neither 2 bits nor 16 bits a channel with a
    transparent colour.
    """
    header = struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        *([(b"PLTE", palette)] if palette else []),
        (b"tRNS", key),
    ]
    chunks += [
        (b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
        (b"IEND", b""),
    ]
    packed = (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def grey_of(values: list[list[int]]) -> Any:
    return np.array(values, np.uint8)[:, :, None].repeat(3, axis=2)


def transparent_images() -> dict[str, tuple[bytes, Any, Any]]:
    """Name -> a file, the colours that it holds (h, w, 3), and its alpha (h, w)."""
    rgba = Image.fromarray(np.dstack([HIDDEN, ALPHA]))
    palette = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).convert("P")
    palette.putpalette(PALETTE.tobytes())
    grey = Image.fromarray(np.dstack([GREY[:, :, 0], ALPHA]), "LA")
    key = PALETTE[0]
    shorts = [
        row.astype(">u2").tobytes()
        for row in HIDDEN.reshape(2, -1).astype(np.uint16) * 257
    ]
    grey_shorts = [
        row.astype(">u2").tobytes() for row in GREY[:, :, 0].astype(np.uint16) * 257
    ]
    alpha_of_keys = (
        np.where((key == PALETTE).all(axis=1), 0, 255).reshape(2, 3).astype(np.uint8)
    )
    alpha_of_greys = np.where(GREY[:, :, 0] == GREY[0, 0, 0], 0, 255).astype(np.uint8)
    return {
        "RGBA": (encoded(rgba), HIDDEN, ALPHA),
        "RGBA of TIFF": (encoded(rgba, "TIFF"), HIDDEN, ALPHA),
        "RGBA of WebP": (
            encoded(rgba, "WEBP", lossless=True, exact=True),
            HIDDEN,
            ALPHA,
        ),
        "LA": (encoded(grey), GREY, ALPHA),
        "palette with alphas": (
            encoded(palette, transparency=ALPHA.tobytes()),
            HIDDEN,
            ALPHA,
        ),
        "palette with one entry": (
            encoded(palette, transparency=0),
            HIDDEN,
            alpha_of_keys,
        ),
        "GIF": (encoded(palette, "GIF", transparency=0), HIDDEN, alpha_of_keys),
        "RGB key": (
            raw_png(
                [row.tobytes() for row in HIDDEN], 3, 8, 2, struct.pack(">HHH", *key)
            ),
            HIDDEN,
            alpha_of_keys,
        ),
        "RGB key of 16 bits": (
            raw_png(
                shorts,
                3,
                16,
                2,
                struct.pack(">HHH", *(int(value) * 257 for value in key)),
            ),
            HIDDEN,
            alpha_of_keys,
        ),
        "L key": (
            raw_png(
                [row.tobytes() for row in GREY[:, :, 0]],
                3,
                8,
                0,
                struct.pack(">H", GREY[0, 0, 0]),
            ),
            GREY,
            alpha_of_greys,
        ),
        "L key of 16 bits": (
            raw_png(grey_shorts, 3, 16, 0, struct.pack(">H", int(GREY[0, 0, 0]) * 257)),
            GREY,
            alpha_of_greys,
        ),
        "key of 1 bit": (
            raw_png([b"\x60"], 3, 1, 0, b"\0\1"),
            grey_of([[0, 255, 255]]),
            np.array([[255, 0, 0]]),
        ),
        "key of 2 bits": (
            raw_png([b"\x1b"], 4, 2, 0, b"\0\2"),
            grey_of([[0, 85, 170, 255]]),
            np.array([[255, 255, 0, 255]]),
        ),
        "key of 4 bits": (
            raw_png([b"\x0f"], 2, 4, 0, b"\0\x0f"),
            grey_of([[0, 255]]),
            np.array([[255, 0]]),
        ),
        "nothing but alpha 0": (
            encoded(Image.fromarray(np.dstack([HIDDEN, 0 * ALPHA]))),
            HIDDEN,
            0 * ALPHA,
        ),
    }


@pytest.mark.parametrize("name", transparent_images())
def test_what_is_transparent_is_laid_over_the_colour_that_the_spec_says(
    name: str,
) -> None:
    content, hidden, alpha = transparent_images()[name]
    share = alpha[:, :, None].astype(float) / 255
    for transparency, background in (("white", 255), ("black", 0)):
        expected = np.floor(hidden * share + background * (1 - share) + 0.5)
        assert np.array_equal(
            np.asarray(decode_image(content, transparency=transparency)), expected
        )
    assert np.array_equal(
        np.asarray(decode_image(content, transparency="drop")), hidden
    )
    assert np.array_equal(
        np.asarray(decode_image(content)),
        np.asarray(decode_image(content, transparency="white")),
    )


@pytest.mark.parametrize("name", transparent_images())
def test_a_png_made_of_a_transparent_image_has_its_pixels(name: str) -> None:
    loaded = load_image(transparent_images()[name][0])
    again = load_image(to_png(loaded))
    for transparency in ("white", "black", "drop"):
        before, after = (
            np.asarray(to_rgb(image, transparency)) for image in (loaded, again)
        )
        assert np.array_equal(before, after)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_a_pil_image_with_alpha_is_laid_over_white_in_any_mode(mode: str) -> None:
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    image = image.convert("LA").convert("La") if mode == "La" else image.convert(mode)
    assert decode_image(image).getcolors() == [(16, (127, 127, 127))]


def test_colours_under_transparent_pixels_do_not_bleed_into_the_resize() -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :32] = (255, 0, 0, 0)  # a red that nobody sees
    pixels[:, 32:] = (0, 0, 0, 255)
    found = image_to_pixels(
        load_image(encoded(Image.fromarray(pixels))), PreprocessConfig(image_size=16)
    )
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert (int(found[0, 8, 0]), int(found[0, 8, 15])) == (255, 0)


def as_stored() -> dict[str, Any]:
    """An image of 97 x 61 pixels in every mode that files have."""
    rgb = noise(97, 61)
    alpha = noise(61, 97).convert("L").rotate(90, expand=True)
    rgba = Image.merge("RGBA", (*rgb.split(), alpha))
    palette = rgb.quantize(64)
    palette.info["transparency"] = bytes(range(0, 256, 4))
    sixteen = np.random.default_rng(0).integers(0, 1 << 16, (61, 97)).astype(np.uint16)
    return {
        "RGB": rgb,
        "RGBA": rgba,
        "LA": rgba.convert("LA"),
        "L": rgb.convert("L"),
        "1": rgb.convert("1"),
        "P": palette,
        "CMYK": rgb.convert("CMYK"),
        "I;16": Image.fromarray(sixteen),
    }


@pytest.mark.parametrize("mode", as_stored())
@pytest.mark.parametrize("resize", MODES)
def test_pixels_of_every_mode_equal_open_clips_exactly(
    mode: str, resize: Literal["crop", "squash", "pad"]
) -> None:
    image = as_stored()[mode]
    config = PreprocessConfig(image_size=32, resize=resize, transparency="open_clip")
    transform = open_clip_transform(config)
    transform.transforms = transform.transforms[:-1]
    theirs = (transform(image.copy()) * 255).round().to(torch.uint8)
    name = "TIFF" if mode == "CMYK" else "PNG"
    for source in (image, encoded(image, name)):
        assert torch.equal(image_to_pixels(load_image(source), config), theirs)


def test_what_a_jpeg_of_four_channels_shows() -> None:
    ink = Image.merge(
        "CMYK", [Image.new("L", (16, 16), value) for value in (40, 90, 200, 60)]
    )
    content = encoded(ink, "JPEG", quality=100)
    red, green, blue = (
        round((255 - value) * (255 - 60) / 255) for value in (40, 90, 200)
    )
    assert_near(content, (red, green, blue))
    marker = content.index(b"Adobe") + 11  # the transform: 0 is CMYK, 2 is YCCK
    assert content[marker] == 0
    # The same numbers read as YCCK. Files hold them inverted, as Adobe writes.
    luma, blue_difference, red_difference = (
        float(255 - value) for value in (40, 90, 200)
    )
    seen = [
        luma + 1.402 * (red_difference - 128),
        luma - 0.344136 * (blue_difference - 128) - 0.714136 * (red_difference - 128),
        luma + 1.772 * (blue_difference - 128),
    ]
    inverted = [
        255 - min(max(value, 0), 255) for value in seen
    ]  # YCCK's colours are those of the inks
    expected = tuple(round(value * (255 - 60) / 255) for value in inverted)
    assert_near(content[:marker] + b"\2" + content[marker + 1 :], expected)


def assert_near(content: bytes, expected: tuple[float, ...]) -> None:
    assert np.abs(np.asarray(decode_image(content), dtype=float) - expected).max() <= 3
