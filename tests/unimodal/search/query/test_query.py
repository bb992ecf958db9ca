"""What to embed for a query, and which queries are refused."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from tests.unimodal.search.query.catalogue import (
    DIM,
    hits_of,
    store_with,
)
from tests.unimodal.search.stores.exact_store import ExactStore
from unimodal.embedder import Embedder
from unimodal.search.filters.tree import Compare
from unimodal.search.query.query import Query, inputs_of
from unimodal.search.query.search import search
from unimodal.search.stores.schema import Schema
from unimodal.vectors import Vectors


def test_words_image_and_each_negative_are_embedded(
    images: list[Image.Image],
) -> None:
    query = Query(text="a hat", image=images[0], negatives=("red", "wood"))
    assert inputs_of(query) == [
        ("text", "a hat"),
        ("image", images[0]),
        ("negative", "red"),
        ("negative", "wood"),
    ]
    assert inputs_of(Query(like="i01")) == []


@pytest.mark.parametrize(
    ("wrong", "fields", "message"),
    [
        ({"where": Compare("prise", "<", 5)}, None, "'price'"),
        (
            {"coarse": "prefix:99"},
            None,
            "coarse: the store has no copies 'prefix:99'; did you mean 'prefix:8'",
        ),
        ({"coarse": "binary"}, None, "coarse: the store has no copies 'binary'"),
        ({}, ["id"], "fields: the store has no field 'id'"),
        (
            {},
            ["colour"],
            "fields: the store has no field 'colour'; did you mean 'colours'",
        ),
    ],
)
def test_what_the_store_lacks_is_refused_before_anything_is_embedded(
    embedder: Embedder, wrong: dict[str, Any], fields: list[str] | None, message: str
) -> None:
    store = store_with(fingerprint=embedder.fingerprint())
    with pytest.raises(ValueError, match=message):
        search(store, embedder, Query(image=b"no image", **wrong), fields=fields)


def test_a_hybrid_search_of_a_store_without_words_is_refused(
    query_vector: Vectors,
) -> None:
    store = ExactStore(Schema(dim=DIM, fingerprint="model"))
    with pytest.raises(ValueError, match="hybrid: the store has no words"):
        hits_of(store, Query(text="a hat", hybrid=True), query_vector)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "the query is empty"),
        ({"text": "  "}, "the query is empty"),
        ({"negatives": ("red",)}, "the query is empty"),
        ({"image": b"", "like": "i01"}, "two queries"),
        ({"image": b"", "hybrid": True}, "hybrid: the query has no words"),
        ({"text": "a", "negatives": ("",)}, "hold an empty text"),
        ({"text": "a", "weight": 1.5}, "weight 1.5 is not between 0 and 1"),
        ({"text": "a", "negative_weight": -1}, "negative_weight -1 is not between"),
        ({"text": "a", "weight": float("nan")}, "weight nan is not between"),
        ({"text": "a", "min_score": float("nan")}, "min_score nan is not a cosine"),
        ({"text": "a", "min_score": 1.5}, "min_score 1.5 is not a cosine"),
        ({"text": "a", "k": 0}, "k 0 gives no hits"),
        (
            {"text": "a", "candidates": 50},
            "candidates 50 .*set coarse",
        ),
    ],
)
def test_a_query_that_contradicts_itself_is_refused(
    wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Query(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vectors": ("imag",)}, "no vector 'imag'; did you mean 'image'"),
        (
            {"group_by": "parents"},
            "group_by: the store has no field 'parents'; did you mean 'parent'",
        ),
        ({"group_by": "colours"}, "group_by: an item has several 'colours'"),
        ({"coarse": "binary"}, "binary"),
        ({"where": Compare("prise", "<", 5)}, "'price'"),
    ],
)
def test_what_the_store_lacks_is_refused(
    store: ExactStore, wrong: dict[str, Any], message: str, query_vector: Vectors
) -> None:
    with pytest.raises(ValueError, match=message):
        hits_of(store, Query(text="a hat", **wrong), query_vector)
