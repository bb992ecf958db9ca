"""The training decoder: the random crop does what it may, pixels are close to Pillow's, and faults
stay faults.
"""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from training.config import AugmentConfig
from training.data import pixels
from training.data.order import generator
from training.data.pixels import draw_box, train_pixels
from unimodal.model_config import PreprocessConfig
from unimodal.preprocess.images import decode_image, image_to_pixels, load_image
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.images import open_checked

WHOLE = AugmentConfig(crop_scale=(1.0, 1.0), crop_ratio=(0.01, 100.0))
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise at all scales: what a photograph's spectrum is like."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for octave in range(1, 8):
        small = random.normal(size=(2**octave, 2**octave, 3)).astype(np.float32)
        layers = [
            Image.fromarray(small[:, :, c]).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            for c in range(3)
        ]
        total += np.stack([np.asarray(layer) for layer in layers], axis=-1) / octave
    return Image.fromarray(np.clip(128 + 40 * total, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 90, **options})
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def gap(
    content: bytes, preprocess: PreprocessConfig, seed: int, *, same_order: bool
) -> tuple[float, float, int]:
    """PSNR in dB, mean and largest difference in levels between the training pixels and Pillow's of
    the same crop.
    """
    config = AugmentConfig()
    size = preprocess.image_size
    ours = (
        train_pixels(content, preprocess, config, generator(seed))
        .permute(1, 2, 0)
        .numpy()
    )
    image = decode_image(content)
    crop = image.crop(draw_box(*image.size, config, generator(seed)))
    method = (
        Image.Resampling.BICUBIC
        if preprocess.interpolation == "bicubic"
        else Image.Resampling.BILINEAR
    )
    if same_order:
        crop = crop.resize((size, crop.height), method)
    difference = np.abs(
        ours.astype(float) - np.asarray(crop.resize((size, size), method), dtype=float)
    )
    error = float(np.mean(difference**2))
    return (
        10 * np.log10(255**2 / max(error, 1e-9)),
        float(difference.mean()),
        int(difference.max()),
    )


KINDS = {
    "256 px": jpeg(photo(341, 256)),
    "512 px": jpeg(photo(512, 683)),
    "smaller than asked": jpeg(photo(97, 131)),
    "odd": jpeg(photo(333, 227), quality=75),
    "long": jpeg(photo(500, 100)),
    "tall": jpeg(photo(100, 500)),
    "EXIF-turned": jpeg(photo(300, 256), exif=turned(6)),
    "grayscale": jpeg(photo(300, 280).convert("L")),
    "CMYK": jpeg(photo(280, 300).convert("CMYK")),
    "progressive": jpeg(photo(400, 300), progressive=True),
    "4:4:4": jpeg(photo(300, 300), subsampling=0),
    "restart markers": jpeg(photo(300, 300), restart_marker_rows=1),
    "PNG with alpha": png(photo(300, 260).convert("RGBA")),
}


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_within_two_levels_of_pillow_where_passes_come_in_one_order(
    kind: str, interpolation: str
) -> None:
    preprocess = PreprocessConfig.model_validate(
        {"image_size": 224, "interpolation": interpolation}
    )
    for seed in range(4):
        psnr, mean, largest = gap(KINDS[kind], preprocess, seed, same_order=True)
        assert psnr > (70 if interpolation == "bicubic" else 62)
        assert mean < (0.007 if interpolation == "bicubic" else 0.04)
        assert largest <= 2
        psnr, mean, _ = gap(KINDS[kind], preprocess, seed, same_order=False)
        assert psnr > 54
        assert mean < 0.2


def test_pixels_and_pillow_are_equally_far_from_the_exact_resize() -> None:
    image = decode_image(KINDS["tall"])
    exact = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double()
    exact = torch.nn.functional.interpolate(
        exact, (224, 224), mode="bicubic", antialias=True
    )[0].clamp(0, 255)
    ours = train_pixels(
        KINDS["tall"], PreprocessConfig(image_size=224), WHOLE, generator(0)
    )
    pillow = torch.from_numpy(
        np.array(image.resize((224, 224), Image.Resampling.BICUBIC))
    ).permute(2, 0, 1)
    assert ours.shape == exact.shape
    assert float((ours - exact).abs().mean()) < 1.1 * float(
        (pillow - exact).abs().mean()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_is_decoded_to_the_very_pixels_of_pillow(kind: str) -> None:
    fast = pixels._decode_jpeg(KINDS[kind])
    assert (fast is None) == (kind in ("CMYK", "PNG with alpha"))
    if fast is not None:
        np.testing.assert_array_equal(
            fast.permute(1, 2, 0).numpy(), np.asarray(decode_image(KINDS[kind]))
        )


def test_without_torchvision_s_decoder_the_pixels_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torchvision.io

    arguments = KINDS["EXIF-turned"], PreprocessConfig(image_size=64), AugmentConfig()
    expected = train_pixels(*arguments, generator(0))
    with monkeypatch.context() as patched:
        patched.delattr(torchvision.io, "ImageReadMode")
        pixels._torchvision.cache_clear()
        assert torch.equal(train_pixels(*arguments, generator(0)), expected)
    pixels._torchvision.cache_clear()
    assert pixels._torchvision() is not None


@pytest.mark.parametrize("orientation", range(10))
def test_both_decoders_turn_an_image_alike(orientation: int) -> None:
    image = photo(60, 40)
    for options in (
        {"exif": turned(orientation)},
        {"xmp": XMP % orientation},
        {"exif": turned(3), "xmp": XMP % orientation},
    ):
        content = jpeg(image, **options)
        fast = pixels._decode_jpeg(content)
        assert fast is not None
        np.testing.assert_array_equal(
            fast.permute(1, 2, 0).numpy(), np.asarray(decode_image(content))
        )


@pytest.mark.parametrize("kind", [2, 7], ids=["text", "bytes"])
def test_an_orientation_that_is_no_number_turns_nothing(kind: int) -> None:
    exif = turned(6)
    for order in (
        b"\x12\x01\x03\x00",
        b"\x01\x12\x00\x03",
    ):  # the tag and its kind, a short number
        exif = exif.replace(order, order.replace(b"\x03", bytes([kind])))
    assert exif != turned(6)
    fast = pixels._decode_jpeg(jpeg(photo(60, 40), exif=exif))
    assert fast is not None
    np.testing.assert_array_equal(
        fast.permute(1, 2, 0).numpy(), np.asarray(decode_image(jpeg(photo(60, 40))))
    )


def test_what_comes_out_is_planes_of_bytes_that_own_their_memory() -> None:
    found = train_pixels(
        KINDS["256 px"],
        PreprocessConfig(image_size=48),
        AugmentConfig(flip=True),
        generator(0),
    )
    assert found.shape == (3, 48, 48)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert found.untyped_storage().nbytes() == 3 * 48 * 48


def clear(size: int) -> Image.Image:
    """A photo with noise for its alpha."""
    image = photo(size, size)
    image.putalpha(photo(size, size, seed=1).convert("L"))
    return image


@pytest.mark.parametrize("transparency", ["white", "black", "drop", "open_clip"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "CMYK", "I;16", "JPEG"])
def test_training_serving_and_the_index_see_the_same_pixels(
    mode: str, transparency: str
) -> None:
    image = clear(48)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "P":
        image = image.convert("RGB").quantize(32)
        image.info["transparency"] = bytes(range(0, 256, 8))
    elif mode != "JPEG":
        image = image.convert(mode)
    file = io.BytesIO()
    if mode == "JPEG":
        file.write(jpeg(image.convert("RGB")))
    else:
        image.save(file, "TIFF" if mode == "CMYK" else "PNG")
    spec = PreprocessConfig.model_validate(
        {"image_size": 48, "transparency": transparency}
    )
    trained = train_pixels(
        file.getvalue(), spec, WHOLE, generator(0)
    )  # of the whole image at its own size
    assert torch.equal(trained, image_to_pixels(load_image(file.getvalue()), spec))
    assert torch.equal(
        trained,
        image_to_pixels(open_checked(Image.open(file), ServeConfig(model="m")), spec),
    )


def test_training_makes_an_open_clip_image_rgb_after_the_resize_as_evaluation_does() -> (
    None
):
    nothing = Image.new(
        "RGBA", (64, 64), (255, 0, 0, 0)
    )  # premultiplied, then resized: black, not the hidden red
    spec = PreprocessConfig(image_size=16, transparency="open_clip")
    assert train_pixels(png(nothing), spec, WHOLE, generator(0)).max() == 0
    assert torch.equal(
        train_pixels(png(nothing), spec, WHOLE, generator(0)),
        image_to_pixels(nothing, spec),
    )


@pytest.mark.parametrize("size", [(1, 900), (900, 1), (1, 1), (2, 900)])
def test_an_image_of_one_row_is_cropped_to_something(size: tuple[int, int]) -> None:
    for seed in range(5):
        config = AugmentConfig(crop_ratio=(0.1, 0.4))
        found = train_pixels(
            png(Image.new("RGB", size, "red")),
            PreprocessConfig(image_size=8),
            config,
            generator(seed),
        )
        assert found[0].min() == 255


def bomb(format: str) -> bytes:
    """A small file that claims 8,000 x 8,000 pixels."""
    if format == "JPEG":
        content = bytearray(jpeg(photo(16, 16)))
        place = content.index(b"\xff\xc0")
        content[place + 5 : place + 9] = struct.pack(">HH", 8_000, 8_000)
        return bytes(content)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 8_000, 8_000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
    ]
    chunks = [
        struct.pack(">I", len(body))
        + name
        + body
        + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_header_that_claims_too_much_is_refused_before_anything_is_decoded(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr(pixels, "_torchvision", lambda: decoded)
    content = bomb(format)
    with pytest.raises(
        ValueError, match="8000 x 8000 pixels, over the limit of 40000000"
    ):
        train_pixels(content, PreprocessConfig(image_size=32), WHOLE, generator(0))


@pytest.mark.parametrize(
    "kind", ["baseline", "progressive", "turned", "with a thumbnail"]
)
def test_a_jpeg_cut_anywhere_is_refused(kind: str) -> None:
    small = photo(40, 24)
    exif = turned(6)
    options: dict[str, dict[str, object]] = {
        "baseline": {}, "progressive": {"progressive": True}, "turned": {"exif": exif},
        # which ends as a whole image does
        "with a thumbnail": {"exif": exif + jpeg(photo(8, 8))},
    }  # fmt: skip
    content = jpeg(small, **options[kind])
    for cut in range(len(content)):
        with pytest.raises(ValueError, match="is not a readable image"):
            train_pixels(
                content[:cut], PreprocessConfig(image_size=8), WHOLE, generator(0)
            )
    train_pixels(content, PreprocessConfig(image_size=8), WHOLE, generator(0))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>404</html>",
        b"\xff\xd8\xff\xd9",
        b"\0\0\0\0" + jpeg(photo(9, 9))[4:],
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(content: bytes) -> None:
    with pytest.raises(
        ValueError, match=r"bytes is not a readable image \(.*\); give JPEG, PNG"
    ):
        train_pixels(content, PreprocessConfig(image_size=8), WHOLE, generator(0))


def test_bytes_after_the_end_of_a_whole_jpeg_do_no_harm() -> None:
    content = jpeg(photo(40, 24))
    for tail in (b"\0", b"\0" * 600, b"\r\n", b"\xff\xd9"):
        expected, found = (
            train_pixels(file, PreprocessConfig(image_size=8), WHOLE, generator(0))
            for file in (content, content + tail)
        )
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "kind", ["baseline", "progressive", "turned", "restart markers"]
)
def test_a_damaged_jpeg_is_refused_where_pillow_refuses_it_and_else_decoded_alike(
    kind: str,
) -> None:
    options: dict[str, dict[str, object]] = {
        "baseline": {}, "progressive": {"progressive": True},
        "turned": {"exif": turned(8), "xmp": XMP % 3},
        "restart markers": {"restart_marker_rows": 1},
    }  # fmt: skip
    whole = jpeg(photo(48, 32), **options[kind])
    header = whole.index(b"\xff\xda") + 14
    random = np.random.default_rng(0)
    refused = 0
    alike = 0
    for attempt in range(400):
        content = damaged(whole, header if attempt % 2 else len(whole), random)
        fast = pixels._decode_jpeg(content)
        try:
            expected = np.asarray(decode_image(content))
        except ValueError:
            assert fast is None
            refused += 1
            continue
        if fast is not None:
            np.testing.assert_array_equal(fast.permute(1, 2, 0).numpy(), expected)
            alike += 1
    assert refused > 40
    assert alike > 100


def damaged(content: bytes, reach: int, random: np.random.Generator) -> bytes:
    """Bits flipped, bytes lost or added, somewhere in the first `reach` bytes."""
    found = bytearray(content)
    place = int(random.integers(reach))
    match int(random.integers(4)):
        case 0:
            del found[place : place + int(random.integers(1, 60))]
        case 1:
            found[place:place] = random.bytes(int(random.integers(1, 20)))
        case _:
            for _ in range(int(random.integers(1, 4))):
                found[int(random.integers(reach))] ^= 1 << int(random.integers(8))
    return bytes(found)


def test_the_box_is_what_torchvision_s_formula_gives_for_the_same_draws() -> None:
    config = AugmentConfig(crop_scale=(0.3, 1.0))
    for seed in range(300):
        width, height = (
            int(side) for side in np.random.default_rng(seed).integers(20, 900, 2)
        )
        draw = generator(seed)
        expected = None
        for _ in range(10):
            area = width * height * draw.uniform(*config.crop_scale)
            ratio = np.exp(draw.uniform(*np.log(config.crop_ratio)))
            w = round(np.sqrt(area * ratio))
            h = round(np.sqrt(area / ratio))
            if w <= width and h <= height:
                left = int(draw.integers(width - w + 1))
                top = int(draw.integers(height - h + 1))
                expected = (left, top, left + w, top + h)
                break
        box = draw_box(width, height, config, generator(seed))
        assert expected in (None, box)
        assert 0 <= box[0] < box[2] <= width
        assert 0 <= box[1] < box[3] <= height


def plane(width: int, height: int) -> bytes:
    """An image whose red is the column and whose green is the row, in 0..255 of its own size."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return png(Image.fromarray(np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)))


def seen(content: bytes, config: AugmentConfig, seed: int) -> tuple[float, float]:
    """The shares of the width and of the height that a crop kept."""
    found = (
        train_pixels(content, PreprocessConfig(image_size=32), config, generator(seed))
        .double()
        .numpy()
    )
    return float(np.ptp(found[0])) / 255, float(np.ptp(found[1])) / 255


@pytest.mark.parametrize("size", [(64, 64), (90, 64), (64, 90)])
def test_a_crop_keeps_the_share_and_the_ratio_that_were_asked_for(
    size: tuple[int, int],
) -> None:
    config = AugmentConfig(crop_scale=(0.4, 0.6), crop_ratio=(0.9, 1.1))
    for seed in range(20):
        wide, high = seen(plane(*size), config, seed)
        assert 0.3 < wide * high < 0.7
        assert 0.8 < (wide * size[0]) / (high * size[1]) < 1.25


def test_an_image_too_long_for_the_share_gives_its_largest_centred_crop_not_a_squashed_one() -> (
    None
):
    wide, high = seen(
        plane(300, 100),
        AugmentConfig(crop_scale=(0.9, 1.0), crop_ratio=(3 / 4, 4 / 3)),
        0,
    )
    assert high == pytest.approx(1, abs=0.05)
    assert wide * 300 == pytest.approx(4 / 3 * 100, rel=0.08)


def test_the_same_key_gives_the_same_crop_and_flips_come_half_the_time() -> None:
    config = AugmentConfig(flip=True)
    content = plane(50, 50)
    flipped = []
    for seed in range(60):
        first, second = (
            train_pixels(
                content, PreprocessConfig(image_size=16), config, generator(seed)
            )
            for _ in "ab"
        )
        assert torch.equal(first, second)
        flipped.append(bool(first[0, 0, 0] > first[0, 0, -1]))
    assert 15 < sum(flipped) < 45


@pytest.mark.parametrize("ratio", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_a_range_that_is_none_is_refused(ratio: tuple[float, float]) -> None:
    with pytest.raises(
        ValueError, match=r"crop_ratio .* is not a range of positive numbers"
    ):
        AugmentConfig(crop_ratio=ratio)
