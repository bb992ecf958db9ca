"""From a request to the store and back: filters of a form, hits and single items as JSON."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from ..config import Config
from ..search.fusion import Found
from ..search.predicate import And, Compare, In, Predicate, Value
from ..search.store import Schema, VectorStore
from .errors import ApiError


class Range(Config):
    """Numbers from `low` to `high`, both included; either may be missing."""

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


def first_rows(
    store: VectorStore, where: Predicate | None, k: int, fields: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Up to k items that the filter keeps, in no order and without a score: what there is, before anything is asked."""
    names = list(store.schema.fields) if fields is None else list(fields)
    rows = itertools.chain.from_iterable(
        batch.to_pylist() for batch in store.scan(where=where, columns=["id", *names], batch=k)
    )
    unranked = {"score": None, "cosine": None, "vector": "", "more": 0}
    return [{**row_as_json(row, store.schema), **unranked} for row in itertools.islice(rows, k)]


def hit_as_json(hit: Found, schema: Schema) -> dict[str, Any]:
    """A hit, with where its picture is."""
    return {
        "id": hit.id, "score": hit.score, "cosine": hit.cosine, "vector": hit.vector, "more": hit.more,
        "fields": hit.fields, "thumbnail": thumbnail_path(hit.id, schema),
    }  # fmt: skip


def one_row(store: VectorStore, id: str, columns: Sequence[str]) -> dict[str, Any]:
    """The columns of the item with this id; raises 404 where there is none."""
    for batch in store.scan(where=Compare("id", "=", id), columns=columns, batch=1):
        for row in batch.to_pylist():
            return dict(row)
    raise ApiError(404, f"there is no item {id[:200]!r}; /v1/search gives the ids of those that are there.")


def row_as_json(row: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """A row of the store as JSON."""
    fields = {name: row[name] for name in schema.fields if name in row}
    return {"id": row["id"], "fields": fields, "thumbnail": thumbnail_path(row["id"], schema)}


def thumbnail_path(id: str, schema: Schema) -> str | None:
    """Where the item's picture is; an id may be a path, or anything else."""
    return f"/v1/thumbnails/{quote(id, safe='')}" if schema.thumbnails else None
