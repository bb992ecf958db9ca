"""Texts and pictures of a task as HTML: texts escaped and cut, pictures as small JPEGs inside the
page.
"""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

from PIL import Image

from unimodal.preprocess.images import decode_image

from ...data.datasets import Deferred, Fused, Input, Picture

SIZE = 112  # pixels of the longer side; shown at 96 or less
QUALITY = 72
MAX_TEXT = 600  # characters


class Thumbnails:
    """Pictures as data URIs, each made once, and no more than `limit` of them: the page is to stay
    small.
    """

    def __init__(self, limit: int = 400) -> None:
        self.limit = limit
        self._known: dict[Picture, str] = {}

    def uri(self, picture: Picture) -> str:
        """A JPEG as a data URI; "" for a picture that cannot be read, and once there are enough."""
        if picture not in self._known and len(self._known) < self.limit:
            self._known[picture] = _data_uri(picture)
        return self._known.get(picture, "")


def input_html(one: Input, thumbnails: Thumbnails) -> str:
    """A text as a paragraph, a picture as an image; both where both are asked together."""
    parts = (
        [_picture_html(one.image, thumbnails), _text_html(one.text)]
        if isinstance(one, Fused)
        else None
    )
    if parts is None:
        parts = [
            _text_html(one) if isinstance(one, str) else _picture_html(one, thumbnails)
        ]  # type: ignore[arg-type]
    return "".join(parts)


def picture_name(picture: Picture) -> str:
    """The name of its file, or of what it is a part of."""
    if isinstance(picture, Path):
        return picture.name
    return picture.name if isinstance(picture, Deferred) else "picture"


def shortened(text: str, max_length: int) -> str:
    """The text in one line, cut at a word with an ellipsis."""
    line = " ".join(text.split())
    return (
        line if len(line) <= max_length else line[:max_length].rsplit(" ", 1)[0] + " …"
    )


def _text_html(text: str) -> str:
    return f'<p class="text">{escape(shortened(text, MAX_TEXT))}</p>'


def _picture_html(picture: Picture, thumbnails: Thumbnails) -> str:
    uri = thumbnails.uri(picture)
    name = escape(shortened(picture_name(picture), 120))
    if not uri:
        return f'<p class="text quiet">{name}</p>'
    return f'<img src="{uri}" alt="{name}" title="{name}">'


def _data_uri(picture: Picture) -> str:
    try:
        image = decode_image(
            picture.read() if isinstance(picture, Deferred) else picture
        )
    except (ValueError, OSError):
        return ""
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return (
        f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    )
