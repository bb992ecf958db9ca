"""Texts and images of a task as HTML: texts escaped and cut, images as small JPEGs inside the
page.
"""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image

from unimodal.preprocess.images import decode_image

from ...data.datasets import Deferred, Fused, ImageSource, Input

SIZE = 112  # pixels of the longer side; shown at 96 or less
QUALITY = 72
MAX_TEXT = 600  # characters


class Thumbnails:
    """Images as data URIs, each made once, and no more than `limit` of them: the page is to stay
    small.
    """

    def __init__(self, limit: int = 400) -> None:
        self.limit = limit
        self._known: dict[ImageSource, str] = {}

    def uri(self, source: ImageSource) -> str:
        """A JPEG as a data URI; "" for an image that cannot be read, and once there are enough."""
        if source not in self._known and len(self._known) < self.limit:
            self._known[source] = _data_uri(source)
        return self._known.get(source, "")


def input_html(one: Input, thumbnails: Thumbnails) -> str:
    """A text as a paragraph, an image as an image; both where both are searched with together."""
    if isinstance(one, Fused):
        return _image_html(one.image, thumbnails) + _text_html(one.text)
    if isinstance(one, str):
        return _text_html(one)
    return _image_html(one, thumbnails)


def image_name(source: ImageSource) -> str:
    """The name of its file, or of what it is a part of."""
    if isinstance(source, Path):
        return source.name
    return source.name if isinstance(source, Deferred) else "source"


def shortened(text: str, max_length: int) -> str:
    """The text in one line, cut at a word with an ellipsis."""
    line = " ".join(text.split())
    return (
        line if len(line) <= max_length else line[:max_length].rsplit(" ", 1)[0] + " …"
    )


def _text_html(text: str) -> str:
    return f'<p class="text">{escape(shortened(text, MAX_TEXT))}</p>'


def _image_html(source: ImageSource, thumbnails: Thumbnails) -> str:
    uri = thumbnails.uri(source)
    name = escape(shortened(image_name(source), 120))
    if not uri:
        return f'<p class="text quiet">{name}</p>'
    return f'<img src="{uri}" alt="{name}" title="{name}">'


def _data_uri(source: ImageSource) -> str:
    try:
        image = decode_image(source.read() if isinstance(source, Deferred) else source)
    except (ValueError, OSError):
        return ""
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return (
        f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    )
