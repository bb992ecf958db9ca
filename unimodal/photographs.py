"""Generated images that cost as much as photographs, and shards of them, for benchmarks of speed.

Leaves whose sizes follow a power law lie over each other (Lee, Mumford and Huang, 2001, "Occlusion
models for natural images"), with noise at all scales: an image has edges and texture however far it
is scaled down. JPEGs of quality 90 have 23.6 KB on average at 341 x 256 pixels and 69 KB at
682 x 512: 2.2 and 1.6 bits per pixel. Three photographs that come with scikit-learn and matplotlib
have 2.3 and 2.0, and take 5 % longer to decode per pixel.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .demo.catalogue import plan_products

_LEAVES = 200
_SMALLEST = 0.088
_NOISE = 10.0  # a radius is a share of half the shorter side; noise is in levels
_QUALITY = 90
_SHARDS = 2


def draw_photograph(seed: int, short: int = 512) -> Image.Image:
    """An image of short x 4/3 short pixels, portrait or landscape; the seed decides all."""
    random = np.random.default_rng(seed)
    size = (short, short * 4 // 3) if seed % 2 else (short * 4 // 3, short)
    width = 2 * size[0]
    height = 2 * size[1]  # edges are drawn hard, at twice the size
    base = random.uniform(60, 200, 3)
    canvas = Image.new("RGB", (width, height), tuple(base.astype(int).tolist()))
    pen = ImageDraw.Draw(canvas)
    low = _SMALLEST**-2
    radii = short * (low + random.uniform(size=_LEAVES) * (1 - low)) ** -0.5  # r^-3
    for radius in radii:
        x = random.uniform(0, width)
        y = random.uniform(0, height)
        colour = np.clip(
            base + random.normal(0, 45) + random.normal(0, 18, 3), 0, 255
        ).astype(int)
        corners = np.sort(random.uniform(0, 2 * np.pi, random.choice([4, 6, 40])))
        outline = [
            (x + radius * np.cos(angle), y + radius * np.sin(angle))
            for angle in corners
        ]
        pen.polygon(outline, fill=tuple(colour.tolist()))
    image = np.asarray(canvas.resize(size, Image.Resampling.LANCZOS)).astype(np.float32)
    for octave in range(1, 11):
        shape = min(2**octave, size[1]), min(2**octave, size[0])
        noise = Image.fromarray(random.normal(size=shape).astype(np.float32)).resize(
            size, Image.Resampling.BICUBIC
        )
        image += _NOISE / octave * np.asarray(noise)[:, :, None]
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def encode(image: Image.Image, short: int) -> bytes:
    """The image as a JPEG; short: pixels of its shorter side."""
    scale = short / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    file = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def draw_captions(count: int) -> list[str]:
    """Sentences of a shop, of 13 tokens on average.

    One in ten has letters beyond ASCII, an entity or a line break.
    """
    products = plan_products(seed=0, num_train=count, num_val=0, num_test=0)["train"]
    captions = [product.captions[0] for product in products]
    for place in range(0, count, 10):
        captions[place] = f"{captions[place]} – the café’s\nfavourite &amp; ours"
    return captions


def pack(images: Sequence[bytes], count: int, folder: Path) -> list[Path]:
    """Shards of `count` samples as img2dataset writes them (.jpg, .txt, .json), images in turn."""
    folder.mkdir()
    shards = [folder / f"{number:05d}.tar" for number in range(_SHARDS)]
    captions = draw_captions(count)
    for number, shard in enumerate(shards):
        with tarfile.open(shard, "w") as tar:
            for sample in range(
                number * count // _SHARDS, (number + 1) * count // _SHARDS
            ):
                key = f"{sample:09d}"
                caption = captions[sample]
                record = {
                    "key": key,
                    "caption": caption,
                    "url": f"https://example.org/{key}.jpg",
                    "status": "success",
                }
                parts = {
                    "jpg": images[sample % len(images)],
                    "txt": caption.encode(),
                    "json": json.dumps(record).encode(),
                }
                for extension, content in parts.items():
                    member = tarfile.TarInfo(f"{key}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return shards
