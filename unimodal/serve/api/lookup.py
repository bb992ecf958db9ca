"""From a request to the store and back: filters of a form, hits and single items as JSON."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import quote

from ...search.filters.check import And, Compare, In, Predicate, Value
from ...search.query.fusion import Found
from ...search.query.query import fields_to_show
from ...search.stores.base import Schema, VectorStore
from .errors import ApiError, shown

MOST_FILTERS = 100
MOST_VALUES = 1_000  # that one field may be filtered by
LONGEST_NAME = 1_000  # characters


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; either may be missing."""

    low: float | None = None
    high: float | None = None


Wanted: TypeAlias = "tuple[Value, ...] | Range"


def read_filters(filters: Any) -> dict[str, Wanted]:
    """A body's `filters`: field -> the values that are wanted, or a range; null is absent, and so
    asks for nothing.

    Raises ValueError with the field's name for the first that is neither. By hand, because what is
    read into one of several types is refused in the names of all of them.
    """
    if not isinstance(filters, Mapping):
        raise ValueError(
            "it is not an object; send {FIELD: [VALUE, ...]} or {FIELD: {low, high}}."
        )
    if len(filters) > MOST_FILTERS:  # counted before they are read
        raise ValueError(
            f"{len(filters)} fields are filtered by, and {MOST_FILTERS} may be; leave some out."
        )
    return {
        _name(field): _wanted(field, wanted)
        for field, wanted in filters.items()
        if wanted is not None
    }


def _name(field: str) -> str:
    if len(field) > LONGEST_NAME:
        raise ValueError(
            f"{field[:60]!r}… is longer than {LONGEST_NAME} characters, and so not a "
            "field; shorten it."
        )
    return field


def _wanted(field: str, wanted: Any) -> Wanted:
    if isinstance(wanted, Mapping):
        return _range(field, wanted)
    values = wanted if isinstance(wanted, list) else [wanted]
    if len(values) > MOST_VALUES:
        raise ValueError(
            f"{field[:60]!r} has {len(values)} wanted values, and {MOST_VALUES} may be; "
            "leave some out."
        )
    for value in values:
        if not isinstance(value, (str, int, float, bool)):
            raise ValueError(
                f"{field[:60]!r} is to be {shown(value)}; send a list of texts, numbers or truth values, or a range "
                '{"low": 5, "high": 20}.'
            )
    return tuple(values)


def _range(field: str, ends: Mapping[str, Any]) -> Range:
    for end, value in ends.items():
        if end not in ("low", "high"):
            raise ValueError(
                f'{field[:60]!r} has {end[:60]!r}; a range is {{"low": 5, "high": 20}}, '
                "both included."
            )
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float))
        ):
            raise ValueError(
                f"{field[:60]!r} has a range whose {end} is {shown(value)}; send a number."
            )
    return Range(ends.get("low"), ends.get("high"))


def all_of(where: Predicate | None, filters: Mapping[str, Wanted]) -> Predicate | None:
    """One filter that asks for both; an empty list of wanted values keeps nothing, a range with no
    end everything.
    """
    parts: list[Predicate] = [] if where is None else [where]
    for field, wanted in filters.items():
        if not isinstance(wanted, Range):
            parts.append(In(field, wanted))
            continue
        if wanted.low is not None:
            parts.append(Compare(field, ">=", wanted.low))
        if wanted.high is not None:
            parts.append(Compare(field, "<=", wanted.high))
    return And(tuple(parts)) if len(parts) > 1 else next(iter(parts), None)


def first_rows(
    store: VectorStore, where: Predicate | None, k: int, fields: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Up to k items that the filter keeps, in no order and without a score: what there is, before
    anything is asked.
    """
    names = fields_to_show(store.schema, fields)
    rows = itertools.chain.from_iterable(
        batch.to_pylist()
        for batch in store.scan(where=where, columns=["id", *names], batch=k)
    )
    unranked = {"score": None, "cosine": None, "vector": "", "more": 0}
    return [
        {**row_as_json(row, store.schema), **unranked}
        for row in itertools.islice(rows, k)
    ]


def hit_as_json(hit: Found, schema: Schema) -> dict[str, Any]:
    """A hit, with where its image is."""
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
    """The columns of the item with this id; raises 404 where there is none."""
    for batch in store.scan(where=Compare("id", "=", id), columns=columns, batch=1):
        for row in batch.to_pylist():
            return dict(row)
    raise ApiError(
        404,
        f"there is no item {id[:200]!r}; /v1/search gives the ids of those that are there.",
    )


def row_as_json(row: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    """A row of the store as JSON."""
    fields = {name: row[name] for name in schema.fields if name in row}
    return {
        "id": row["id"],
        "fields": fields,
        "thumbnail": thumbnail_path(row["id"], schema),
    }


def thumbnail_path(id: str, schema: Schema) -> str | None:
    """Where the item's image is; an id may be a path, or anything else."""
    return f"/v1/thumbnails/{quote(id, safe='')}" if schema.thumbnails else None
