"""A text that is an image is recognized, and formats and endings are one table."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from unimodal.preprocess.image_formats import (
    BROWSER_FORMATS,
    EXTENSIONS_OF,
    FORMATS,
    SHARD_EXTENSIONS,
    is_image_base64,
    is_image_uri,
)


def test_what_is_decoded_packed_or_served_has_endings() -> None:
    assert set(BROWSER_FORMATS) <= set(FORMATS) <= set(EXTENSIONS_OF)
    assert set(SHARD_EXTENSIONS) - {"MPO"} <= set(FORMATS)


@pytest.mark.parametrize(
    ("text", "is_image"),
    [
        ("data:image/png;base64,AAAA", True),
        ("  DATA:IMAGE/PNG;BASE64,AAAA", True),
        ("data:;base64,AAAA", True),
        ("data:application/octet-stream;base64,AAAA", True),
        ("data:image/svg+xml,%3Csvg%3E", True),
        ("data:image/png;charset=utf-8;base64,AAAA", True),
        ("data:image/png;name=" + "n" * 300 + ";base64,AAAA", True),
        (" " * 400 + "data:;base64,AAAA", True),
        ("data: the new oil, they say", False),
        ("data:text/plain,hello", False),
        ("a data:image/png;base64,AAAA", False),
        ("data:image/png is a head, and not an image", False),
        ("data:image/png;base64", False),
        ("", False),
    ],
)
def test_a_text_that_is_an_images_data_uri_is_recognised(
    text: str, is_image: bool
) -> None:
    assert is_image_uri(text) is is_image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_text_that_is_the_base64_of_an_image_is_recognised(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 90, 10)).save(file, kind)
    image = file.getvalue()

    assert is_image_base64(base64.b64encode(image).decode())
    assert is_image_base64(base64.urlsafe_b64encode(image).decode().rstrip("="))
    assert is_image_base64("\n" + base64.encodebytes(image).decode())


@pytest.mark.parametrize(
    "text",
    ["", "/9j/", "iVBORw0KGgo is how a PNG in base64 begins, said in words.", "a" * 99],
)
def test_a_text_that_begins_as_base64_is_a_text(text: str) -> None:
    assert not is_image_base64(text)
