"""A query: what to look for in a store, and whether the store can answer it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unimodal.inputs import ImageInput, Item

from ..filters.check import check_filter
from ..filters.tree import Predicate
from ..stores.schema import (
    Schema,
    check_coarse,
    check_full_text,
    check_group_by,
    check_vector,
    fields_to_show,
)


@dataclass(frozen=True)
class Query:
    """What to look for. Raises ValueError for one that is empty or contradicts itself."""

    text: str = ""
    image: ImageInput | None = None
    # The share of the image (or of the item `like`) where there are words too.
    weight: float = 0.5
    negatives: Sequence[str] = ()  # words for what is not wanted
    negative_weight: float = 0.5
    like: str = ""  # the id of an item: more like this, without the item itself
    where: Predicate | None = None
    k: int = 10
    # Kinds of vectors to search; (): as in the table of `unimodal.search.query.search`.
    vectors: Sequence[str] = ()
    hybrid: bool = False  # also search the words by full text, and merge by rank
    group_by: str = ""  # a field: return the best item of each of its values
    # A first pass by shorter copies, "prefix:256" or "binary", re-ranked by whole vectors.
    coarse: str = ""
    candidates: int = 0  # how many the first pass takes; 0: ten times k, at least 100
    exact: bool = False  # compare with every row, whatever the index
    # Minimum cosine similarity; it does not bind what full text adds.
    min_score: float | None = None

    def __post_init__(self) -> None:
        _check_parts(self)
        _check_numbers(self)


def inputs_of(query: Query) -> list[tuple[str, Item]]:
    """What to embed, with the query prompt, as (role, item): text, image, then each negative."""
    inputs: list[tuple[str, Item]] = []
    if query.text.strip():
        inputs.append(("text", query.text))
    if query.image is not None:
        inputs.append(("image", query.image))
    return inputs + [("negative", words) for words in query.negatives]


def check_query(
    schema: Schema, query: Query, fields: Sequence[str] | None = None
) -> None:
    """Raise ValueError, before anything is embedded, for what the store does not have."""
    fields_to_show(schema, fields)
    if query.coarse:
        check_coarse(schema, query.coarse)
    for kind in query.vectors:
        check_vector(schema, kind)
    if query.where is not None:
        check_filter(query.where, schema.fields)
    if query.hybrid:
        check_full_text(schema)
    if query.group_by:
        check_group_by(schema, query.group_by)


def _check_parts(query: Query) -> None:
    has_words = bool(query.text.strip())
    if not has_words and query.image is None and not query.like:
        raise ValueError(
            "the query is empty; give words, an image or the id of an item to find more like."
        )
    if query.image is not None and query.like:
        raise ValueError(
            f"an image and like={query.like!r} are two queries; use one of them."
        )
    if query.hybrid and not has_words:
        raise ValueError(
            "hybrid: the query has no words; give some, or leave hybrid out."
        )
    if any(not words.strip() for words in query.negatives):
        raise ValueError(
            f"negatives {list(query.negatives)} hold an empty text; leave it out."
        )


def _check_numbers(query: Query) -> None:
    for name in ("weight", "negative_weight"):
        share = getattr(query, name)
        if not 0 <= share <= 1:
            raise ValueError(f"{name} {share} is not between 0 and 1.")
    if query.min_score is not None and not -1 <= query.min_score <= 1:
        raise ValueError(
            f"min_score {query.min_score} is not a cosine; give a number between -1 and 1."
        )
    if query.k < 1:
        raise ValueError(f"k {query.k} gives no hits; give 1 or more.")
    if query.candidates and not query.coarse:
        raise ValueError(
            f"candidates {query.candidates} needs a first pass; set coarse, or leave it at 0."
        )
