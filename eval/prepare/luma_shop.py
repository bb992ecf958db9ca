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
    """-> products.jsonl and images/ (224 pixels). A product's sizes are one row, its colours are
    several.
    """
    rows = [*_clothes(source), *_gear(source)]
    for path in dict.fromkeys(path for row in rows for path in row["images"]):
        shrink(source / _IMAGES / path.lstrip("/"), target / _image(path), 224)
    write_rows(
        target / "products.jsonl",
        ({**row, "images": list(map(_image, row["images"]))} for row in rows),
    )
    shutil.copy(source / "LICENSE.txt", target / "LICENSE.OSL-3.0.txt")
    shutil.copy(source / "LICENSE_AFL.txt", target / "LICENSE.AFL-3.0.txt")


def _clothes(source: Path) -> Iterator[dict[str, Any]]:
    rows = _read(source / _CLOTHES)
    parents = {row["sku"]: row for row in rows if row["product_type"] == "configurable"}
    parent_of = {
        dict(part.split("=", 1) for part in variation.split(","))["sku"]: parent
        for parent, row in parents.items()
        for variation in row["configurable_variations"].split("|")
    }
    pictures: dict[
        tuple[str, str], dict[str, None]
    ] = {}  # of (parent, colour), in the order of the sizes
    for row in rows:
        if row["product_type"] == "simple":
            of_colour = pictures.setdefault(
                (parent_of[row["sku"]], _attributes(row)["color"]), {}
            )
            of_colour.update(
                dict.fromkeys(
                    filter(
                        None, [row["base_image"], *row["additional_images"].split(",")]
                    )
                )
            )
    for (sku, colour), images in pictures.items():
        parent = parents[sku]
        attributes = _attributes(parent)
        categories = [
            one.removeprefix("Default Category/")
            for one in parent["categories"].split(",")
        ]
        yield {
            "sku": f"{sku}-{colour}",
            "parent": sku,
            "title": html.unescape(parent["name"]),
            "color": colour,
            "category": [
                one
                for one in categories
                if one != "Default Category" and not one.startswith("Collections/")
            ],
            "description": _plain(parent["description"]),
            "attributes": {
                name: attributes[name] for name in _ATTRIBUTES if name in attributes
            },
            "price": parent["price"],
            "images": list(images),
        }


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
                    one: row[one].replace("\n", ", ")
                    for one in _ATTRIBUTES
                    if row.get(one)
                },
                "price": row["price"],
                "images": images[row["sku"]],
            }


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _attributes(row: dict[str, str]) -> dict[str, str]:
    """name=value,name=value: a value may have commas in it."""
    parts = re.split(r",(?=\w+=)", row["additional_attributes"])
    return dict(part.split("=", 1) for part in parts)


def _plain(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def _image(path: str) -> str:
    return f"images/{Path(path).name}"
