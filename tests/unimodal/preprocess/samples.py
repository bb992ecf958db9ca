"""Images for the tests of preprocessing, and open_clip's own transform of one."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, Literal

import numpy as np
import open_clip
from PIL import Image

from unimodal.model_config import (
    PreprocessConfig,
)

SIZES = [
    (1, 1),
    (31, 32),
    (32, 32),
    (33, 65),
    (64, 17),
    (97, 203),
    (300, 41),
    (5, 7),
    (101, 100),
]

MODES: dict[Literal["crop", "squash", "pad"], str] = {
    "crop": "shortest",
    "squash": "squash",
    "pad": "longest",
}


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
            size=config.image_size,
            mean=config.mean,
            std=config.std,
            interpolation=config.interpolation,
            resize_mode=MODES[config.resize],
        ),
        is_train=False,
    )


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", b"")
        + chunk(b"IEND", b"")
    )
