"""The clothes shop of magento/magento2-sample-data: products by colour, with their images."""

from __future__ import annotations

import csv
import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .images import shrink, write_rows

_CLOTHES = "app/code/Magento/ConfigurableSampleData/fixtures/products.csv"
_GEAR = "app/code/Magento/CatalogSampleData/fixtures/SimpleProduct"
_GEAR_TABLES = (
    "bags",
    "fitness_equipment",
    "fitness_equipment_ball",
    "fitness_equipment_strap",
    "watches",
)
_IMAGES = "pub/media/catalog/product"
_ATTRIBUTES = (
    "material",
    "style_general",
    "style_bottom",
    "style_bags",
    "activity",
    "gender",
    "pattern",
    "climate",
)


def convert_luma_shop(source: Path, target: Path) -> None:
    """-> products.jsonl and images/ (224 pixels).

    The sizes of a product are one row, its colours are several.
    """
    rows = [*_clothes(source), *_gear(source)]
    for path in dict.fromkeys(path for row in rows for path in row["images"]):
        shrink(source / _IMAGES / path.lstrip("/"), target / _image(path), 224)
    for row in rows:
        row["images"] = list(map(_image, row["images"]))
    write_rows(target / "products.jsonl", rows)
    shutil.copy(source / "LICENSE.txt", target / "LICENSE.OSL-3.0.txt")
    shutil.copy(source / "LICENSE_AFL.txt", target / "LICENSE.AFL-3.0.txt")


def _clothes(source: Path) -> Iterator[dict[str, Any]]:
    rows = _read(source / _CLOTHES)
    parents = {row["sku"]: row for row in rows if row["product_type"] == "configurable"}
    parent_of: dict[str, str] = {}
    for parent, row in parents.items():
        for variation in row["configurable_variations"].split("|"):
            parent_of[_pairs(variation.split(","))["sku"]] = parent

    # (parent, colour) -> images, in the order of the sizes
    images: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if row["product_type"] != "simple":
            continue
        key = (parent_of[row["sku"]], _attributes(row)["color"])
        paths = [row["base_image"], *row["additional_images"].split(",")]
        images.setdefault(key, {}).update(dict.fromkeys(filter(None, paths)))

    for (sku, colour), paths_of_colour in images.items():
        product = parents[sku]
        attributes = _attributes(product)
        yield {
            "sku": f"{sku}-{colour}",
            "parent": sku,
            "title": html.unescape(product["name"]),
            "color": colour,
            "category": _categories(product),
            "description": _plain(product["description"]),
            "attributes": {
                name: attributes[name] for name in _ATTRIBUTES if name in attributes
            },
            "price": product["price"],
            "images": list(paths_of_colour),
        }


def _categories(row: dict[str, str]) -> list[str]:
    categories = []
    for category in row["categories"].split(","):
        name = category.removeprefix("Default Category/")
        if name != "Default Category" and not name.startswith("Collections/"):
            categories.append(name)
    return categories


def _gear(source: Path) -> Iterator[dict[str, Any]]:
    images: dict[str, list[str]] = {}
    for table in sorted((source / _GEAR).glob("images_gear_*.csv")):
        for row in _read(table):
            images.setdefault(row["sku"], []).append(row["image"])
    for name in _GEAR_TABLES:
        for row in _read(source / _GEAR / f"products_gear_{name}.csv"):
            yield {
                "sku": row["sku"],
                "parent": row["sku"],
                "title": row["name"],
                "color": row.get("color") or None,
                "category": ["/".join(row["category"].split("\n")[:2])],
                "description": _plain(row["description"]),
                "attributes": {
                    attribute: row[attribute].replace("\n", ", ")
                    for attribute in _ATTRIBUTES
                    if row.get(attribute)
                },
                "price": row["price"],
                "images": images[row["sku"]],
            }


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _attributes(row: dict[str, str]) -> dict[str, str]:
    """name=value,name=value: a value may have commas in it."""
    return _pairs(re.split(r",(?=\w+=)", row["additional_attributes"]))


def _pairs(parts: list[str]) -> dict[str, str]:
    return dict(part.split("=", 1) for part in parts)


def _plain(text: str) -> str:
    without_tags = re.sub(r"<[^>]+>", " ", text)
    return " ".join(html.unescape(without_tags).split())


def _image(path: str) -> str:
    return f"images/{Path(path).name}"
