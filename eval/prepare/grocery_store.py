"""Klasson et al. (2019), "A Hierarchical Grocery Store Image Dataset": 81 products and photos of
them in shops.
"""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .images import shrink, write_rows

# The maximum per product; the larger classes have 60 and more.
_PHOTOS = {"train": 20, "val": 1_000_000, "test": 15}


def convert_grocery_store(source: Path, target: Path) -> None:
    """dataset/ -> products.jsonl with iconic images (224 pixels), and photos.jsonl with photos
    (112 pixels).
    """
    dataset = source / "dataset"
    with (dataset / "classes.csv").open(encoding="utf-8", newline="") as file:
        classes = list(csv.DictReader(file))
    products = [_product(row, dataset, target) for row in classes]
    photos: list[dict[str, Any]] = []
    for split in _PHOTOS:
        photos += _photos(split, dataset, target)
    write_rows(target / "products.jsonl", products)
    write_rows(target / "photos.jsonl", photos)
    shutil.copy(source / "LICENSE", target / "LICENSE.MIT.txt")


def _product(row: dict[str, str], dataset: Path, target: Path) -> dict[str, Any]:
    number = int(row["Class ID (int)"])
    description = dataset / row["Product Description Path (str)"].lstrip("/")
    name = description.name.replace("_Description", "_Information")
    iconic = f"images/iconic_{number:02d}.jpg"
    shrink(dataset / row["Iconic Image Path (str)"].lstrip("/"), target / iconic, 224)
    return {
        "id": number,
        "name": row["Class Name (str)"].replace("-", " "),
        "coarse": row["Coarse Class Name (str)"].replace("-", " "),
        "title": _title(description.with_name(name)),
        "description": " ".join(description.read_text(encoding="utf-8").split()),
        "iconic": iconic,
    }


def _title(file: Path) -> str:
    if not file.is_file():
        return ""
    match = re.search(r"Title:\s*(.*)", file.read_text(encoding="utf-8"))
    return match[1].strip() if match else ""


def _photos(split: str, dataset: Path, target: Path) -> Iterator[dict[str, Any]]:
    counts: Counter[str] = Counter()
    for line in (dataset / f"{split}.txt").read_text(encoding="utf-8").splitlines():
        path, product, _ = (part.strip() for part in line.split(","))
        counts[product] += 1
        if counts[product] <= _PHOTOS[split]:
            image = f"images/{split}_{Path(path).name}"
            shrink(dataset / path, target / image, 112, quality=80)
            yield {"image": image, "product": int(product), "split": split}
