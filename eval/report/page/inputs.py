"""Texts and images of a task as the page shows them: texts cut, images as small JPEGs inside the
page. `inputs.html.j2` lays them out.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from unimodal.preprocess.images import decode_image

from ...data.inputs import Deferred, Fused, ImageSource, Input

SIZE = 112  # pixels of the longer side; shown at 96 or less
QUALITY = 72
MAX_TEXT = 600  # characters
MAX_NAME = 120


@dataclass(frozen=True)
class ShownInput:
    """A text, an image, or both if they are searched together; None for what is missing."""

    text: str | None
    image_name: str | None
    image_uri: str  # "" for an image that is not shown, which is then named

    @property
    def shape(self) -> str:
        """The class of the style sheet: "words", "image" or "fused"."""
        if self.image_name is None:
            return "words"
        return "image" if self.text is None else "fused"


class Thumbnails:
    """Images as data URIs, each made once, and at most `limit` of them, to keep the page small."""

    def __init__(self, limit: int = 400) -> None:
        self.limit = limit
        self._known: dict[ImageSource, str] = {}

    def uri(self, source: ImageSource) -> str:
        """A JPEG as a data URI; "" for an unreadable image, and after the limit."""
        if source not in self._known and len(self._known) < self.limit:
            self._known[source] = _data_uri(source)
        return self._known.get(source, "")


def show_input(item: Input, thumbnails: Thumbnails) -> ShownInput:
    """A text or an image, or both, ready for the page."""
    if isinstance(item, str):
        return ShownInput(shorten(item, MAX_TEXT), None, "")
    text = shorten(item.text, MAX_TEXT) if isinstance(item, Fused) else None
    image = item.image if isinstance(item, Fused) else item
    return ShownInput(text, shorten(image_name(image), MAX_NAME), thumbnails.uri(image))


def image_name(source: ImageSource) -> str:
    """The name of the image's file, or of what it is a part of."""
    if isinstance(source, (Path, Deferred)):
        return source.name
    return "source"


def shorten(text: str, max_length: int) -> str:
    """The text in one line, cut at a word with an ellipsis."""
    line = " ".join(text.split())
    if len(line) <= max_length:
        return line
    return line[:max_length].rsplit(" ", 1)[0] + " …"


def _data_uri(source: ImageSource) -> str:
    try:
        image = decode_image(source.read() if isinstance(source, Deferred) else source)
    except (ValueError, OSError):
        return ""
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}"
