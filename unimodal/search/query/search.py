"""Search a store: by words, an image, both, or an item, with filters, negatives and groups.

    from unimodal import load
    from unimodal.search import Query, open_store, parse_where, search

    store = open_store("runs/shop")
    embedder = load("runs/model")
    where = parse_where("price < 50")
    query = Query(text="in red", image=Path("bag.jpg"), weight=0.7, where=where, k=5)
    for hit in search(store, embedder, query):
        print(hit.score, hit.id, hit.fields["title"])

Which of an item's vectors are compared, where the query does not name them:

    the store has      words, an image or both       like=ID
    fused              fused                         the item's own fused vector with fused
    text and image     both, merged into one list    the item's text vector with text, its image
                                                     vector with image
    one of them        that one                      the same kind

An item that lacks a kind queries it with another vector that it has: an image without words finds
texts, too.

Fused vectors are of one kind, and their cosines are compared as they are. Where most items have a
text or an image but not both, `vectors=("text", "image")` is the fairer list (see `fusion`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from unimodal.vectors import Vectors

from ..stores.base import VectorStore
from ..stores.schema import check_model, fields_to_show
from .fusion import RankedHit
from .groups import add_group_sizes, best_groups
from .query import Query, check_query, inputs_of
from .ranking import QueryVectors, RankedList, rank_hits, vectors_by_kind

if TYPE_CHECKING:
    from unimodal.embedder import Embedder


def search(
    store: VectorStore,
    embedder: Embedder,
    query: Query,
    *,
    fields: Sequence[str] | None = None,
) -> list[RankedHit]:
    """Search a store, best hits first; fields: those that hits carry, None: all."""
    return search_many(store, embedder, [query], fields=fields)[0]


def search_many(
    store: VectorStore,
    embedder: Embedder,
    queries: Sequence[Query],
    *,
    fields: Sequence[str] | None = None,
) -> list[list[RankedHit]]:
    """As `search`, for several queries: all are embedded at once."""
    fingerprint = embedder.fingerprint()
    check_model(store.schema, fingerprint)
    for query in queries:
        check_query(store.schema, query, fields)

    inputs = [inputs_of(query) for query in queries]
    items = [item for parts in inputs for _, item in parts]
    vectors: Iterator[Vectors] = iter(())
    if items:
        vectors = iter(embedder.encode_query(items))

    results = []
    for query, parts in zip(queries, inputs, strict=True):
        own = [next(vectors) for _ in parts]
        results.append(find(store, query, own, fingerprint=fingerprint, fields=fields))
    return results


def find(
    store: VectorStore,
    query: Query,
    vectors: Sequence[Vectors],
    *,
    fingerprint: str,
    fields: Sequence[str] | None = None,
) -> list[RankedHit]:
    """Search a store with a query whose parts are embedded, best hits first.

    vectors: (D,) of each of `inputs_of(query)`. fingerprint: of the model that made them. fields:
        as for `search`.
    """
    check_query(store.schema, query, fields)
    roles = [role for role, _ in inputs_of(query)]
    by_kind = vectors_by_kind(store, query, roles, vectors)
    prepared = QueryVectors.of(store, by_kind, fingerprint)
    shown = fields_to_show(store.schema, fields)
    if not query.group_by:
        hits = rank_hits(store, query, prepared, query.k, fields=shown).hits
        return hits[: query.k]

    carried = shown if query.group_by in shown else [*shown, query.group_by]

    def look(rest: Query, depth: int, rounds: int) -> RankedList:
        return rank_hits(store, rest, prepared, depth, fields=carried, rounds=rounds)

    hits = add_group_sizes(store, query, best_groups(query, look))
    for row, hit in enumerate(hits):
        kept = {name: hit.fields[name] for name in shown}
        hits[row] = replace(hit, fields=kept)
    return hits
