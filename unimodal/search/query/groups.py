"""The best item of each value of a field, such as one product per brand."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from ..filters.tree import And, In, IsNull, Not, Or, Predicate, Value
from ..stores.base import VectorStore
from ..stores.hits import best_first
from .fusion import RankedHit
from .query import Query
from .ranking import RankedList

GROUP_DEPTH = 4  # items that a round fetches per group wanted


def best_groups(
    query: Query, look: Callable[[Query, int, int], RankedList]
) -> list[RankedHit]:
    """The best item of each of the k best groups, best first.

    look: ranks the hits of (a query, a depth, the number of earlier rounds). Each round excludes
    the groups of the rounds before, so that the items of a large group are not read again.
    """
    hits: list[RankedHit] = []
    exact = query.exact
    for rounds in count():
        rest = replace(query, where=_without_groups(query, hits), exact=exact)
        ranked = look(rest, GROUP_DEPTH * query.k, rounds)
        hits += best_of_groups(ranked.hits, query.group_by)
        if len(hits) >= query.k or (ranked.is_complete and exact):
            break
        # An approximate index may end a list early; the last round compares with every row.
        exact = exact or ranked.is_complete
    return sorted(hits, key=best_first)[: query.k]


def best_of_groups(hits: Iterable[RankedHit], field: str) -> list[RankedHit]:
    """The best item of each value of the field, in the order of the hits.

    An item without a value is its own group.
    """
    groups: dict[Hashable, RankedHit] = {}
    for hit in hits:
        value = hit.fields.get(field)
        key = ("item", hit.id) if value is None else ("group", value)
        groups.setdefault(key, hit)
    return list(groups.values())


def add_group_sizes(
    store: VectorStore, query: Query, hits: Sequence[RankedHit]
) -> list[RankedHit]:
    """The hits with `more`: how many other items of their group match the query's filter."""
    groups = [hit.fields[query.group_by] for hit in hits]
    values: tuple[Value, ...] = tuple(value for value in groups if value is not None)
    if not values:
        return list(hits)
    where: Predicate = In(query.group_by, values)
    if query.where is not None:
        where = And((query.where, where))

    counts: dict[Any, int] = {}
    for batch in store.scan(where=where, columns=[query.group_by]):
        for value in batch.column(query.group_by).to_pylist():
            counts[value] = counts.get(value, 0) + 1
    return [
        replace(hit, more=max(0, counts.get(group, 1) - 1))
        for hit, group in zip(hits, groups, strict=True)
    ]


def _without_groups(query: Query, hits: Sequence[RankedHit]) -> Predicate | None:
    """The query's filter, without the groups of these hits."""
    values = []
    ids = []
    for hit in hits:
        value = hit.fields[query.group_by]
        if value is None:
            ids.append(hit.id)  # a group of its own
        else:
            values.append(value)

    parts: list[Predicate] = []
    if query.where is not None:
        parts.append(query.where)
    if values:
        others = Not(In(query.group_by, tuple(values)))
        parts.append(Or((IsNull(query.group_by), others)))
    if ids:
        parts.append(Not(In("id", tuple(ids))))
    return And(tuple(parts)) if parts else None
