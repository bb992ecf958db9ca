"""Images: what is decoded, how it is turned, and what is refused."""

from __future__ import annotations

import io
import random
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from tests.unimodal.preprocess.samples import (
    MODES,
    SIZES,
    encoded,
    noise,
    open_clip_transform,
    png_that_claims,
)
from unimodal.model import build_model
from unimodal.model_config import (
    ImageTowerConfig,
    ModelConfig,
    PreprocessConfig,
)
from unimodal.preprocess.image_formats import FORMATS, IMAGE_ENDINGS
from unimodal.preprocess.images import (
    decode_image,
    image_to_pixels,
    load_image,
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
            "the PIL image is 8000 x 6000 pixels, over the limit of 40000000 pixels",
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
        match="8000 x 6000 pixels, over the limit of 40000000 pixels; scale it down",
    ):
        decode_image(png_that_claims(8000, 6000))
    with pytest.raises(ValueError, match="over the limit of 100"):
        decode_image(encoded(noise(11, 10)), max_pixels=100)
    assert decode_image(encoded(noise(10, 10)), max_pixels=100).size == (10, 10)


def test_a_bomb_of_a_header_is_over_the_cap_too() -> None:
    with pytest.raises(
        ValueError, match="over the limit of 40000000 pixels; scale it down"
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
    assert "over the limit of 40000000 pixels" in done.stdout
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
        (Path(__file__), "test_images.py is not a readable image"),
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
                assert str(error)  # noqa: PT017  # other exceptions fail the test


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


def test_no_filter_of_warnings_is_set_for_the_process() -> None:
    ignored = [category for _, _, category, _, _ in warnings.filters]
    assert Image.DecompressionBombWarning not in ignored
