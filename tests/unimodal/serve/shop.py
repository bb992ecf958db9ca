"""A shop of 30 products to search: drawn images, a tiny model's vectors, a store in a folder.

The texts are embedded as queries are, so that a product's own title finds it with a cosine of 1.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from unimodal.embedder import Embedder
from unimodal.search.stores.base import VectorStore
from unimodal.search.stores.open import create_store
from unimodal.search.stores.schema import Schema
from unimodal.vectors import normalize

COLOURS = {"Red": (200, 30, 30), "Green": (30, 160, 60), "Blue": (40, 60, 200)}
KINDS = ("bag", "mug", "lamp", "chair", "scarf")
INJECTED = (
    "<img src=x "
    'onerror="document.body.innerHTML=\'owned\'"><script>document.title="owned"</script>'
)


def image(number: int) -> Image.Image:
    """The image of product `number`: a square of its colour on noise of its own."""
    noise = np.random.default_rng(number).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    noise[12:36, 12:36] = list(COLOURS.values())[number % 3]
    return Image.fromarray(noise)


def png(number: int) -> bytes:
    """The same as a PNG file, which loses nothing."""
    buffer = io.BytesIO()
    image(number).save(buffer, "PNG")
    return buffer.getvalue()


def title(number: int) -> str:
    """Product 7's title tries to be a script."""
    return (
        INJECTED
        if number == 7
        else f"{list(COLOURS)[number % 3]} {KINDS[number // 6]} number {number}"
    )


def build_shop(
    folder: Path, embedder: Embedder, *, thumbnails: bool = True
) -> VectorStore:
    """The store, filled; ids are `p/0` to `p/29`, and one is a script too."""
    numbers = range(30)
    titles = [title(number) for number in numbers]
    texts = embedder.encode_query(titles)
    images = embedder.encode([image(number) for number in numbers])
    schema = Schema(
        dim=texts.shape[1],
        fingerprint=embedder.fingerprint(),
        vectors=("text", "image", "fused"),
        words=True,
        fields={
            "title": "string",
            "price": "float",
            "stock": "int",
            "category": "strings",
            "colour": "string",
            "new": "bool",
            "parent": "string",
        },
        thumbnails=thumbnails,
        about={"model": "tiny", "parent": "parent"},
    )
    rows = {
        "id": ["p/" + (INJECTED if number == 8 else str(number)) for number in numbers],
        "vector_text": list(texts),
        "vector_image": list(images),
        "vector_fused": list(normalize(texts + images)),
        "words": titles,
        "title": titles,
        "price": [None if number == 29 else 5.0 + number for number in numbers],
        "stock": [number % 4 for number in numbers],
        "category": [
            [KINDS[number // 6], "sale"] if number % 2 else [KINDS[number // 6]]
            for number in numbers
        ],
        "colour": [list(COLOURS)[number % 3] for number in numbers],
        "new": [number < 10 for number in numbers],
        "parent": [f"parent-{number // 3}" for number in numbers],
    }
    if thumbnails:
        rows["thumbnail"] = [jpeg(number) for number in numbers]
    store = create_store(str(folder), schema)
    store.upsert(pa.table(rows), fingerprint=embedder.fingerprint())
    store.build()
    return store


def jpeg(number: int) -> bytes:
    """The thumbnail of product `number`."""
    buffer = io.BytesIO()
    image(number).save(buffer, "JPEG")
    return buffer.getvalue()
