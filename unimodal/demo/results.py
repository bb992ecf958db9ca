"""Search the demo's catalogue in the four directions, for the page. The queries are random."""

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
PAGE_IMAGE = 224  # pixels: the page shows the products larger than the model sees them


class Result(NamedTuple):
    """One product that was found, shown by its image or, if `image` is None, by its texts."""

    image: Image.Image | None
    title: str
    text: str
    price: float
    similarity: float
    right: bool
    shared: tuple[
        str, ...
    ]  # which of kind, colour and pattern the right product has too


class ResultGroup(NamedTuple):
    """One query, as text or as an image, and the best of what was found."""

    direction: str  # such as "text → image"
    query: str | Image.Image
    results: list[Result]
    right_rank: int  # of the right product among all, from 1


class Collection(NamedTuple):
    """Products with the vectors of one side of them."""

    products: Sequence[Product]
    vectors: Vectors  # (N, D)
    has_images: bool  # whether results are shown by their images


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
    size: of the catalogue's images. An image that searches images is a new drawing of a product
        (another scene, another angle): the catalogue's own image would find itself first.
    """
    rng = random.Random(f"{seed} queries")
    chosen = _choose(products, 4 * num_queries, rng)
    turns = [
        chosen[start : start + num_queries]
        for start in range(0, 4 * num_queries, num_queries)
    ]
    images = Collection(products, image_vectors, has_images=True)
    texts = Collection(products, text_vectors, has_images=False)
    return [
        *_search_by_text("text → image", turns[0], images, encode),
        *_search_by_image("image → text", turns[1], texts, image_vectors),
        *_search_by_drawing("image → image", turns[2], images, encode, size, rng),
        *_search_by_text("text → text", turns[3], texts, encode),
    ]


def _search_by_text(
    direction: str, indices: Sequence[int], collection: Collection, encode: Encode
) -> list[ResultGroup]:
    queries = [collection.products[index].query for index in indices]
    vectors = encode(list(queries))
    return [
        _search(direction, query, index, vector, collection)
        for query, index, vector in zip(queries, indices, vectors, strict=True)
    ]


def _search_by_image(
    direction: str,
    indices: Sequence[int],
    collection: Collection,
    image_vectors: Vectors,
) -> list[ResultGroup]:
    groups = []
    for index in indices:
        image = draw_product(collection.products[index].look, PAGE_IMAGE)
        group = _search(direction, image, index, image_vectors[index], collection)
        groups.append(group)
    return groups


def _search_by_drawing(
    direction: str,
    indices: Sequence[int],
    collection: Collection,
    encode: Encode,
    size: int,
    rng: random.Random,
) -> list[ResultGroup]:
    drawings = [_draw_again(collection.products[index], rng) for index in indices]
    vectors = _encode_drawings(drawings, encode, size)
    groups = []
    for index, drawing, vector in zip(indices, drawings, vectors, strict=True):
        image = draw_product(drawing.look, PAGE_IMAGE)
        groups.append(_search(direction, image, index, vector, collection))
    return groups


def _choose(products: Sequence[Product], count: int, rng: random.Random) -> list[int]:
    """Indices of `count` random products, of different kinds while there are kinds left."""
    order = rng.sample(range(len(products)), len(products))
    first_of_kind = {products[index].kind: index for index in reversed(order)}
    rest = [index for index in order if first_of_kind[products[index].kind] != index]
    different = sorted(first_of_kind.values(), key=order.index)
    return (different + rest)[:count]


def _draw_again(product: Product, rng: random.Random) -> Product:
    """The product in another scene and from another angle."""
    elsewhere = rng.choice([scene for scene in SCENES if scene != product.background])
    return replace(product, background=elsewhere, seed=rng.randrange(2**31))


def _encode_drawings(drawings: Sequence[Product], encode: Encode, size: int) -> Vectors:
    """The vectors of drawings that go through files, as the catalogue's images do."""
    with tempfile.TemporaryDirectory() as folder:
        paths: list[str | Path] = []
        for number, product in enumerate(drawings):
            path = Path(folder) / f"{number}.jpg"
            save_image(product.look, path, size)
            paths.append(path)
        return encode(paths)


def _search(
    direction: str,
    query: str | Image.Image,
    index: int,
    vector: Vectors,
    collection: Collection,
) -> ResultGroup:
    """The products nearest to a vector (D,). index: the right product."""
    similarities = collection.vectors @ vector  # (N,)
    order = np.argsort(-similarities, kind="stable")
    wanted = collection.products[index]
    results = []
    for position in order[: 5 if collection.has_images else 3]:
        product = collection.products[position]
        image = None
        if collection.has_images:
            image = draw_product(product.look, PAGE_IMAGE)
        result = Result(
            image=image,
            title=product.title,
            text=product.description,
            price=product.price,
            similarity=float(similarities[position]),
            right=bool(position == index),
            shared=_shared(wanted, product),
        )
        results.append(result)
    right_rank = 1 + int(np.flatnonzero(order == index)[0])
    return ResultGroup(direction, query, results, right_rank)


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
    chosen = _choose(products, count, random.Random("showcase"))
    return [
        (products[index].title, draw_product(products[index].look, size))
        for index in chosen
    ]
