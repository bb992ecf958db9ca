"""Images from clients are recognized, and judged before they are decoded."""

from __future__ import annotations

import base64
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from tests.unimodal.serve.engine.image_files import chunk, png_header, saved
from unimodal.preprocess.images import decode_image, to_rgb
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.errors import TooLargeError
from unimodal.serve.engine.images import (
    image_bytes,
    open_checked,
)

CONFIG = ServeConfig(model="m")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_an_image_is_exactly_what_the_library_decodes(
    image: Image.Image, form: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    content = saved(image, form) if form == "GIF" else saved(image, form, exif=exif)
    opened = open_checked(content, CONFIG)
    assert opened.size == ((31, 20) if form == "GIF" else (20, 31))
    assert np.array_equal(np.asarray(to_rgb(opened)), np.asarray(decode_image(content)))


def test_a_jpeg_that_draws_itself_again_and_again_is_refused_before_it_is_decoded(
    image: Image.Image,
) -> None:
    content = saved(image, "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    many = content[:last] + 200 * content[last:-2] + content[-2:]
    with pytest.raises(
        ValueError, match="the JPEG has more than 100 scans; save it again"
    ):
        open_checked(many, CONFIG)
    hidden = (
        content[:2] + b"\xff\xe1\x00\x04\xff\xd9" + many[2:]
    )  # the end of an image, inside of a comment
    with pytest.raises(ValueError, match="more than 100 scans"):
        open_checked(hidden, CONFIG)


def test_what_stands_beside_a_jpegs_own_scans_is_not_counted(
    image: Image.Image,
) -> None:
    film = 200 * b"\xff\xda\x00\x04ab"
    comment = 200 * b"\xff\xda"
    content = saved(image, "JPEG", progressive=True, comment=comment) + film
    assert open_checked(content, CONFIG).size == (31, 20)


def test_of_an_animation_the_first_frame_is_taken(image: Image.Image) -> None:
    frames = [Image.new("RGB", (31, 20), (number, 0, 0)) for number in range(200)]
    content = saved(image, "GIF", save_all=True, append_images=frames)
    opened = to_rgb(open_checked(content, CONFIG))
    assert np.array_equal(
        np.asarray(opened), np.asarray(decode_image(saved(image, "GIF")))
    )


def test_an_image_of_one_pixel_is_an_image() -> None:
    assert open_checked(saved(Image.new("L", (1, 1)), "PNG"), CONFIG).size == (1, 1)


@pytest.mark.parametrize("form", ["BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_refused(image: Image.Image, form: str) -> None:
    with pytest.raises(
        ValueError, match="not a readable image; send a whole JPEG, PNG, WebP or GIF"
    ):
        open_checked(saved(image, form), CONFIG)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_broken_image_is_refused_in_one_sentence_whatever_is_broken(
    image: Image.Image, form: str
) -> None:
    content = saved(image, form)
    draw = np.random.default_rng(0)
    broken = [
        content[:length]
        for length in range(0, len(content) - 30, max(1, len(content) // 40))
    ]
    for _ in range(150):
        spoilt = bytearray(content)
        for place in draw.integers(0, len(content), 5):
            spoilt[place] = draw.integers(256)
        broken.append(bytes(spoilt))
    refusals = [
        refusal for refusal in map(refusal_of, broken) if refusal
    ]  # what is still an image may pass
    assert len(refusals) >= 40
    assert {"it is not a readable image; send a whole JPEG, PNG, WebP or GIF."} >= {
        refusal for refusal in refusals if "pixels" not in refusal
    }


def refusal_of(content: bytes) -> str:
    try:
        open_checked(content, CONFIG)
    except ValueError as error:
        return str(error)
    return ""


def test_an_image_over_the_cap_of_pixels_is_refused(image: Image.Image) -> None:
    config = ServeConfig(model="m", max_pixels=31 * 20 - 1)
    large = (
        image,
        saved(image, "PNG"),
        saved(image, "WEBP"),
        png_header(65_000, 65_000),
    )
    for content in large:
        with pytest.raises(TooLargeError, match="more than 619 pixels"):
            open_checked(content, config)
    config = ServeConfig(model="m", max_pixels=31 * 20)
    assert open_checked(image, config).size == (31, 20)


BOMBS = """
import io, json, pathlib, sys, time
from PIL import Image
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.images import open_checked

def memory(line):
    rows = open("/proc/self/status")
    return next(int(row.split()[1]) for row in rows if row.startswith(line)) / 1024

config = ServeConfig(model="m")
for form in ("PNG", "JPEG", "WEBP", "GIF"):  # decoders are loaded when they are first used
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, form)
    open_checked(buffer.getvalue(), config)
found = {}
for file in pathlib.Path(sys.argv[1]).iterdir():
    bomb = file.read_bytes()
    open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here
    before, started = memory("VmRSS"), time.perf_counter()
    try:
        open_checked(bomb, config)
        outcome = "decoded"
    except ValueError as error:
        outcome = type(error).__name__
    found[file.name] = outcome, memory("VmHWM") - before, time.perf_counter() - started
print(json.dumps(found))
"""


def bombs() -> dict[str, bytes]:
    row = bytes(3 * 30_000 + 1)
    squeeze = zlib.compressobj(9)
    rows = squeeze.compress(row * 300) + squeeze.flush()
    whole = b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)),
            chunk(b"IDAT", rows),
            chunk(b"IEND", b""),
        ]
    )
    webp = saved(Image.new("RGB", (9, 9)), "WEBP", lossless=True)
    extended = (
        b"VP8X"
        + struct.pack("<I", 10)
        + b"\x02\0\0\0"
        + (16382).to_bytes(3, "little") * 2
        + webp[12:]
    )
    gif = saved(Image.new("RGB", (9, 9)), "GIF")
    jpeg = saved(Image.new("RGB", (9, 9)), "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    small = zlib.compress(bytes(60_000_000), 9)
    text = chunk(b"zTXt", b"a\0\0" + small)
    return {
        "png": whole,
        "webp": b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended,
        "gif": gif[:6] + struct.pack("<HH", 65_000, 65_000) + gif[10:],
        "jpeg": jpeg[:size] + struct.pack(">HH", 65_000, 65_000) + jpeg[size + 4 :],
        "text": png_header(9, 9, text, text),
        "profile": png_header(9, 9, chunk(b"iCCP", b"a\0\0" + small)),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bombs_are_refused_from_their_headers_with_no_memory_spent(
    tmp_path: Path,
) -> None:
    for name, bomb in bombs().items():
        (tmp_path / name).write_bytes(bomb)
    command = [sys.executable, "-W", "ignore", "-c", BOMBS, str(tmp_path)]
    results = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    assert {results[kind][0] for kind in ("png", "jpeg", "webp", "gif")} == {
        "TooLargeError"
    }
    assert {results[kind][0] for kind in ("text", "profile")} <= {
        "ValueError",
        "decoded",
    }
    assert max(memory for _, memory, _ in results.values()) <= 20, results  # MB
    assert max(seconds for _, _, seconds in results.values()) < 5 * 0.3, results


def test_bytes_come_from_a_data_uri_or_base64(image: Image.Image) -> None:
    content = saved(image, "PNG")
    for count in range(3):  # every padding
        encoded = base64.b64encode(content + bytes(count)).decode()
        for head in (
            "",
            "data:image/png;base64,",
            "DATA:;base64,",
            "data:image/svg+xml;charset=utf-8;base64,",
        ):
            assert image_bytes(head + encoded, CONFIG) == content + bytes(count)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data:",
        "data:image/png,abcd",
        "data:image/png;base64,",
        "data:image/png;base64;abcd",
        "abcde",
        "ab=d",
        "AA==AAAA",
        "äbcd",
        "hat.png",
        "https://shop.com/a.png",
        "====",
        "data:image/png;base64,a%ZZb",
        "data:" + "a" * 300 + ";base64,abcd",
    ],
)
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        image_bytes(text, CONFIG)


PNG_HEAD = "data:image/png;charset=utf-8;name=a.png;base64,"


@pytest.mark.parametrize(
    "head", ["", PNG_HEAD, "data:image/png; base64 ,", " data:;base64,"]
)
@pytest.mark.parametrize("count", range(3))  # every padding
def test_base64_is_read_as_the_world_writes_it(
    image: Image.Image, head: str, count: int
) -> None:
    content = b"\xfb\xff\xbf" + saved(image, "PNG") + bytes(count)
    plain = base64.b64encode(content).decode()
    lines = base64.encodebytes(content).decode()
    url_safe = base64.urlsafe_b64encode(content).decode()
    ways = [
        plain,
        plain.rstrip("="),
        lines,
        lines.replace("\n", "\r\n"),
        url_safe,
        url_safe.rstrip("="),
    ]
    ways += [" ".join(lines.split()), "\n " + plain + " \n"]
    if head:
        ways += [quote(plain), quote(plain, safe="")]
    for encoded in ways:
        assert image_bytes(head + encoded, CONFIG) == content, encoded[:40]


def test_base64_over_the_cap_is_refused_before_it_is_decoded() -> None:
    config = ServeConfig(model="m", max_image_bytes=300)
    assert image_bytes("A" * 400, config) == bytes(300)
    for text in ("A" * 404, "data:image/png;base64," + "A" * 404, "!" * 404):
        with pytest.raises(TooLargeError, match="larger than 300 bytes"):
            image_bytes(text, config)
