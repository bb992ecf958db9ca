"""Hits and single items of a store as JSON."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ...search.filters.tree import Compare, Predicate
from ...search.query.fusion import RankedHit
from ...search.stores.base import VectorStore
from ...search.stores.schema import Schema, fields_to_show
from .errors import ApiError

UNRANKED = {"score": None, "cosine": None, "vector": "", "more": 0}


def first_rows(
    store: VectorStore, where: Predicate | None, k: int, fields: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Up to k items that the filter keeps, in no order and without a score.

    This is what a page shows before anybody searches.
    """
    columns = ["id", *fields_to_show(store.schema, fields)]
    batches = store.scan(where=where, columns=columns, batch=k)
    rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
    return [
        {**row_as_json(row, store.schema), **UNRANKED}
        for row in itertools.islice(rows, k)
    ]


def hit_as_json(hit: RankedHit, schema: Schema) -> dict[str, Any]:
    """A hit with the path of its thumbnail."""
    return {
        "id": hit.id,
        "score": hit.score,
        "cosine": hit.cosine,
        "vector": hit.vector,
        "more": hit.more,
        "fields": hit.fields,
        "thumbnail": thumbnail_path(hit.id, schema),
    }


def one_row(store: VectorStore, id: str, columns: Sequence[str]) -> dict[str, Any]:
    """The columns of the item with this id; raises ApiError with 404 if it does not exist."""
    for batch in store.scan(where=Compare("id", "=", id), columns=columns, batch=1):
        for row in batch.to_pylist():
            return dict(row)
    raise ApiError(404, f"item {id[:200]!r} does not exist; /v1/search returns ids.")


def row_as_json(row: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """A row of the store as JSON."""
    return {
        "id": row["id"],
        "fields": {name: row[name] for name in schema.fields if name in row},
        "thumbnail": thumbnail_path(row["id"], schema),
    }


def thumbnail_path(id: str, schema: Schema) -> str | None:
    """The path of an item's thumbnail; an id may be a path itself, or any other text."""
    return f"/v1/thumbnails/{quote(id, safe='')}" if schema.thumbnails else None
