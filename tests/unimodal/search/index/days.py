"""A shop's exports over days: tables of ids and prices, and what a store has of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unimodal.config import parse_config
from unimodal.search.index.folder import read_inputs
from unimodal.search.index.inputs import default_folder
from unimodal.search.index.items import IndexConfig
from unimodal.search.index.run import Summary, index
from unimodal.search.stores.open import open_store

OPTIONS = {"text": "title", "fields": ["price:int"]}


def write_day(file: Path, prices: Mapping[str, int]) -> str:
    """A table with a product for each id."""
    rows = [
        {"id": id_, "title": f"a hat {id_}", "price": price}
        for id_, price in prices.items()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def config_of(name: str, **options: Any) -> IndexConfig:
    """How a day is indexed."""
    return parse_config(IndexConfig, {"input": name, **OPTIONS, **options})


def index_day(model: str, name: str, store: str, **options: Any) -> Summary:
    """Index a day's export; options: keys of the configuration, and `replace` and `overwrite`."""
    kept = {key: options.pop(key) for key in ("overwrite", "replace") if key in options}
    return index(model, config_of(name, **options), store, device="cpu", **kept)


def prices_in(store: str) -> dict[str, int]:
    """What a store has now."""
    opened = open_store(store)
    rows = [
        row
        for batch in opened.scan(columns=["id", "price"])
        for row in batch.to_pylist()
    ]
    opened.close()
    assert len(rows) == len({row["id"] for row in rows})
    return {row["id"]: row["price"] for row in rows}


def inputs_of(store: str) -> list[str]:
    """The names of a store's inputs, the oldest indexing first."""
    return [Path(one.input).name for one in read_inputs(default_folder(store))]
