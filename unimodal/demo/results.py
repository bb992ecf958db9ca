"""Search the demo's catalogue in the four directions, for the page: the queries are drawn by lot,
not chosen.
"""

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..vectors import Vectors
from .catalogue import Product, save_image
from .draw import draw_product
from .words import SCENES

Encode = Callable[[list[str | Path]], Vectors]
PAGE_IMAGE = (
    224  # pixels: the page shows the products drawn larger than the model sees them
)


class Result(NamedTuple):
    """One product that was found; it is shown by its image, or by its texts where `image` is
    None.
    """

    image: Image.Image | None
    title: str
    text: str
    price: float
    similarity: float
    right: bool
    shared: tuple[
        str, ...
    ]  # which of kind, colour and pattern it has in common with what was asked for


class ResultGroup(NamedTuple):
    """One query, as text or as an image, and the best of what was found."""

    direction: str  # such as "text → image"
    query: str | Image.Image
    results: list[Result]
    right_rank: int  # of the right product among all, from 1


def build_groups(
    products: Sequence[Product],
    image_vectors: Vectors,
    text_vectors: Vectors,
    encode: Encode,
    *,
    num_queries: int = 3,
    size: int = 96,
    seed: int = 0,
) -> list[ResultGroup]:
    """`num_queries` queries for each direction, and what was found among the products.

    image_vectors, text_vectors: (N, D) unit vectors of the products' images and descriptions.
    encode: unit vectors (n, D) of texts and of images' paths.
    size: of the catalogue's images. An image that looks for images is a new drawing of a
    product (another scene, another angle): with the catalogue's own image, the first answer would
    be the query itself.
    """
    rng = random.Random(f"{seed} queries")
    chosen = _by_lot(products, 4 * num_queries, rng)
    turns = [
        chosen[start : start + num_queries]
        for start in range(0, 4 * num_queries, num_queries)
    ]
    groups = []
    for index, vector in zip(
        turns[0], encode([products[index].query for index in turns[0]]), strict=True
    ):
        groups.append(
            _group(
                "text → image",
                products[index].query,
                index,
                vector,
                products,
                image_vectors,
                True,
            )
        )
    for index in turns[1]:
        shown = draw_product(products[index].look, PAGE_IMAGE)
        groups.append(
            _group(
                "image → text",
                shown,
                index,
                image_vectors[index],
                products,
                text_vectors,
                False,
            )
        )
    again = [_drawn_again(products[index], rng) for index in turns[2]]
    for index, product, vector in zip(
        turns[2], again, _encode_drawings(again, encode, size), strict=True
    ):
        shown = draw_product(product.look, PAGE_IMAGE)
        groups.append(
            _group(
                "image → image",
                shown,
                index,
                vector,
                products,
                image_vectors,
                True,
            )
        )
    for index, vector in zip(
        turns[3], encode([products[index].query for index in turns[3]]), strict=True
    ):
        groups.append(
            _group(
                "text → text",
                products[index].query,
                index,
                vector,
                products,
                text_vectors,
                False,
            )
        )
    return groups


def _by_lot(products: Sequence[Product], count: int, rng: random.Random) -> list[int]:
    """Indices of `count` products; of different kinds as long as there are enough kinds."""
    order = rng.sample(range(len(products)), len(products))
    first_of_kind = {products[index].kind: index for index in reversed(order)}
    rest = [index for index in order if first_of_kind[products[index].kind] != index]
    return (sorted(first_of_kind.values(), key=order.index) + rest)[:count]


def _drawn_again(product: Product, rng: random.Random) -> Product:
    elsewhere = rng.choice([scene for scene in SCENES if scene != product.background])
    return replace(product, background=elsewhere, seed=rng.randrange(2**31))


def _encode_drawings(drawings: Sequence[Product], encode: Encode, size: int) -> Vectors:
    """Through files, as the catalogue's images went."""
    with tempfile.TemporaryDirectory() as folder:
        paths: list[str | Path] = []
        for number, product in enumerate(drawings):
            path = Path(folder) / f"{number}.jpg"
            save_image(product.look, path, size)
            paths.append(path)
        return encode(paths)


def _group(
    direction: str,
    query: str | Image.Image,
    index: int,
    vector: Vectors,
    products: Sequence[Product],
    vectors: Vectors,
    with_images: bool,
) -> ResultGroup:
    similarities = vectors @ vector  # (N,)
    order = np.argsort(-similarities, kind="stable")
    results = []
    for found in order[: 5 if with_images else 3]:
        product = products[found]
        results.append(
            Result(
                image=draw_product(product.look, PAGE_IMAGE) if with_images else None,
                title=product.title,
                text=product.description,
                price=product.price,
                similarity=float(similarities[found]),
                right=bool(found == index),
                shared=_shared(products[index], product),
            )
        )
    return ResultGroup(
        direction, query, results, 1 + int(np.flatnonzero(order == index)[0])
    )


def _shared(wanted: Product, found: Product) -> tuple[str, ...]:
    return tuple(
        name
        for name in ("kind", "colour", "pattern")
        if getattr(wanted, name) == getattr(found, name)
    )


def draw_showcase(
    products: Sequence[Product], count: int = 24, size: int = 160
) -> list[tuple[str, Image.Image]]:
    """(title, image) of some products of as many kinds as possible, for the head of the page."""
    chosen = _by_lot(products, count, random.Random("showcase"))
    return [
        (products[index].title, draw_product(products[index].look, size))
        for index in chosen
    ]
