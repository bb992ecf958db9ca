"""Write the images and tables of a converted repository."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from unimodal.preprocess.images import decode_image


def shrink(source: Path, target: Path, size: int, quality: int = 82) -> None:
    """Write an image as a JPEG whose longer edge has at most `size` pixels.

    Raises ValueError if it cannot be decoded.
    """
    image = decode_image(source)
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    target.parent.mkdir(parents=True, exist_ok=True)
    image.save(target, "JPEG", quality=quality, optimize=True)


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a table as JSON lines."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
