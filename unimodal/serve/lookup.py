"""From a request to the store and back: filters of a form, hits and single items as JSON."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ..search.predicate import And, Compare, In, Predicate, Value
from ..search.query import Query, find
from ..search.store import Schema, VectorStore


class Range(BaseModel):
    """Numbers from `low` to `high`, both included; either may be missing."""

    model_config = ConfigDict(extra="forbid")

    low: float | None = None
    high: float | None = None


def all_of(where: Predicate | None, filters: Mapping[str, Sequence[Value] | Range]) -> Predicate | None:
    """One filter that asks for both; a field with no wanted value, or a range with no end, asks for nothing."""
    parts: list[Predicate] = [] if where is None else [where]
    for field, wanted in filters.items():
        if not isinstance(wanted, Range):
            parts += [In(field, tuple(wanted))] if wanted else []
            continue
        if wanted.low is not None:
            parts.append(Compare(field, ">=", wanted.low))
        if wanted.high is not None:
            parts.append(Compare(field, "<=", wanted.high))
    return And(tuple(parts)) if len(parts) > 1 else next(iter(parts), None)


def find_or_list(
    store: VectorStore,
    query: Query,
    vectors: Sequence[NDArray[np.float32]],
    fingerprint: str,
    fields: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """The hits as JSON; a query of nothing lists the first items that its filter keeps, without a score."""
    if fields is not None:
        for name in fields:
            if name not in store.schema.fields:
                raise ValueError(f"fields: {name!r} is not a field of the store; it has {_names(store.schema)}.")
    if not (vectors or query.like):
        columns = ["id", *(store.schema.fields if fields is None else fields)]
        rows = itertools.chain.from_iterable(
            batch.to_pylist() for batch in store.scan(where=query.where, columns=columns, batch=query.k)
        )
        return [{**listed(row, store.schema), "score": None, "vector": ""} for row in itertools.islice(rows, query.k)]
    return [
        {
            "id": hit.id,
            "score": hit.score,
            "vector": hit.vector,
            "fields": {name: value for name, value in hit.fields.items() if fields is None or name in fields},
            "thumbnail": thumbnail_path(hit.id, store.schema),
        }
        for hit in find(store, query, vectors, fingerprint=fingerprint)
    ]


def one_row(store: VectorStore, id: str, columns: Sequence[str]) -> dict[str, Any]:
    """The columns of the item with this id; raises 404 where there is none."""
    for batch in store.scan(where=Compare("id", "=", id), columns=columns, batch=1):
        for row in batch.to_pylist():
            return dict(row)
    raise HTTPException(404, f"there is no item {id[:200]!r}.")


def listed(row: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """A row of the store as JSON."""
    fields = {name: row[name] for name in schema.fields if name in row}
    return {"id": row["id"], "fields": fields, "thumbnail": thumbnail_path(row["id"], schema)}


def thumbnail_path(id: str, schema: Schema) -> str | None:
    """Where the item's picture is; an id may be a path, or anything else."""
    return f"/v1/thumbnails/{quote(id, safe='')}" if schema.thumbnails else None


def _names(schema: Schema) -> str:
    return ", ".join(schema.fields) or "none"
