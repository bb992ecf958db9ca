"""What every reader of inputs needs: the parts of one, the bytes of a picture, its name."""

from __future__ import annotations

from pathlib import Path

from .datasets import Deferred, Fused, Input, Picture, Plain


def parts_of(one: Input) -> tuple[Plain | Deferred, ...]:
    """What has a vector of its own: the text and the picture of a fused input, else the input
    itself.
    """
    return (one.text, one.image) if isinstance(one, Fused) else (one,)


def bytes_of(picture: Picture) -> bytes:
    """The picture as it was stored. Raises OSError if its file cannot be read."""
    if isinstance(picture, Deferred):
        return picture.read()
    return picture.read_bytes() if isinstance(picture, Path) else picture


def name_of(picture: Picture) -> str:
    """What an error calls it."""
    if isinstance(picture, bytes):
        return f"a picture of {len(picture):,} bytes"
    return picture.name if isinstance(picture, Deferred) else str(picture)
