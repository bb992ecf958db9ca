"""Pixels and token ids are those of open_clip, whatever the image or the text; what is no image
is refused.
"""

from __future__ import annotations

import io
import random
import re
import struct
import subprocess
import sys
import unicodedata
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import open_clip
import pytest
import torch
from PIL import ExifTags, Image
from tokenizers import Tokenizer as TokenizerBackend

from unimodal.model import build_model
from unimodal.model_config import (
    ImageTowerConfig,
    ModelConfig,
    PreprocessConfig,
    TextTowerConfig,
)
from unimodal.preprocess.image_formats import FORMATS, IMAGE_ENDINGS
from unimodal.preprocess.images import (
    decode_image,
    image_to_pixels,
    load_image,
    to_png,
    to_rgb,
)
from unimodal.preprocess.tokenizers import (
    Tokenizer,
    _clean_as_open_clip,
    clip_tokenizer,
    load_tokenizer,
    pad_ids,
    train_tokenizer,
)

SIZES = [
    (1, 1),
    (31, 32),
    (32, 32),
    (33, 65),
    (64, 17),
    (97, 203),
    (300, 41),
    (5, 7),
    (101, 100),
]
MODES: dict[Literal["crop", "squash", "pad"], str] = {
    "crop": "shortest",
    "squash": "squash",
    "pad": "longest",
}


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 1000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, name: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def open_clip_transform(config: PreprocessConfig) -> Any:
    return open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(
            size=config.image_size,
            mean=config.mean,
            std=config.std,
            interpolation=config.interpolation,
            resize_mode=MODES[config.resize],
        ),
        is_train=False,
    )


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize("image_size", [32, 33])
def test_pixels_equal_open_clips_exactly(
    resize: Literal["crop", "squash", "pad"],
    interpolation: Literal["bicubic", "bilinear"],
    image_size: int,
) -> None:
    config = PreprocessConfig(
        image_size=image_size, resize=resize, interpolation=interpolation
    )
    before_normalisation = open_clip_transform(config)
    before_normalisation.transforms = before_normalisation.transforms[:-1]
    for width, height in SIZES:
        image = noise(width, height)
        theirs = (before_normalisation(image) * 255).round().to(torch.uint8)
        assert torch.equal(image_to_pixels(image, config), theirs), (
            f"{width} x {height}"
        )


def test_normalised_pixels_equal_open_clips() -> None:
    config = PreprocessConfig(image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    image = ImageTowerConfig(
        name="resnet18", kwargs={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    )
    model = build_model(ModelConfig(embed_dim=4, image=image, preprocess=config))
    ours = model._normalise(image_to_pixels(noise(50, 70), config), torch.float32)
    torch.testing.assert_close(
        ours, open_clip_transform(config)(noise(50, 70)), rtol=0, atol=1e-6
    )


def test_pixels_are_uint8_of_the_size_asked_for() -> None:
    pixels = image_to_pixels(noise(40, 30), PreprocessConfig(image_size=24))
    assert (pixels.shape, pixels.dtype, pixels.is_contiguous()) == (
        (3, 24, 24),
        torch.uint8,
        True,
    )


def test_an_image_too_narrow_to_crop_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(
        ValueError,
        match="1 x 20000 pixels is too narrow to crop; crop it first, or use a model",
    ):
        image_to_pixels(Image.new("RGB", (1, 20000)), PreprocessConfig())


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", b"")
        + chunk(b"IEND", b"")
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


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            Image.new("RGB", (0, 0)),
            "the PIL image is 0 x 0 pixels; give an image of at least one pixel",
        ),
        (Image.new("L", (5, 0)), "5 x 0 pixels"),
        (
            Image.new("F", (2, 2)),
            "pixels of floating-point numbers, whose range it does not say; convert it to 8",
        ),
        (Image.new("I", (2, 2)), "pixels of 32-bit integers, whose range"),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "pixels of floating-point numbers"),
        (encoded(Image.new("I", (2, 2)), "TIFF"), "pixels of 32-bit integers"),
        (png_that_claims(0, 5), "is not a readable image"),
        (
            Image.new("1", (8000, 6000)),
            "the PIL image is 8000 x 6000 pixels, over the cap of 40000000 pixels",
        ),
    ],
)
def test_an_image_without_pixels_or_without_their_range_is_refused(
    image: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_image(image)


def test_an_image_that_was_turned_once_is_not_turned_again() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    once = decode_image(encoded(noise(5, 3), exif=exif))
    assert (once.size, decode_image(once).size) == ((3, 5), (3, 5))


def test_the_bytes_say_what_a_file_is_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise(9, 7), "JPEG"))
    plain = decode_image(encoded(noise(9, 7), "JPEG"))
    assert np.array_equal(
        np.asarray(decode_image(tmp_path / "a.png")), np.asarray(plain)
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        *FORMATS,
        *(f"{name}, animated" for name in FORMATS if name not in ("JPEG", "BMP")),
    ],
)
def test_a_file_cut_anywhere_is_refused_or_was_whole_before_the_cut(name: str) -> None:
    name, _, animated = name.partition(", ")
    options: dict[str, Any] = {"progressive": True} if name == "JPEG" else {}
    if animated:
        options = {"save_all": True, "append_images": [noise(15, 12).rotate(180)]}
    content = encoded(noise(15, 12), name, **options)
    whole = np.asarray(decode_image(content))
    for cut in range(0, len(content), 5):
        try:
            found = np.asarray(decode_image(content[:cut]))
        except ValueError:
            continue
        assert np.array_equal(found, whole), cut


def test_a_header_that_claims_more_rows_than_there_are_is_refused() -> None:
    content = bytearray(encoded(noise(9, 7), "BMP"))
    content[22:26] = (14).to_bytes(4, "little")
    with pytest.raises(ValueError, match="is not a readable image"):
        decode_image(bytes(content))


def test_the_page_on_images_runs_and_lists_the_endings() -> None:
    page = (Path(__file__).parents[3] / "docs/guides/images.md").read_text(
        encoding="utf-8"
    )
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(code, {})
    listed = page.partition("files that end in")[2].partition("are images")[0]
    assert tuple(re.findall(r"`(\.\w+)`", listed)) == IMAGE_ENDINGS
    values = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert values == list(
        get_args(PreprocessConfig.model_fields["transparency"].annotation)
    )


def test_no_library_that_is_imported_lets_pillow_pad_what_is_cut() -> None:
    from PIL import ImageFile

    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_profile_of_colours_is_not_looked_at() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    content = encoded(noise(9, 7), icc_profile=profile)
    assert np.array_equal(np.asarray(decode_image(content)), np.asarray(noise(9, 7)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["bytes", "path", "PIL"])
def test_an_image_is_turned_as_its_exif_says(
    tmp_path: Path, orientation: int, kind: str
) -> None:
    upright = np.asarray(noise(5, 3))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "a.png"
    file.write_bytes(encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif))
    source: Any = {"bytes": file.read_bytes(), "path": file, "PIL": Image.open(file)}[
        kind
    ]
    assert np.array_equal(np.asarray(decode_image(source)), upright)


def test_the_first_frame_of_a_gif_is_taken() -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")]
    decoded = decode_image(
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    )
    assert decoded.getcolors() == [(48, (255, 0, 0))]


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "L", "1", "CMYK", "PA"])
def test_an_image_of_any_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode)
    name = {"CMYK": "JPEG", "PA": "TIFF"}.get(mode, "PNG")
    decoded = decode_image(encoded(image, name) if mode != "PA" else image)
    assert decoded.mode == "RGB"
    assert np.asarray(decoded).min() >= 254


@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_keep_their_high_byte(name: str) -> None:
    grey = np.arange(256, dtype=np.uint16)[None] * 257
    decoded = np.asarray(decode_image(encoded(Image.fromarray(grey), name)))
    assert np.array_equal(
        decoded, np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    )


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_that_is_promised_decodes(name: str) -> None:
    assert decode_image(encoded(noise(9, 7), name)).size == (9, 7)


def test_a_header_over_the_cap_is_refused_without_decoding() -> None:
    with pytest.raises(
        ValueError,
        match="8000 x 6000 pixels, over the cap of 40000000 pixels; scale it down",
    ):
        decode_image(png_that_claims(8000, 6000))
    with pytest.raises(ValueError, match="over the cap of 100"):
        decode_image(encoded(noise(11, 10)), max_pixels=100)
    assert decode_image(encoded(noise(10, 10)), max_pixels=100).size == (10, 10)


def test_a_bomb_of_a_header_is_over_the_cap_too() -> None:
    with pytest.raises(
        ValueError, match="over the cap of 40000000 pixels; scale it down"
    ):
        decode_image(png_that_claims(60000, 60000))


def test_a_header_over_the_cap_is_told_by_the_error_alone(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(
        png_that_claims(12000, 10000)
    )  # where Pillow would warn
    code = (
        "import sys\nfrom pathlib import Path\nfrom unimodal.preprocess.images import "
        "decode_image\ntry:\n  decode_image(Path(sys.argv[1]))\nexcept ValueError as error:\n  "
        "print(error)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "large.png")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "over the cap of 40000000 pixels" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            b"<!DOCTYPE html><html>not found</html>",
            "37 bytes is not a readable image .unknown format.; give JPEG",
        ),
        (b"", "0 bytes is not a readable image"),
        (encoded(noise(64, 64), "JPEG")[:-900], "is not a readable image"),
        (encoded(noise(64, 64), "PNG")[:-900], "is not a readable image"),
        (encoded(noise(64, 64), "WEBP")[:-900], "is not a readable image"),
        (encoded(noise(4, 4), "PPM"), "unknown format"),
        (Path("nowhere.jpg"), "image nowhere.jpg does not exist"),
        (Path(__file__), "test_preprocess.py is not a readable image"),
        (
            Path(__file__).parent,
            "preprocess is not a file; give the path of an image file",
        ),
    ],
)
def test_what_is_no_image_is_refused(source: bytes | Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        decode_image(source)
    assert "\n" not in str(caught.value)


def test_a_cut_image_that_was_opened_lazily_is_refused_too(tmp_path: Path) -> None:
    file = tmp_path / "cut.jpg"
    file.write_bytes(encoded(noise(64, 64), "JPEG")[:-900])
    with (
        Image.open(file) as image,
        pytest.raises(ValueError, match="the PIL image is not a readable image"),
    ):
        decode_image(image)


@pytest.mark.parametrize("name", FORMATS)
def test_broken_bytes_decode_or_are_refused_and_nothing_else(name: str) -> None:
    rng = random.Random(0)
    whole = encoded(noise(24, 31), name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(200):
            broken = bytearray(whole)
            for _ in range(rng.randint(1, 6)):
                broken[rng.randrange(len(broken) if turn % 2 else 64)] = rng.randrange(
                    256
                )
            try:
                decode_image(
                    bytes(
                        broken[: rng.randrange(len(broken))]
                        if turn % 5 == 0
                        else broken
                    )
                )
            except ValueError as error:
                assert str(error)  # noqa: PT017  # both ways are right; another exception fails the test


NASTY = [
    "a photo of a cat",
    "",
    " ",
    "\t\n",
    "  A  photo\nof   A CAT  ",
    "don't we'll I'VE it'S they're he'd I'm",
    "fish &amp; chips &lt;b&gt; &amp;amp; &eacute;&#233;",
    "naïve café Ünïcödé ẞ İstanbul ﬁne ﬅ ſ it'ſ",
    "東京タワー 北京 서울",
    "🎉🎉 👩‍👩‍👧 🇩🇪 ❤️",
    "x" * 500,
    "word " * 300,
    "1234567890 3.14 1,000",
    "???!!! ... --- ___ #hash @at",
    "<start_of_text> a <end_of_text> b",
    "\u200b zero \u200d width \ufeff",
    "\x00 \x1c \x85 controls \u2028 \u3000",
    "âœ” schÃ¶n cafÃ©",
    "“quoted” ‘single’",
    "\u0345 a\u0345 b'\u0345",
    "עברית العربية हिन्दी ไทย",
    "𝕬𝖇𝖈 ① Ⅷ ½ ²",
]


def test_clip_ids_equal_open_clips_on_nasty_texts() -> None:
    theirs = open_clip.tokenizer.SimpleTokenizer()
    ours = Tokenizer(
        clip_tokenizer(),
        TextTowerConfig(library="open_clip", name="ViT-B-32", clean="clip"),
    )
    ids, _ = pad_ids(ours(NASTY), 0, 77)
    for text, left, right in zip(
        NASTY, ids.tolist(), theirs(NASTY).tolist(), strict=True
    ):
        assert left == right, repr(text)


def test_clip_ids_equal_open_clips_on_random_letters_of_all_scripts() -> None:
    rng = random.Random(0)
    codes = [*range(1, 0x3100), *range(0xFB00, 0xFFFE), *range(0x1F300, 0x1F700)]
    letters = [
        chr(code) for code in codes if unicodedata.category(chr(code)) != "Cn"
    ]  # assigned since long
    texts = [
        "".join(rng.choices([*letters, *" '!sStT0<>&;"], k=30)) for _ in range(300)
    ]
    theirs = open_clip.tokenizer.SimpleTokenizer()
    ours = Tokenizer(
        clip_tokenizer(),
        TextTowerConfig(library="open_clip", name="ViT-B-32", clean="clip"),
    )
    assert pad_ids(ours(texts), 0, 77)[0].tolist() == theirs(texts).tolist()


@pytest.mark.parametrize("kind", ["lower", "whitespace", "canonicalize"])
def test_plain_texts_are_cleaned_as_open_clip_cleans_them(kind: str) -> None:
    rng = random.Random(0)
    letters = [chr(code) for code in range(32, 127)]
    texts = [
        "".join(rng.choices([*letters, *" .'<>;#"], k=rng.randrange(40)))
        for _ in range(3000)
    ]
    theirs = open_clip.tokenizer.get_clean_fn(kind)
    for text in texts:
        assert _clean_as_open_clip(text, kind) == theirs(text), repr(text)


def test_the_tokenizer_of_an_open_clip_tower_has_its_length(
    open_clip_name: str,
) -> None:
    ours, config = load_tokenizer(
        TextTowerConfig(library="open_clip", name=open_clip_name)
    )
    assert (config.max_length, config.clean) == (16, "clip")
    assert (
        pad_ids(ours(NASTY), 0, 16)[0].tolist()
        == open_clip.get_tokenizer(open_clip_name)(NASTY).tolist()
    )


def test_a_text_is_cut_to_the_length_asked_for(
    text_config: TextTowerConfig, tokenizer: Tokenizer
) -> None:
    assert [len(ids) for ids in tokenizer(["a", "a " * 500])] == [3, 32]
    short = tokenizer.with_max_length(text_config, 5)
    assert [len(ids) for ids in short(["a", "a " * 500])] == [3, 5]
    assert len(tokenizer(["a " * 500])[0]) == 32
    assert short(["a " * 500])[0][-1] == tokenizer(["a"])[0][-1]  # the end stays


def test_a_saved_tokenizer_gives_the_same_ids(
    tmp_path: Path, text_config: TextTowerConfig, tokenizer: Tokenizer, texts: list[str]
) -> None:
    tokenizer.save(tmp_path)
    again, config = load_tokenizer(text_config, tmp_path)
    assert again(texts) == tokenizer(texts)
    assert config == text_config


def test_padding_in_a_tokenizers_file_is_taken_off(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    backend = TokenizerBackend.from_file(str(tokenizer_file))
    backend.enable_padding(length=50)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer, config = load_tokenizer(
        TextTowerConfig(name="bert", tokenizer=str(tmp_path / "tokenizer.json"))
    )
    assert len(tokenizer(["a"])[0]) == 3
    assert config.pad_id == 0


def test_a_tokenizer_that_is_nowhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        ValueError,
        match=r"no tokenizer found for 'no-one/nothing'.*set text.tokenizer to",
    ):
        load_tokenizer(TextTowerConfig(name="bert", tokenizer="no-one/nothing"))
    with pytest.raises(
        ValueError, match=r"has no tokenizer.json; save the model again"
    ):
        load_tokenizer(TextTowerConfig(name="bert"), tmp_path)


def test_a_trained_tokenizer_depends_on_its_texts_alone(
    tmp_path: Path, texts: list[str]
) -> None:
    files = [tmp_path / str(number) / "tokenizer.json" for number in range(4)]
    for file in files:
        train_tokenizer(iter([*texts, "Ünïcode &amp; 東京"] * 3), file, vocab_size=90)
    assert len({file.read_bytes() for file in files}) == 1
    assert TokenizerBackend.from_file(str(files[0])).get_vocab_size() == 90


def test_a_trained_tokenizer_marks_both_ends_and_what_it_does_not_know(
    tokenizer_file: Path,
) -> None:
    backend = TokenizerBackend.from_file(str(tokenizer_file))
    assert backend.encode("a 東 A").tokens == ["[CLS]", "a", "[UNK]", "a", "[SEP]"]
    assert [
        backend.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    ] == [0, 1, 2, 3]
    assert backend.encode("##a").tokens == [
        "[CLS]",
        "[UNK]",
        "[UNK]",
        "a",
        "[SEP]",
    ]  # only the four are special


def test_lower_case_is_asked_for_by_clean(tokenizer_file: Path) -> None:
    backend = TokenizerBackend.from_file(str(tokenizer_file))
    backend.normalizer = None
    backend.save(str(tokenizer_file.with_name("cased.json")))
    config = TextTowerConfig(
        name="bert", tokenizer=str(tokenizer_file.with_name("cased.json"))
    )
    cased, lower = (
        load_tokenizer(config.model_copy(update={"clean": clean}))[0]
        for clean in ("none", "lower")
    )
    assert cased(["RED ball"]) != cased(["red ball"])
    assert lower(["RED ball"]) == cased(["red ball"])


def test_padding_is_on_the_right_and_masked() -> None:
    ids, mask = pad_ids([[5, 6], [7], [8, 9, 10]], pad_id=1)
    assert ids.tolist() == [[5, 6, 1], [7, 1, 1], [8, 9, 10]]
    assert mask.tolist() == [
        [True, True, False],
        [True, False, False],
        [True, True, True],
    ]
    ids, mask = pad_ids([[5, 6], [7]], pad_id=0, length=4)
    assert ids.tolist() == [[5, 6, 0, 0], [7, 0, 0, 0]]
    assert mask.sum() == 3
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)


def test_broken_exif_turns_nothing_and_breaks_nothing() -> None:
    rng = random.Random(0)
    file = io.BytesIO()
    exif = Image.Exif()
    (
        exif[ExifTags.Base.Orientation],
        exif[ExifTags.Base.Make],
        exif[ExifTags.Base.XResolution],
    ) = 6, "maker", 72.5
    Image.new("RGB", (8, 6), (200, 10, 10)).save(file, "JPEG", exif=exif)
    start = file.getvalue().index(b"Exif")
    assert decode_image(file.getvalue()).size == (6, 8)
    sizes = set()
    for _ in range(2000):
        content = bytearray(file.getvalue())
        for _ in range(rng.randrange(1, 4)):
            content[start + 6 + rng.randrange(60)] = rng.randrange(256)
        sizes.add(
            decode_image(bytes(content)).size
        )  # whatever the EXIF says, the image is there
    assert sizes == {(6, 8), (8, 6)}
