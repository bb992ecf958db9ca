"""The products of aws-samples/retail-demo-store: names and descriptions."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from .images import write_rows

_FIELDS = ("id", "name", "category", "style", "description", "gender_affinity", "price")


def convert_retail_demo_text(source: Path, target: Path) -> None:
    """src/products/data/products.yaml -> products.jsonl; a missing field is an empty text."""
    text = (source / "src/products/data/products.yaml").read_text(encoding="utf-8")
    products = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    rows = []
    for product in products:
        rows.append({name: str(product.get(name, "")) for name in _FIELDS})
    write_rows(target / "products.jsonl", rows)
    shutil.copy(source / "LICENSE", target / "LICENSE.MIT-0.txt")
