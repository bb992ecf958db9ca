"""Ask a store: by words, an image, both, or an item, with filters, negative words, full text and
groups.

    from unimodal.embedder import load
    from unimodal.search.filters.check import parse_where
    from unimodal.search.query.query import Query, search
    from unimodal.search.stores.base import open_store

    store, embedder = open_store("runs/shop"), load("runs/model") query = Query(text="in red",
    image=Path("bag.jpg"), weight=0.7, where=parse_where("price < 50"), k=5) for hit in
    search(store, embedder, query):
        print(hit.score, hit.id, hit.fields["title"])

Which of an item's vectors are compared, where the query does not say:

    the store has      words, an image, both of them          like=ID
    fused              fused                                   the item's own fused vector with fused
    text and image     both, merged into one list              its text vector with text, its image's with image
    one of them        that one                                the same kind

An item that lacks a kind asks it with another vector that it has: an image without words finds
    texts, too.

Fused vectors are of one kind, and their cosines are compared as they are: where most items have a
text or an image but not both, `vectors=("text", "image")` is the fairer list (see `fusion`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

from unimodal.config import nearest
from unimodal.embedder import Embedder, ImageInput, Item

from ..filters.check import And, Compare, In, IsNull, Not, Or, Predicate, Value, checked
from ..stores.base import Hit, VectorStore
from ..stores.columns import vectors_of
from ..stores.schema import ForeignModelError, Schema, vector_column
from .combine import Vector, moved_away, weighted
from .fusion import (
    Found,
    Standard,
    best_first,
    best_of_groups,
    best_of_kinds,
    fused_by_rank,
    standards_of,
)

HYBRID_DEPTH = 100  # each list that is fused by rank is at least so deep
GROUP_DEPTH = 4  # items that a round fetches for each group wanted


@dataclass(frozen=True)
class Query:
    """What to look for. Raises ValueError for what asks for nothing or contradicts itself."""

    text: str = ""
    image: ImageInput | None = None
    # the share of the image (or of the item `like`) where there are words too
    weight: float = 0.5
    negatives: Sequence[str] = ()  # words for what is not wanted
    negative_weight: float = 0.5
    like: str = ""  # the id of an item: more like this, without the item itself
    where: Predicate | None = None
    k: int = 10
    vectors: Sequence[
        str
    ] = ()  # kinds of vectors to search; (): as the table above says
    hybrid: bool = False  # the words by full text too, merged by reciprocal rank
    group_by: str = ""  # a field: the best item of each of its values
    # a first pass by shorter copies, "prefix:256" or "binary", re-ranked by whole vectors
    coarse: str = ""
    candidates: int = 0  # how many the first pass takes; 0: ten times k, at least 100
    exact: bool = False
    min_score: float | None = (
        None  # the least cosine; what full text finds beside is not bound by it
    )

    def __post_init__(self) -> None:
        if not self.text.strip() and self.image is None and not self.like:
            raise ValueError(
                "a query asks for nothing; give words, an image or the id of an item "
                "to find more like."
            )
        if self.image is not None and self.like:
            raise ValueError(
                f"an image and more like {self.like!r} are two queries; ask with one of them."
            )
        if self.hybrid and not self.text.strip():
            raise ValueError(
                "a hybrid search reads words, and the query has none; give some, or "
                "leave hybrid out."
            )
        if any(not words.strip() for words in self.negatives):
            raise ValueError(
                f"negatives {list(self.negatives)} hold an empty text; leave it out."
            )
        for name, share in (
            ("weight", self.weight),
            ("negative_weight", self.negative_weight),
        ):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} {share} is not between 0 and 1.")
        if self.min_score is not None and not -1 <= self.min_score <= 1:
            raise ValueError(
                f"min_score {self.min_score} is no cosine; give a number between -1 and 1."
            )
        if self.k < 1:
            raise ValueError(f"k {self.k} asks for no hits; ask for 1 or more.")
        if self.candidates and not self.coarse:
            raise ValueError(
                f"candidates {self.candidates} are of a first pass; set coarse, or leave it at 0."
            )


def inputs_of(query: Query) -> list[tuple[str, Item]]:
    """What has to be embedded, with the query prompt, as (role, item): text, image, then each
    negative.
    """
    parts: list[tuple[str, Item]] = [("text", query.text)] if query.text.strip() else []
    if query.image is not None:
        parts.append(("image", query.image))
    return parts + [("negative", words) for words in query.negatives]


def search(
    store: VectorStore,
    embedder: Embedder,
    query: Query,
    *,
    fields: Sequence[str] | None = None,
) -> list[Found]:
    """What the store has for a query, best first; fields: those that the hits
    carry, None is all.
    """
    return search_many(store, embedder, [query], fields=fields)[0]


def search_many(
    store: VectorStore,
    embedder: Embedder,
    queries: Sequence[Query],
    *,
    fields: Sequence[str] | None = None,
) -> list[list[Found]]:
    """As `search`; all queries are embedded at once, and the model is told apart
    from others once.
    """
    fingerprint = embedder.fingerprint()
    check_model(store.schema, fingerprint)
    for query in queries:
        check_query(store.schema, query, fields)
    inputs = [inputs_of(query) for query in queries]
    items = [item for parts in inputs for _, item in parts]
    vectors: Iterator[Vector] = (
        iter(embedder.encode_query(items)) if items else iter(())
    )
    return [
        find(
            store,
            query,
            [next(vectors) for _ in parts],
            fingerprint=fingerprint,
            fields=fields,
        )
        for query, parts in zip(queries, inputs, strict=True)
    ]


def check_model(schema: Schema, fingerprint: str) -> None:
    """Raises ValueError, with the model that the store wants, for a fingerprint of another one."""
    if fingerprint != schema.fingerprint:
        raise ForeignModelError(
            f"the store holds vectors of {schema.about.get('model') or 'another model'} "
            f"(fingerprint {schema.fingerprint}), and the query's model is another "
            f"({fingerprint}); load that one, or index again."
        )


def check_query(
    schema: Schema, query: Query, fields: Sequence[str] | None = None
) -> None:
    """Raises ValueError, before anything is embedded, for vectors, fields and words that the store
    has not.
    """
    fields_to_show(schema, fields)
    copies = [
        *(f"prefix:{dims}" for dims in schema.prefix_dims),
        *(["binary"] if schema.binary else []),
    ]
    if query.coarse and not copies:
        raise ValueError(
            f"coarse: the store has no copies {query.coarse!r}; index again with binary=true or "
            "prefix_dims=[DIMS], or leave coarse out."
        )
    if query.coarse and query.coarse not in copies:
        raise ValueError(
            f"coarse: the store has no copies {query.coarse!r}; {nearest(query.coarse, copies)}"
        )
    for kind in query.vectors:
        if kind not in schema.vectors:
            raise ValueError(
                f"the store has no vector {kind!r}; {nearest(kind, schema.vectors)}"
            )
    if query.where is not None:
        checked(query.where, schema)
    if query.hybrid and not schema.words:
        raise ValueError(
            "hybrid: the store keeps no words to search; index again with words, or "
            "leave hybrid out."
        )
    if query.group_by and query.group_by not in schema.fields:
        raise ValueError(
            f"group_by: the store has no field {query.group_by!r}; "
            f"{nearest(query.group_by, schema.fields)}"
        )
    if query.group_by and schema.fields[query.group_by] == "strings":
        raise ValueError(
            f"group_by: an item has several {query.group_by!r}; group by a field of one value."
        )


def fields_to_show(schema: Schema, fields: Sequence[str] | None) -> list[str]:
    """The fields that hits carry, each once; None is all. Raises ValueError for one that the store
    does not have.
    """
    if fields is None:
        return list(schema.fields)
    carried = [
        name
        for name in schema.item_columns
        if name != "id" and not name.startswith("vector_")
    ]
    for name in fields:
        if name not in carried:
            raise ValueError(
                f"fields: the store has no field {name!r}; {nearest(name, carried)}"
            )
    return list(dict.fromkeys(fields))


def find(
    store: VectorStore,
    query: Query,
    vectors: Sequence[Vector],
    *,
    fingerprint: str,
    fields: Sequence[str] | None = None,
) -> list[Found]:
    """What the store has for a query whose parts are embedded, best first.

    vectors: (D,) of each of `inputs_of(query)`. fingerprint: of the model that made them. fields:
        as for `search`.
    """
    check_query(store.schema, query, fields)
    asked = _asked(store, query, vectors)
    merged = len(asked) > 1 and not is_calibrated(store.schema)
    standards = standards_of(store, asked) if merged else {}
    names = fields_to_show(store.schema, fields)
    carried = names if query.group_by in ("", *names) else [*names, query.group_by]
    look = partial(
        _ranked,
        store,
        asked=asked,
        standards=standards,
        options={"fingerprint": fingerprint, "fields": carried},
    )
    if not query.group_by:
        return look(query, query.k)[0][: query.k]
    hits = _with_sizes(store, query, _best_groups(query, look))
    return [
        replace(hit, fields={name: hit.fields[name] for name in names}) for hit in hits
    ]


def _best_groups(
    query: Query, look: Callable[..., tuple[list[Found], bool]]
) -> list[Found]:
    """The best item of each of the k best groups, best first; look: `_ranked` of a query, a depth
    and earlier rounds.

    Each round leaves out the groups that were found before it, so that the items of a large one are
    not read again.
    """
    hits: list[Found] = []
    exact = query.exact
    for rounds in count():
        rest = replace(query, where=_but(query, hits), exact=exact)
        ranked, is_all = look(rest, GROUP_DEPTH * query.k, rounds=rounds)
        hits += best_of_groups(ranked, query.group_by)
        if len(hits) >= query.k or (is_all and exact):
            break
        exact = (
            exact or is_all
        )  # a list that ended early may be an approximate index's: the last word has every row
    return sorted(hits, key=best_first)[: query.k]


def _but(query: Query, hits: Sequence[Found]) -> Predicate | None:
    """The query's filter without the groups of these hits; an item without a value is a group of
    its own.
    """
    groups = tuple(
        hit.fields[query.group_by]
        for hit in hits
        if hit.fields[query.group_by] is not None
    )
    alone = tuple(hit.id for hit in hits if hit.fields[query.group_by] is None)
    parts = [query.where] if query.where is not None else []
    if groups:
        parts.append(Or((IsNull(query.group_by), Not(In(query.group_by, groups)))))
    if alone:
        parts.append(Not(In("id", alone)))
    return And(tuple(parts)) if parts else None


def is_calibrated(schema: Schema) -> bool:
    """Whether texts and images were centred, so that cosines of both are comparable."""
    return schema.about.get("calibrated") == "true"


def _asked(
    store: VectorStore, query: Query, vectors: Sequence[Vector]
) -> dict[str, Vector]:
    """Which kinds of vectors are searched, and with what: kind -> (D,)."""
    roles = [role for role, _ in inputs_of(query)]
    given = dict(zip(roles, vectors, strict=True))
    negatives = [
        vector
        for role, vector in zip(roles, vectors, strict=True)
        if role == "negative"
    ]
    kinds = list(query.vectors) or (
        ["fused"] if "fused" in store.schema.vectors else list(store.schema.vectors)
    )
    images: Mapping[str, Vector | None] = dict.fromkeys(kinds, given.get("image"))
    if query.like:
        images = _vectors_of_item(store, query.like, kinds)
    return {
        kind: moved_away(
            weighted(given.get("text"), picture, query.weight),
            negatives,
            query.negative_weight,
        )
        for kind, picture in images.items()
    }


def _vectors_of_item(
    store: VectorStore, item: str, kinds: Sequence[str]
) -> dict[str, Vector]:
    """What each of these kinds is asked with, kind -> (D,): the item's own vector of it, else
    another that it has.
    """
    there = store.schema.vectors
    for batch in store.scan(
        where=Compare("id", "=", item), columns=[vector_column(kind) for kind in there]
    ):
        if batch.num_rows:
            found = [
                vectors_of(batch.column(vector_column(kind)), store.schema.dim)
                for kind in there
            ]
            own = {
                kind: vectors[0]
                for kind, (vectors, valid) in zip(there, found, strict=True)
                if valid[0]
            }
            if not own:
                raise ValueError(
                    f"like: item {item!r} has no vector; give the id of one that has."
                )
            other = next(iter(own.values()))
            return {kind: own.get(kind, other) for kind in kinds}
    raise ValueError(
        f"like: the store has no item {item!r}; give the id of one that is there."
    )


def _ranked(
    store: VectorStore,
    query: Query,
    depth: int,
    *,
    asked: Mapping[str, Vector],
    standards: Mapping[str, Standard],
    options: Mapping[str, Any],
    rounds: int = 0,
) -> tuple[list[Found], bool]:
    """At least `depth` hits, best first, or all that the store has; and whether they are all.

    rounds: how many of the same depth went before this one, which the query's filter leaves out.
    """
    deep = max(depth, HYBRID_DEPTH) if query.hybrid else depth
    deep += bool(query.like)  # it finds itself
    options = {**options, "where": query.where}
    how: dict[str, Any] = {
        "coarse": query.coarse,
        "candidates": query.candidates,
        "exact": query.exact,
    }
    lists: list[list[Hit]] = [
        store.search(vector[None], deep, vector=kind, **options, **how)[0]
        for kind, vector in asked.items()
    ]
    is_all = all(len(hits) < deep for hits in lists)
    if query.min_score is not None:
        enough = [
            [hit for hit in hits if hit.score >= query.min_score] for hits in lists
        ]
        is_all = all(len(hits) < deep for hits in enough)
        lists = enough
    found = best_of_kinds(lists, standards)
    found = (
        found if is_all else found[:deep]
    )  # what comes after may lack items that stood too deep in every list
    if query.hybrid:
        by_words = store.search_words(
            query.text, deep, where=query.where, fields=options["fields"]
        )
        is_all = is_all and len(by_words) < deep
        found = fused_by_rank(found, by_words, after=rounds * deep)
    return [hit for hit in found if hit.id != query.like], is_all


def _with_sizes(store: VectorStore, query: Query, hits: Sequence[Found]) -> list[Found]:
    """Each with how many other items of its group the filter keeps."""
    groups = [hit.fields[query.group_by] for hit in hits]
    values: tuple[Value, ...] = tuple(value for value in groups if value is not None)
    if not values:
        return list(hits)
    same: Predicate = In(query.group_by, values)
    where = same if query.where is None else And((query.where, same))
    counts: dict[Any, int] = {}
    for batch in store.scan(where=where, columns=[query.group_by]):
        for value in batch.column(query.group_by).to_pylist():
            counts[value] = counts.get(value, 0) + 1
    return [
        replace(hit, more=max(0, counts.get(group, 1) - 1))
        for hit, group in zip(hits, groups, strict=True)
    ]
