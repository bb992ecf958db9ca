"""What every reader of inputs needs: the parts of one, the bytes of an image, its name."""

from __future__ import annotations

from pathlib import Path

from unimodal.inputs import Plain

from .datasets import Deferred, Fused, ImageSource, Input


def parts_of(one: Input) -> tuple[Plain | Deferred, ...]:
    """What has a vector of its own: the text and the image of a fused input, else the input
    itself.
    """
    return (one.text, one.image) if isinstance(one, Fused) else (one,)


def bytes_of(picture: ImageSource) -> bytes:
    """The image as it was stored. Raises OSError if its file cannot be read."""
    if isinstance(picture, Deferred):
        return picture.read()
    return picture.read_bytes() if isinstance(picture, Path) else picture


def name_of(picture: ImageSource) -> str:
    """What an error calls it."""
    if isinstance(picture, bytes):
        return f"an image of {len(picture):,} bytes"
    return picture.name if isinstance(picture, Deferred) else str(picture)
