"""A store of 60 items that the tests of queries share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from tests.unimodal.search.stores.exact_store import ExactStore
from unimodal.search.filters.tree import Compare
from unimodal.search.query.fusion import RankedHit
from unimodal.search.query.query import Query
from unimodal.search.query.search import find
from unimodal.search.stores.base import VectorStore
from unimodal.search.stores.columns import fixed_size_list
from unimodal.search.stores.schema import Schema
from unimodal.vectors import Vectors, normalize

DIM = 24
NUM_ITEMS = 60
KINDS = ("text", "image", "fused")
WORDS = ["red ball", "green hat", "small cup", "old lamp", "wood table", "large shoe"]
# Items without that vector.
MISSING = {"text": range(0, 6), "image": range(50, 60), "fused": range(0)}
CHEAP = Compare("price", "<", 12)


def vectors_of(kind: str) -> Vectors:
    rng = np.random.default_rng(0)
    drawn = {name: normalize(rng.standard_normal((NUM_ITEMS, DIM))) for name in KINDS}
    return drawn[kind]


def store_with(
    kinds: tuple[str, ...] = KINDS, fingerprint: str = "model", **options: Any
) -> ExactStore:
    """60 items in 12 groups of 5; the last ten items have no group."""
    schema = Schema(
        dim=DIM,
        fingerprint=fingerprint,
        vectors=kinds,
        fields={"price": "float", "parent": "string", "colours": "strings"},
        words=True,
        prefix_dims=(8,),
        **options,
    )
    rows = range(NUM_ITEMS)
    columns: dict[str, Any] = {
        "id": [f"i{row:02}" for row in rows],
        "words": [f"{WORDS[row % 6]} {row}" for row in rows],
        "price": [float(row) for row in rows],
        "parent": [f"p{row // 5}" if row < 50 else None for row in rows],
        "colours": [["red"]] * NUM_ITEMS,
    }
    for kind in kinds:
        has_vector = ~np.isin(np.arange(NUM_ITEMS), list(MISSING[kind]))
        columns[f"vector_{kind}"] = fixed_size_list(vectors_of(kind), has_vector)
    store = ExactStore(schema)
    store.upsert(pa.table(columns), fingerprint=fingerprint)
    return store


def ids(hits: list[RankedHit]) -> list[str]:
    return [hit.id for hit in hits]


def nearest(
    kind: str, query: Vectors, k: int, without: tuple[str, ...] = ()
) -> list[str]:
    """The ids of the k nearest items by brute force."""
    scores = vectors_of(kind) @ query
    order = [f"i{row:02}" for row in np.argsort(-scores) if row not in MISSING[kind]]
    return [item for item in order if item not in without][:k]


def hits_of(
    store: VectorStore, query: Query, vectors: Vectors | tuple[()] = ()
) -> list[RankedHit]:
    return find(store, query, list(vectors), fingerprint="model")
