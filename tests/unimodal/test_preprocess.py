"""Pixels and token ids are those of open_clip, whatever the picture or the text; what is no picture is refused."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import unicodedata
import warnings
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open_clip
import pytest
import torch
from PIL import ExifTags, Image
from tokenizers import Tokenizer as TokenizerBackend

from unimodal.config import ImageTowerConfig, ModelConfig, PreprocessConfig, TextTowerConfig
from unimodal.model import build_model
from unimodal.preprocess import (
    FORMATS,
    Tokenizer,
    _clean_as_open_clip,
    clip_tokenizer,
    decode_image,
    image_to_pixels,
    load_tokenizer,
    pad_ids,
    train_tokenizer,
)

SIZES = [(1, 1), (31, 32), (32, 32), (33, 65), (64, 17), (97, 203), (300, 41), (5, 7), (101, 100)]
MODES: dict[Literal["crop", "squash", "pad"], str] = {"crop": "shortest", "squash": "squash", "pad": "longest"}


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
            size=config.image_size, mean=config.mean, std=config.std, interpolation=config.interpolation,
            resize_mode=MODES[config.resize],
        ),
        is_train=False,
    )  # fmt: skip


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", MODES)
@pytest.mark.parametrize("image_size", [32, 33])
def test_pixels_equal_open_clips_exactly(
    resize: Literal["crop", "squash", "pad"], interpolation: Literal["bicubic", "bilinear"], image_size: int
) -> None:
    config = PreprocessConfig(image_size=image_size, resize=resize, interpolation=interpolation)
    before_normalisation = open_clip_transform(config)
    before_normalisation.transforms = before_normalisation.transforms[:-1]
    for width, height in SIZES:
        image = noise(width, height)
        theirs = (before_normalisation(image) * 255).round().to(torch.uint8)
        assert torch.equal(image_to_pixels(image, config), theirs), f"{width} x {height}"


def test_normalised_pixels_equal_open_clips() -> None:
    config = PreprocessConfig(image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    image = ImageTowerConfig(name="resnet18", kwargs={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]})
    model = build_model(ModelConfig(embed_dim=4, image=image, preprocess=config))
    ours = model._normalise(image_to_pixels(noise(50, 70), config), torch.float32)
    torch.testing.assert_close(ours, open_clip_transform(config)(noise(50, 70)), rtol=0, atol=1e-6)


def test_pixels_are_uint8_of_the_size_asked_for() -> None:
    pixels = image_to_pixels(noise(40, 30), PreprocessConfig(image_size=24))
    assert (pixels.shape, pixels.dtype, pixels.is_contiguous()) == ((3, 24, 24), torch.uint8, True)


def test_a_picture_too_narrow_to_crop_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(ValueError, match="1 x 20000 pixels is too narrow to crop"):
        image_to_pixels(Image.new("RGB", (1, 20000)), PreprocessConfig())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["bytes", "path", "PIL"])
def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path, orientation: int, kind: str) -> None:
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
    source: Any = {"bytes": file.read_bytes(), "path": file, "PIL": Image.open(file)}[kind]
    assert np.array_equal(np.asarray(decode_image(source)), upright)


def test_the_first_frame_of_a_gif_is_taken() -> None:
    frames = [Image.new("RGB", (8, 6), color) for color in ("red", "lime", "blue")]
    decoded = decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert decoded.getcolors() == [(48, (255, 0, 0))]


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "L", "1", "CMYK", "PA"])
def test_a_picture_of_any_mode_becomes_rgb(mode: str) -> None:
    image = Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode)
    name = {"CMYK": "JPEG", "PA": "TIFF"}.get(mode, "PNG")
    decoded = decode_image(encoded(image, name) if mode != "PA" else image)
    assert decoded.mode == "RGB"
    assert np.asarray(decoded).min() >= 254


@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_keep_their_high_byte(name: str) -> None:
    grey = np.arange(256, dtype=np.uint16)[None] * 257
    decoded = np.asarray(decode_image(encoded(Image.fromarray(grey), name)))
    assert np.array_equal(decoded, np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_that_is_promised_decodes(name: str) -> None:
    assert decode_image(encoded(noise(9, 7), name)).size == (9, 7)


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_a_header_over_the_cap_is_refused_without_decoding() -> None:
    with pytest.raises(ValueError, match="8000 x 6000 pixels, over the cap of 40000000 pixels; scale it down"):
        decode_image(png_that_claims(8000, 6000))
    with pytest.raises(ValueError, match="over the cap of 100"):
        decode_image(encoded(noise(11, 10)), max_pixels=100)
    assert decode_image(encoded(noise(10, 10)), max_pixels=100).size == (10, 10)


def test_a_bomb_of_a_header_is_over_the_cap_too() -> None:
    with pytest.raises(ValueError, match="over the cap of 40000000 pixels; scale it down"):
        decode_image(png_that_claims(60000, 60000))


def test_a_header_over_the_cap_is_told_by_the_error_alone(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png_that_claims(12000, 10000))  # where Pillow would warn
    code = (
        "import sys\nfrom pathlib import Path\nfrom unimodal.preprocess import decode_image\n"
        "try:\n  decode_image(Path(sys.argv[1]))\nexcept ValueError as error:\n  print(error)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "large.png")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "over the cap of 40000000 pixels" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"<!DOCTYPE html><html>not found</html>", "37 bytes is not a readable picture .unknown format.; give JPEG"),
        (b"", "0 bytes is not a readable picture"),
        (encoded(noise(64, 64), "JPEG")[:-900], "is not a readable picture"),
        (encoded(noise(64, 64), "PNG")[:-900], "is not a readable picture"),
        (encoded(noise(64, 64), "WEBP")[:-900], "is not a readable picture"),
        (encoded(noise(4, 4), "PPM"), "unknown format"),
        (Path("nowhere.jpg"), "picture nowhere.jpg does not exist"),
        (Path(__file__), "test_preprocess.py is not a readable picture"),
    ],
)
def test_what_is_no_picture_is_refused(source: bytes | Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        decode_image(source)
    assert "\n" not in str(caught.value)


def test_a_cut_picture_that_was_opened_lazily_is_refused_too(tmp_path: Path) -> None:
    file = tmp_path / "cut.jpg"
    file.write_bytes(encoded(noise(64, 64), "JPEG")[:-900])
    with Image.open(file) as image, pytest.raises(ValueError, match="the PIL image is not a readable picture"):
        decode_image(image)


@pytest.mark.parametrize("name", FORMATS)
def test_broken_bytes_decode_or_are_refused_and_nothing_else(name: str) -> None:
    rng, whole = random.Random(0), encoded(noise(24, 31), name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(200):
            broken = bytearray(whole)
            for _ in range(rng.randint(1, 6)):
                broken[rng.randrange(len(broken) if turn % 2 else 64)] = rng.randrange(256)
            try:
                decode_image(bytes(broken[: rng.randrange(len(broken))] if turn % 5 == 0 else broken))
            except ValueError as error:
                assert str(error)  # noqa: PT017  # both ways are right; another exception fails the test


NASTY = [
    "a photo of a cat", "", " ", "\t\n", "  A  photo\nof   A CAT  ", "don't we'll I'VE it'S they're he'd I'm",
    "fish &amp; chips &lt;b&gt; &amp;amp; &eacute;&#233;", "naïve café Ünïcödé ẞ İstanbul ﬁne ﬅ ſ it'ſ",
    "東京タワー 北京 서울",
    "🎉🎉 👩‍👩‍👧 🇩🇪 ❤️", "x" * 500, "word " * 300, "1234567890 3.14 1,000", "???!!! ... --- ___ #hash @at",
    "<start_of_text> a <end_of_text> b", "\u200b zero \u200d width \ufeff", "\x00 \x1c \x85 controls \u2028 \u3000",
    "âœ” schÃ¶n cafÃ©", "“quoted” ‘single’", "\u0345 a\u0345 b'\u0345", "עברית العربية हिन्दी ไทย", "𝕬𝖇𝖈 ① Ⅷ ½ ²",
]  # fmt: skip


def test_clip_ids_equal_open_clips_on_nasty_texts() -> None:
    theirs = open_clip.tokenizer.SimpleTokenizer()
    ours = Tokenizer(clip_tokenizer(), TextTowerConfig(library="open_clip", name="ViT-B-32", clean="clip"))
    ids, _ = pad_ids(ours(NASTY), 0, 77)
    for text, left, right in zip(NASTY, ids.tolist(), theirs(NASTY).tolist(), strict=True):
        assert left == right, repr(text)


def test_clip_ids_equal_open_clips_on_random_letters_of_all_scripts() -> None:
    rng = random.Random(0)
    codes = [*range(1, 0x3100), *range(0xFB00, 0xFFFE), *range(0x1F300, 0x1F700)]
    letters = [chr(code) for code in codes if unicodedata.category(chr(code)) != "Cn"]  # assigned since long
    texts = ["".join(rng.choices([*letters, *" '!sStT0<>&;"], k=30)) for _ in range(300)]
    theirs = open_clip.tokenizer.SimpleTokenizer()
    ours = Tokenizer(clip_tokenizer(), TextTowerConfig(library="open_clip", name="ViT-B-32", clean="clip"))
    assert pad_ids(ours(texts), 0, 77)[0].tolist() == theirs(texts).tolist()


@pytest.mark.parametrize("kind", ["lower", "whitespace", "canonicalize"])
def test_plain_texts_are_cleaned_as_open_clip_cleans_them(kind: str) -> None:
    rng = random.Random(0)
    letters = [chr(code) for code in range(32, 127)]
    texts = ["".join(rng.choices([*letters, *" .'<>;#"], k=rng.randrange(40))) for _ in range(3000)]
    theirs = open_clip.tokenizer.get_clean_fn(kind)
    for text in texts:
        assert _clean_as_open_clip(text, kind) == theirs(text), repr(text)


def test_the_tokenizer_of_an_open_clip_tower_has_its_length(open_clip_name: str) -> None:
    ours, config = load_tokenizer(TextTowerConfig(library="open_clip", name=open_clip_name))
    assert (config.max_length, config.clean) == (16, "clip")
    assert pad_ids(ours(NASTY), 0, 16)[0].tolist() == open_clip.get_tokenizer(open_clip_name)(NASTY).tolist()


def test_a_text_is_cut_to_the_length_asked_for(text_config: TextTowerConfig, tokenizer: Tokenizer) -> None:
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


def test_padding_in_a_tokenizers_file_is_taken_off(tmp_path: Path, tokenizer_file: Path) -> None:
    backend = TokenizerBackend.from_file(str(tokenizer_file))
    backend.enable_padding(length=50)
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer, config = load_tokenizer(TextTowerConfig(name="bert", tokenizer=str(tmp_path / "tokenizer.json")))
    assert len(tokenizer(["a"])[0]) == 3
    assert config.pad_id == 0


def test_a_tokenizer_that_is_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"no tokenizer found for 'no-one/nothing'.*set text.tokenizer to"):
        load_tokenizer(TextTowerConfig(name="bert", tokenizer="no-one/nothing"))
    with pytest.raises(ValueError, match=r"has no tokenizer.json; save the model again"):
        load_tokenizer(TextTowerConfig(name="bert"), tmp_path)


def test_a_trained_tokenizer_depends_on_its_texts_alone(tmp_path: Path, texts: list[str]) -> None:
    files = [tmp_path / str(number) / "tokenizer.json" for number in range(4)]
    for file in files:
        train_tokenizer(iter([*texts, "Ünïcode &amp; 東京"] * 3), file, vocab_size=90)
    assert len({file.read_bytes() for file in files}) == 1
    assert TokenizerBackend.from_file(str(files[0])).get_vocab_size() == 90


def test_a_trained_tokenizer_marks_both_ends_and_what_it_does_not_know(tokenizer_file: Path) -> None:
    backend = TokenizerBackend.from_file(str(tokenizer_file))
    assert backend.encode("a 東 A").tokens == ["[CLS]", "a", "[UNK]", "a", "[SEP]"]
    assert [backend.token_to_id(token) for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")] == [0, 1, 2, 3]
    assert backend.encode("##a").tokens == ["[CLS]", "[UNK]", "[UNK]", "a", "[SEP]"]  # only the four are special


def test_lower_case_is_asked_for_by_clean(tokenizer_file: Path) -> None:
    backend = TokenizerBackend.from_file(str(tokenizer_file))
    backend.normalizer = None
    backend.save(str(tokenizer_file.with_name("cased.json")))
    config = TextTowerConfig(name="bert", tokenizer=str(tokenizer_file.with_name("cased.json")))
    cased, lower = (load_tokenizer(config.model_copy(update={"clean": clean}))[0] for clean in ("none", "lower"))
    assert cased(["RED ball"]) != cased(["red ball"])
    assert lower(["RED ball"]) == cased(["red ball"])


def test_padding_is_on_the_right_and_masked() -> None:
    ids, mask = pad_ids([[5, 6], [7], [8, 9, 10]], pad_id=1)
    assert ids.tolist() == [[5, 6, 1], [7, 1, 1], [8, 9, 10]]
    assert mask.tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    ids, mask = pad_ids([[5, 6], [7]], pad_id=0, length=4)
    assert ids.tolist() == [[5, 6, 0, 0], [7, 0, 0, 0]]
    assert mask.sum() == 3
    assert (ids.dtype, mask.dtype) == (torch.int64, torch.bool)


def test_broken_exif_turns_nothing_and_breaks_nothing() -> None:
    rng, file = random.Random(0), io.BytesIO()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make], exif[ExifTags.Base.XResolution] = 6, "maker", 72.5
    Image.new("RGB", (8, 6), (200, 10, 10)).save(file, "JPEG", exif=exif)
    start = file.getvalue().index(b"Exif")
    assert decode_image(file.getvalue()).size == (6, 8)
    sizes = set()
    for _ in range(2000):
        content = bytearray(file.getvalue())
        for _ in range(rng.randrange(1, 4)):
            content[start + 6 + rng.randrange(60)] = rng.randrange(256)
        sizes.add(decode_image(bytes(content)).size)  # whatever the EXIF says, the picture is there
    assert sizes == {(6, 8), (8, 6)}
