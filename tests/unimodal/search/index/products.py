"""A table of ten products, and what a store has of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unimodal.config import parse_config
from unimodal.model_config import PreprocessConfig
from unimodal.search.index.inputs import default_folder
from unimodal.search.index.items import IndexConfig
from unimodal.search.index.plan import Plan
from unimodal.search.index.run import Summary, index
from unimodal.search.index.skipped import SKIPPED
from unimodal.search.stores.open import open_store
from unimodal.search.stores.schema import Schema

Catalogue = Callable[..., str]
NUM = 10


def run(model: str, name: str, store: Path, **options: Any) -> Summary:
    values = {
        "text": "title",
        "image": "photo",
        "fields": ["price"],
        "per_unit": 4,
        **options,
    }
    kept = {
        key: values.pop(key) for key in ("overwrite", "embeddings") if key in values
    }
    return index(
        model,
        parse_config(IndexConfig, {"input": name, **values}),
        str(store),
        device="cpu",
        **kept,
    )


def stored(store: Path) -> dict[str, dict[str, Any]]:
    opened = open_store(str(store))
    rows = [row for batch in opened.scan() for row in batch.to_pylist()]
    opened.close()
    return {row["id"]: row for row in rows}


def skipped(store: Path) -> list[dict[str, Any]]:
    file = default_folder(str(store)) / SKIPPED
    return (
        [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if file.is_file()
        else []
    )


def one_more_input(tmp_path: Path, **changes: Any) -> str:
    row = {"id": "q", "title": "a hat", "photo": None, "price": 3, **changes}
    (tmp_path / "other.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    return str(tmp_path / "other.jsonl")


def plan_of(folder: Path, rows: list[dict[str, Any]], **limits: int) -> Plan:
    """The plan to index rows of {id, title, tags}, which are written to `folder`."""
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )
    values = {
        "input": str(folder / "rows.jsonl"),
        "id": "id",
        "text": "title",
        "fields": ["tags"],
    }
    config = parse_config(IndexConfig, values)
    schema = Schema(
        dim=4,
        fingerprint="m",
        vectors=("text",),
        fields={"tags": "strings"},
        words=True,
    )
    return Plan(
        config, schema, folder, PreprocessConfig(), frozenset({"text"}), **limits
    )
