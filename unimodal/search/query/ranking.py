"""One ranked list for a query: its vectors, a search for each kind of vector, and the merge.

D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unimodal.vectors import Vectors

from ..filters.tree import Compare
from ..stores.base import VectorStore
from ..stores.columns import vectors_of
from ..stores.hits import Hit
from ..stores.schema import Schema, vector_column
from .combine import combine_parts, move_away
from .fusion import (
    RankedHit,
    Standard,
    best_of_kinds,
    estimate_standards,
    fuse_by_rank,
)
from .query import Query

HYBRID_DEPTH = 100  # the shortest list that is fused by rank


@dataclass(frozen=True)
class QueryVectors:
    """The vectors of a query, and how the scores of several kinds compare."""

    by_kind: Mapping[str, Vectors]  # kind -> (D,)
    standards: Mapping[str, Standard]  # empty: cosines are compared as they are
    fingerprint: str  # of the model that made them

    @classmethod
    def of(
        cls, store: VectorStore, by_kind: Mapping[str, Vectors], fingerprint: str
    ) -> QueryVectors:
        """Vectors with the standards of this store, where it needs any."""
        standards: Mapping[str, Standard] = {}
        if len(by_kind) > 1 and not is_calibrated(store.schema):
            standards = estimate_standards(store, by_kind)
        return cls(by_kind, standards, fingerprint)


class RankedList(NamedTuple):
    """Hits, best first."""

    hits: list[RankedHit]
    is_complete: bool  # the store has no others


def rank_hits(
    store: VectorStore,
    query: Query,
    vectors: QueryVectors,
    depth: int,
    *,
    fields: Sequence[str],
    rounds: int = 0,
) -> RankedList:
    """At least `depth` hits, or all that the store has.

    rounds: how many lists of the same depth went before, whose hits the query's filter excludes.
    """
    deep = max(depth, HYBRID_DEPTH) if query.hybrid else depth
    if query.like:
        deep += 1  # an item finds itself
    lists = _search_kinds(store, query, vectors, deep, fields)
    # A list that ends early has all that the store has of its kind.
    is_complete = all(len(hits) < deep for hits in lists)
    hits = best_of_kinds(lists, vectors.standards)
    if not is_complete:
        hits = hits[:deep]  # what comes after may lack items that are deeper in a list
    if query.hybrid:
        by_text = store.search_full_text(
            query.text, deep, where=query.where, fields=fields
        )
        is_complete = is_complete and len(by_text) < deep
        hits = fuse_by_rank(hits, by_text, after=rounds * deep)
    return RankedList([hit for hit in hits if hit.id != query.like], is_complete)


def vectors_by_kind(
    store: VectorStore, query: Query, roles: Sequence[str], vectors: Sequence[Vectors]
) -> dict[str, Vectors]:
    """Which kinds of vectors to search, and with what: kind -> (D,).

    roles, vectors: "text", "image" or "negative", and the (D,) of each embedded part.
    """
    parts = dict(zip(roles, vectors, strict=True))
    negatives = [
        vector
        for role, vector in zip(roles, vectors, strict=True)
        if role == "negative"
    ]
    kinds = list(query.vectors) or _default_kinds(store.schema)
    images: Mapping[str, Vectors | None] = dict.fromkeys(kinds, parts.get("image"))
    if query.like:
        images = _vectors_of_item(store, query.like, kinds)

    by_kind = {}
    for kind, image in images.items():
        combined = combine_parts(parts.get("text"), image, query.weight)
        by_kind[kind] = move_away(combined, negatives, query.negative_weight)
    return by_kind


def is_calibrated(schema: Schema) -> bool:
    """Whether texts and images were centred, so that their cosines are comparable."""
    return schema.about.get("calibrated") == "true"


def _default_kinds(schema: Schema) -> list[str]:
    return ["fused"] if "fused" in schema.vectors else list(schema.vectors)


def _vectors_of_item(
    store: VectorStore, item: str, kinds: Sequence[str]
) -> dict[str, Vectors]:
    """The item's own vector of each kind, or another that it has: kind -> (D,)."""
    own = _stored_vectors(store, item)
    if own is None:
        raise ValueError(
            f"like: the store has no item {item!r}; give the id of one that is there."
        )
    if not own:
        raise ValueError(
            f"like: item {item!r} has no vector; give the id of one that has."
        )
    other = next(iter(own.values()))
    return {kind: own.get(kind, other) for kind in kinds}


def _stored_vectors(store: VectorStore, item: str) -> dict[str, Vectors] | None:
    """The vectors of an item that are not null, kind -> (D,); None without such an item."""
    columns = [vector_column(kind) for kind in store.schema.vectors]
    for batch in store.scan(where=Compare("id", "=", item), columns=columns):
        if not batch.num_rows:
            continue
        own = {}
        for kind in store.schema.vectors:
            column = batch.column(vector_column(kind))
            vectors, valid = vectors_of(column, store.schema.dim)
            if valid[0]:
                own[kind] = vectors[0]
        return own
    return None


def _search_kinds(
    store: VectorStore,
    query: Query,
    vectors: QueryVectors,
    depth: int,
    fields: Sequence[str],
) -> list[list[Hit]]:
    """One list for each kind of vector, without hits below the query's `min_score`."""
    lists = []
    for kind, vector in vectors.by_kind.items():
        (hits,) = store.search(
            vector[None],
            depth,
            fingerprint=vectors.fingerprint,
            vector=kind,
            where=query.where,
            fields=fields,
            coarse=query.coarse,
            candidates=query.candidates,
            exact=query.exact,
        )
        if query.min_score is not None:
            hits = [hit for hit in hits if hit.score >= query.min_score]
        lists.append(hits)
    return lists
