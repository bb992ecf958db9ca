"""Build the demo's catalogue: choose the products, write their texts, draw their images.

A product's identity is its (kind, colour, pattern). Every identity belongs to one split only. Test
products have one image each, so that exactly one image is right for a test text, and their texts
use held-out wordings. On disk:

    manifest.json                             how the catalogue was made
    images/*.jpg
    train.jsonl, val.jsonl, test.jsonl        one line per product: the fields of `Product`
    texts_train.jsonl                         {"query", "document"}: a query and its description
"""

import itertools
import json
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from ..files import part_of, sync, sync_tree
from ..progress import progress_bar
from . import sentences
from .draw import Look, draw_product
from .sentences import Subject
from .words import COLOURS, KINDS, PATTERNS, SCENES

VERSION = 1  # of the texts and drawings; a folder of another version is refused
SPLITS = ("train", "val", "test")
Identity = tuple[str, str, str]


@dataclass(frozen=True)
class Product:
    """One product: its image, its texts, and the attributes that both are made from."""

    id: str
    image: str  # relative to the catalogue's folder
    captions: list[str]
    title: str
    description: str
    query: str
    price: float
    category: str
    kind: str
    colour: str
    pattern: str
    material: str
    background: str
    seed: int  # of the drawing

    @property
    def identity(self) -> Identity:
        """What no two test products share."""
        return self.kind, self.colour, self.pattern

    @property
    def look(self) -> Look:
        """What `draw_product` needs to draw the product again, at any size."""
        return Look(
            self.kind,
            self.colour,
            self.pattern,
            self.material,
            self.background,
            self.seed,
        )


@dataclass(frozen=True)
class Catalogue:
    """A catalogue on disk, in numbers."""

    folder: Path
    seed: int
    size: int
    num_train: int
    num_val: int
    num_test: int
    num_texts: int


def build_catalogue(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 96,
    num_train: int = 4400,
    num_val: int = 192,
    num_test: int = 1024,
    workers: int | None = None,
) -> Catalogue:
    """Write the catalogue into `folder`, or find it there. The folder appears whole or not at all.

    size: of the images' sides, in pixels.
    workers: processes that draw; one per core by default. With 1, this process draws.
    """
    folder = Path(folder)
    counts = {"num_train": num_train, "num_val": num_val, "num_test": num_test}
    wanted = {"version": VERSION, "seed": seed, "size": size, **counts}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        return _open_catalogue(folder, wanted)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # unique: several processes may draw it at once, and the first to finish puts it in place.
    unfinished = part_of(folder, hidden=True, unique=True)
    unfinished.mkdir()
    try:
        splits = plan_products(
            seed=seed, num_train=num_train, num_val=num_val, num_test=num_test
        )
        texts = plan_texts(splits["train"], seed=seed)
        for split in SPLITS:
            _write_lines(
                unfinished / f"{split}.jsonl",
                [asdict(product) for product in splits[split]],
            )
        _write_lines(unfinished / "texts_train.jsonl", texts)
        _draw_all(
            [product for split in SPLITS for product in splits[split]],
            unfinished,
            size,
            workers,
        )
        (unfinished / "manifest.json").write_text(
            json.dumps({**wanted, "num_texts": len(texts)}, indent=1)
        )
        sync_tree(unfinished)
        try:
            unfinished.rename(folder)
        except OSError:  # another process has made it first
            return _open_catalogue(folder, wanted)
        sync(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return _open_catalogue(folder, wanted)


def _open_catalogue(folder: Path, wanted: dict[str, int]) -> Catalogue:
    """The catalogue in the folder; ValueError if it is not the one that is wanted."""
    manifest_path = folder / "manifest.json"
    if not manifest_path.is_file():
        raise ValueError(
            f"{folder} exists and is not a catalogue; delete it, or choose another folder."
        )
    manifest = json.loads(manifest_path.read_text())
    for key, value in wanted.items():
        if manifest.get(key) != value:
            raise ValueError(
                f"{folder} is a catalogue with {key} {manifest.get(key)}, not {value}; "
                "delete it, or choose another folder."
            )
    counts = {key: int(value) for key, value in manifest.items() if key != "version"}
    return Catalogue(folder=folder, **counts)


def plan_products(
    *, seed: int, num_train: int, num_val: int, num_test: int
) -> dict[str, list[Product]]:
    """The products of the three splits, without images. The same seed gives the same products."""
    identities = list(itertools.product(KINDS, COLOURS, PATTERNS))
    held_out = num_val + num_test
    if held_out >= len(identities):
        raise ValueError(
            f"num_val {num_val} + num_test {num_test} leave none of {len(identities)} "
            "combinations to train on; lower one of them."
        )
    random.Random(f"{seed} split").shuffle(identities)
    seen = itertools.cycle(identities[held_out:])
    chosen = {
        "val": identities[:num_val],
        "test": identities[num_val:held_out],
        "train": list(itertools.islice(seen, num_train)),
    }
    products = {}
    for split in SPLITS:
        products[split] = [
            plan_product(identity, split, number, seed)
            for number, identity in enumerate(chosen[split])
        ]
    return products


def plan_product(identity: Identity, split: str, number: int, seed: int) -> Product:
    """One product of the identity.

    Its material, scene, price and wordings are random by (seed, split, number).
    """
    product_id = f"{split}-{number:05d}"
    rng = random.Random(f"{seed} {product_id}")
    held_out = split != "train"
    kind, colour, pattern = identity
    low, high = KINDS[kind].price
    subject = Subject(
        kind,
        colour,
        pattern,
        rng.choice(KINDS[kind].materials),
        rng.choice(list(SCENES)),
        round(rng.randint(low, high) - 0.05, 2),
    )
    return Product(
        id=product_id,
        image=f"images/{product_id}.jpg",
        captions=sentences.captions(subject, 3 if held_out else 4, held_out, rng),
        title=sentences.title(subject, held_out, rng),
        description=sentences.description(subject, held_out, rng),
        query=sentences.query(subject, held_out, rng),
        price=subject.price,
        category=KINDS[kind].category,
        kind=kind,
        colour=colour,
        pattern=pattern,
        material=subject.material,
        background=subject.background,
        seed=rng.randrange(2**31),
    )


def plan_texts(
    products: Sequence[Product], *, seed: int, queries_each: int = 2
) -> list[dict[str, str]]:
    """Queries with their descriptions, all in training wordings; `queries_each` per product."""
    pairs = []
    for turn in range(queries_each):
        for product in products:
            rng = random.Random(f"{seed} {product.id} query {turn}")
            subject = Subject(
                *product.identity, product.material, product.background, product.price
            )
            document = product.description
            if turn > 0:
                document = sentences.description(subject, False, rng)
            query = sentences.query(subject, False, rng)
            pairs.append({"query": query, "document": document})
    return pairs


def _draw_all(
    products: Sequence[Product], folder: Path, size: int, workers: int | None
) -> None:
    (folder / "images").mkdir()
    workers = min(workers or os.cpu_count() or 1, 1 + len(products) // 100)
    looks = [product.look for product in products]
    paths = [folder / product.image for product in products]
    sizes = itertools.repeat(size)
    with progress_bar("drawing the catalogue", len(products)) as advance:
        if workers == 1:
            for done, _ in enumerate(map(save_image, looks, paths, sizes), start=1):
                advance(done)
            return
        # spawn: a forked process would inherit the locks of this process's threads
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            drawn = pool.map(save_image, looks, paths, sizes, chunksize=32)
            for done, _ in enumerate(drawn, start=1):
                advance(done)


def save_image(look: Look, path: Path, size: int) -> None:
    """Draw a product into a JPEG file."""
    draw_product(look, size).save(path, quality=92, subsampling=0)


def _write_lines(
    path: Path, rows: Sequence[dict[str, object]] | Sequence[dict[str, str]]
) -> None:
    with path.open("w", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_products(folder: Path, split: str) -> list[Product]:
    """The products of "train", "val" or "test"."""
    with (Path(folder) / f"{split}.jsonl").open(encoding="utf-8") as lines:
        return [Product(**json.loads(line)) for line in lines]


def read_texts(folder: Path) -> list[dict[str, str]]:
    """The rows {"query", "document"} to train on."""
    with (Path(folder) / "texts_train.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def training_texts(folder: Path) -> Iterator[str]:
    """Every text of the training split, to train a tokenizer on."""
    for product in read_products(folder, "train"):
        yield from (
            *product.captions,
            product.title,
            product.description,
            product.query,
        )
    for row in read_texts(folder):
        yield from (row["query"], row["document"])
