"""`/v1/search`: find items by words, an image, both, or an item that they should resemble.

A query's texts and image are embedded by the engine, in batches with those of other requests and
within the same limits. The store is then searched in a thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, field_validator

from ...config import nearest
from ...embedder import Item
from ...search.filters.parser import parse_where
from ...search.filters.tree import Predicate
from ...search.query.query import Query as StoreQuery
from ...search.query.query import check_query
from ...search.query.query import inputs_of as query_inputs
from ...search.query.search import find
from ...search.stores.base import VectorStore
from ..engine.engine import Engine
from ..engine.errors import TooLargeError
from ..engine.jobs import Failed
from ..served_store import ServedStore
from .body import Body
from .body_route import BodyRoute
from .errors import ApiError
from .form_filters import FILTERS_SCHEMA, join_filters, read_filters
from .inputs import Fetch, read_image, refuse_image_as_text
from .responses import json_response
from .rows import first_rows, hit_as_json

Text = Annotated[str, Field(max_length=10_000)]
Name = Annotated[str, Field(max_length=1_000)]
SYNONYMS = {  # what other services and the command line call a key of the body
    "query": "text",
    "q": "text",
    "without": "negatives",
    "filter": "where",
    "limit": "k",
    "top_k": "k",
    "topK": "k",
    "size": "k",
}
LINK_KEYS = ("q", "like", "where", "k", "hybrid", "group_by")
QUERY_KEYS = (  # that have a meaning only beside text, image or like
    "weight",
    "negatives",
    "negative_weight",
    "vectors",
    "hybrid",
    "group_by",
    "coarse",
    "candidates",
    "exact",
    "min_score",
)


class SearchBody(Body):
    """A query: words, an image, both, or an item to find similar ones; nothing lists items."""

    synonyms: ClassVar[Mapping[str, str]] = SYNONYMS
    # no other service has this body, so an unknown key is a mistake
    ignores_unknown: ClassVar[bool] = False

    text: Text = ""
    image: str = Field(
        "",
        description="A data URI or base64; an https URL where the server allows its host.",
    )
    weight: float = Field(
        0.5, ge=0, le=1, description="The image's share beside the words."
    )
    negatives: list[Text] = Field(
        [], max_length=16, fail_fast=True, description="Steer away from these words."
    )
    negative_weight: float = Field(0.5, ge=0, le=1)
    like: Name = Field("", description="Find items similar to the item with this id.")
    where: Text = Field(
        "", description="A filter, for example: price < 50 and category = 'Bags'"
    )
    filters: Annotated[
        dict[str, Any], BeforeValidator(read_filters), WithJsonSchema(FILTERS_SCHEMA)
    ] = Field(
        {},
        description="A filter as a form sends it: a field's wanted values (an empty list keeps "
        "nothing), or a range of numbers, both ends included.",
    )
    k: int = Field(10, ge=1)
    vectors: list[Name] = Field(
        [],
        max_length=16,
        fail_fast=True,
        description="Which of the items' vectors to compare; none: the best choice.",
    )
    hybrid: bool = Field(
        False, description="Add full-text search, merged by reciprocal rank."
    )
    group_by: Name = Field(
        "", description="A field: find the best item for each of its values."
    )
    coarse: Name = Field("", description='A first pass: "prefix:256" or "binary".')
    candidates: int = Field(0, ge=0, le=100_000)
    exact: bool = False
    min_score: float | None = Field(None, ge=-1, le=1)
    fields: Annotated[list[Name], Field(max_length=100, fail_fast=True)] | None = Field(
        None, description="Which fields the hits contain; none: all."
    )

    @field_validator("text", "negatives")
    @classmethod
    def _check_words(cls, value: Any) -> Any:
        texts = [value] if isinstance(value, str) else value
        for text in texts:
            refuse_image_as_text(text)
        return value


class Found(BaseModel):
    """A hit."""

    id: str
    score: float | None = Field(
        description="The hits are ordered by it: the cosine, or the standardized or fused score of "
        "several lists."
    )
    cosine: float | None = Field(
        description="Cosine similarity with the item's nearest vector."
    )
    vector: str = Field(description="Which of the item's vectors was nearest.")
    fields: dict[str, Any]
    more: int = Field(
        description="Further items of the same group, where hits are grouped."
    )
    thumbnail: str | None = Field(description="The path of its thumbnail.")


class Took(BaseModel):
    """Milliseconds."""

    embed: float
    search: float


class SearchResult(BaseModel):
    """The hits, best first, and how long the search took."""

    hits: list[Found]
    count: int = Field(description="The number of hits.")
    took_ms: Took


def search_router(engine: Engine, served: ServedStore) -> APIRouter:
    """/v1/search, with a body or as a link."""
    router = APIRouter(tags=["search"], route_class=BodyRoute)

    @router.post("/v1/search", response_model=SearchResult)
    async def search(body: SearchBody, request: Request) -> Response:
        return await search_store(body, engine, served, request)

    @router.get("/v1/search", response_model=SearchResult)
    async def search_by_link(
        request: Request,
        q: Text = "",
        like: Name = "",
        where: Text = "",
        k: Annotated[int, Query(ge=1)] = 10,
        hybrid: bool = False,
        group_by: Name = "",
    ) -> Response:
        _check_link_keys(request)
        with refusals_as_400():
            refuse_image_as_text(q)
        body = SearchBody(
            text=q, like=like, where=where, k=k, hybrid=hybrid, group_by=group_by
        )
        return await search_store(body, engine, served, request)

    return router


def _check_link_keys(request: Request) -> None:
    for key in request.query_params:
        if key not in LINK_KEYS:
            raise ApiError(
                400,
                f"unknown key {key[:60]!r}; {nearest(key, LINK_KEYS)}",
                code="unknown_parameter",
                param=key[:60],
            )


async def search_store(
    body: SearchBody, engine: Engine, served: ServedStore, request: Request
) -> Response:
    """The answer to a search."""
    max_hits = engine.config.max_hits
    if body.k > max_hits:
        raise ApiError(
            400,
            f"k {body.k} is more than {max_hits}, the most hits this server returns.",
            param="k",
        )
    started = time.perf_counter()
    schema = served.store.schema
    with refusals_as_400():
        where = parse_where(body.where) if body.where.strip() else None
        where = join_filters(where, body.filters)
        query = await make_query(body, where, engine, request.scope["fetch"])
        if query:
            check_query(schema, query)
    # Nothing is awaited between this line and the engine, which may get another model.
    fingerprint = served.fingerprint
    vectors = await embed_query(engine, query_inputs(query)) if query else []
    embedded = time.perf_counter()

    def read_hits(store: VectorStore) -> list[dict[str, Any]]:
        if query is None:
            return first_rows(store, where, body.k, body.fields)
        hits = find(store, query, vectors, fingerprint=fingerprint, fields=body.fields)
        return [hit_as_json(hit, store.schema) for hit in hits]

    hits = await served.run(read_hits)
    took = {
        "embed": 1e3 * (embedded - started),
        "search": 1e3 * (time.perf_counter() - embedded),
    }
    return json_response({"hits": hits, "count": len(hits), "took_ms": took})


async def make_query(
    body: SearchBody, where: Predicate | None, engine: Engine, fetch: Fetch
) -> StoreQuery | None:
    """The query of a body, with the bytes of its image.

    None for a body without text, image and like; keys that need a query are refused then.
    """
    text = body.text.strip()
    if not (text or body.image or body.like):
        _check_no_query_keys(body)
        return None
    return StoreQuery(
        text=text,
        image=await read_image(body.image, engine, fetch) if body.image else None,
        weight=body.weight,
        negatives=tuple(words for words in body.negatives if words.strip()),
        negative_weight=body.negative_weight,
        like=body.like,
        where=where,
        k=body.k,
        vectors=tuple(body.vectors),
        hybrid=body.hybrid,
        group_by=body.group_by,
        coarse=body.coarse,
        candidates=body.candidates,
        exact=body.exact,
        min_score=body.min_score,
    )


def _check_no_query_keys(body: SearchBody) -> None:
    for key in QUERY_KEYS:
        if getattr(body, key) != SearchBody.model_fields[key].default:
            raise ValueError(
                f"{key} belongs to a query; send text, image or like, or leave it out."
            )


async def embed_query(
    engine: Engine, inputs: Sequence[tuple[str, Item]]
) -> list[NDArray[np.float32]]:
    """The vectors of a query's inputs, by one call of the engine.

    inputs: pairs of role and content.

    Raises ApiError for an input that cannot be embedded.
    """
    if not inputs:
        return []
    prompt = engine.embedder.prompts.get("query", "")
    outcomes = await engine.embed([item for _, item in inputs], prompt=prompt)
    vectors = []
    for (role, _), outcome in zip(inputs, outcomes, strict=True):
        if isinstance(outcome, Failed):
            raise ApiError(outcome.status, f"{role}: {outcome.reason}")
        vectors.append(outcome.vector)
    return vectors


@contextmanager
def refusals_as_400() -> Iterator[None]:
    """Answer what the store or the filter's parser refuses with 400 and its message."""
    try:
        yield
    except ValueError as error:
        status = 413 if isinstance(error, TooLargeError) else 400
        raise ApiError(status, str(error)) from None
