"""`/v1/search`, the items that it finds, and what the page has to know of the store.

A query's texts and image go through the engine, in batches with everybody's, under the same
guards; the store is then asked in a thread, and only so many requests may wait for one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, ClassVar

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, field_validator
from starlette.convertors import Convertor, register_url_convertor

from ...config import nearest
from ...embedder import Item
from ...search.filters.check import Predicate, parse_where
from ...search.query.query import Query as StoreQuery
from ...search.query.query import check_query, find, inputs_of
from ...search.stores.base import VectorStore
from ..config import ServeConfig
from ..engine.engine import Engine, Failed
from ..engine.images import TooLargeError
from ..engine.pool import Waiting
from ..served_store import UNREADABLE, ServedStore
from .bodies import Body
from .body_route import BodyRoute
from .embeddings import json_response, shown_name
from .errors import ApiError, UnavailableError
from .facets import Facet, Facets
from .inputs import Fetch, image_of, refuse_image_uri
from .lookup import all_of, first_rows, hit_as_json, one_row, read_filters, row_as_json

THREADS = 4  # that ask the store; Lance and numpy let go of the interpreter meanwhile
QUEUE = 256  # requests that wait for one of them
Text = Annotated[str, Field(max_length=10_000)]
Name = Annotated[str, Field(max_length=1_000)]
FILTERS = {  # as read_filters reads them
    "type": "object",
    "additionalProperties": {
        "anyOf": [
            {"type": "array", "items": {"type": ["string", "number", "boolean"]}},
            {
                "type": "object",
                "properties": {"low": {"type": "number"}, "high": {"type": "number"}},
            },
        ]
    },
}
OTHER_WORDS = {  # what other services and the command line call a key of the body
    "query": "text",
    "q": "text",
    "without": "negatives",
    "filter": "where",
    "limit": "k",
    "top_k": "k",
    "topK": "k",
    "size": "k",
}


class SearchBody(Body):
    """What to look for: words, an image, both, or an item like which others are wanted; nothing
    lists the store.
    """

    other_words: ClassVar[Mapping[str, str]] = OTHER_WORDS
    ignores_unknown: ClassVar[bool] = (
        False  # no other service has this body: a key that is unknown is a mistake
    )

    text: Text = ""
    image: str = Field(
        "",
        description="A data URI or base64; an https URL where the server allows its host.",
    )
    weight: float = Field(
        0.5, ge=0, le=1, description="The image's share, where there are words too."
    )
    negatives: list[Text] = Field(
        [], max_length=16, fail_fast=True, description="Words for what is not wanted."
    )
    negative_weight: float = Field(0.5, ge=0, le=1)
    like: Name = Field("", description="The id of an item: more like this.")
    where: Text = Field(
        "", description="A filter, such as: price < 50 and category = 'Bags'"
    )
    filters: Annotated[
        dict[str, Any], BeforeValidator(read_filters), WithJsonSchema(FILTERS)
    ] = Field(
        {},
        description="The same as a form gives it: a field's wanted values (an empty list keeps "
        "nothing), or the range of a number, both ends included.",
    )
    k: int = Field(10, ge=1)
    vectors: list[Name] = Field(
        [],
        max_length=16,
        fail_fast=True,
        description="Which of the items' vectors; none: the best choice.",
    )
    hybrid: bool = Field(
        False, description="Full-text search too, merged by reciprocal rank."
    )
    group_by: Name = Field(
        "", description="A field: the best item of each of its values."
    )
    coarse: Name = Field("", description='A first pass: "prefix:256" or "binary".')
    candidates: int = Field(0, ge=0, le=100_000)
    exact: bool = False
    min_score: float | None = Field(None, ge=-1, le=1)
    fields: Annotated[list[Name], Field(max_length=100, fail_fast=True)] | None = Field(
        None, description="Those that the hits carry; none: all."
    )

    @field_validator("text", "negatives")
    @classmethod
    def _are_words(cls, value: Any) -> Any:
        for text in [value] if isinstance(value, str) else value:
            refuse_image_uri(text)
        return value


LINK_KEYS = ("q", "like", "where", "k", "hybrid", "group_by")
OF_A_QUERY = (
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


class Found(BaseModel):
    """An item that was found, best first."""

    id: str
    score: float | None = Field(
        description="What the list is ordered by: the cosine, or the standardised or fused score of "
        "several lists."
    )
    cosine: float | None = Field(
        description="Cosine similarity with the vector that was nearest."
    )
    vector: str = Field(description="Which of the item's vectors was nearest.")
    fields: dict[str, Any]
    more: int = Field(
        description="Items of the same group beside it, where hits are grouped."
    )
    thumbnail: str | None = Field(description="Where its image is.")


class Took(BaseModel):
    """Milliseconds."""

    embed: float
    search: float


class SearchResult(BaseModel):
    """What was found, and how long it took."""

    hits: list[Found]
    count: int = Field(description="The number of hits.")
    took_ms: Took


class ItemResult(BaseModel):
    """One item of the store."""

    id: str
    fields: dict[str, Any]
    thumbnail: str | None


class StoreResult(BaseModel):
    """What there is to search."""

    model: str
    count: int
    vectors: list[str]
    words: bool = Field(
        description="Whether full-text search (`hybrid`) can be asked for."
    )
    modalities: list[str] = Field(
        description="What a query may be made of: text, image."
    )
    parent: str = Field(description="The field that groups items, or nothing.")
    max_k: int
    fields: list[Facet]


def search_router(engine: Engine, config: ServeConfig, store: VectorStore) -> APIRouter:
    """The routes for one store; raises ValueError if its vectors are another model's than the
    engine's.
    """
    threads = Waiting(THREADS, QUEUE)
    served = ServedStore(store, engine, config, threads)
    facets = Facets(lambda: served.store)

    @asynccontextmanager
    async def life(app: object) -> AsyncIterator[None]:
        facets.scan()  # of a large store they take a while
        async with threads.life(app), served.life():
            yield

    routes = APIRouter(tags=["search"], lifespan=life, route_class=BodyRoute)

    async def answer(body: SearchBody, request: Request) -> Response:
        if body.k > config.max_hits:
            raise ApiError(
                400,
                f"k {body.k} is more than {config.max_hits}, the most this server gives.",
                param="k",
            )
        started = time.perf_counter()
        schema = served.store.schema
        with refused_as_400():
            where = all_of(
                parse_where(body.where) if body.where.strip() else None, body.filters
            )
            query = await query_of(body, where, engine, request.scope["fetch"])
            if query:
                check_query(schema, query)
        fingerprint = (
            served.fingerprint
        )  # nothing is awaited between here and the engine, which may get another model
        vectors = await embed_query(engine, inputs_of(query)) if query else []
        embedded = time.perf_counter()

        def ask(store: VectorStore) -> list[dict[str, Any]]:
            if query is None:
                return first_rows(store, where, body.k, body.fields)
            found = find(
                store, query, vectors, fingerprint=fingerprint, fields=body.fields
            )
            return [hit_as_json(hit, store.schema) for hit in found]

        hits = await served.run(ask)
        took = {
            "embed": 1e3 * (embedded - started),
            "search": 1e3 * (time.perf_counter() - embedded),
        }
        return json_response({"hits": hits, "count": len(hits), "took_ms": took})

    @routes.post("/v1/search", response_model=SearchResult)
    async def search(body: SearchBody, request: Request) -> Response:
        return await answer(body, request)

    @routes.get("/v1/search", response_model=SearchResult)
    async def search_by_link(
        request: Request,
        q: Text = "",
        like: Name = "",
        where: Text = "",
        k: Annotated[int, Query(ge=1)] = 10,
        hybrid: bool = False,
        group_by: Name = "",
    ) -> Response:
        for key in request.query_params:
            if key not in LINK_KEYS:
                message = f"unknown key {key[:60]!r}; {nearest(key, LINK_KEYS)}"
                raise ApiError(400, message, code="unknown_parameter", param=key[:60])
        with refused_as_400():
            refuse_image_uri(q)
        body = SearchBody(
            text=q, like=like, where=where, k=k, hybrid=hybrid, group_by=group_by
        )
        return await answer(body, request)

    @routes.get("/v1/store", response_model=StoreResult)
    async def describe() -> Response:
        schema = served.store.schema
        try:
            count, fields = await facets.now()
        except Exception as error:
            await served.look()
            raise UnavailableError(
                engine.lifecycle.store_fault or UNREADABLE
            ) from error
        return json_response(
            {
                "model": shown_name(config),
                "count": count,
                "vectors": list(schema.vectors),
                "words": schema.words,
                "modalities": sorted(engine.embedder.modalities),
                "parent": schema.about.get("parent", ""),
                "max_k": config.max_hits,
                "fields": [field.model_dump() for field in fields],
            }
        )

    @routes.get("/v1/items/{id:any}", response_model=ItemResult)
    async def item(id: str) -> Response:
        def find_item(store: VectorStore) -> dict[str, Any]:
            return row_as_json(
                one_row(store, id, ["id", *store.schema.fields]), store.schema
            )

        return json_response(await served.run(find_item))

    @routes.get(
        "/v1/thumbnails/{id:any}",
        responses={200: {"content": {"image/jpeg": {}}}},
        response_class=Response,
    )
    async def thumbnail(id: str, request: Request) -> Response:
        def find_thumbnail(store: VectorStore) -> bytes:
            row = (
                one_row(store, id, ["id", "thumbnail"])
                if store.schema.thumbnails
                else {}
            )
            content: bytes = row.get("thumbnail") or b""
            return content

        content = await served.run(find_thumbnail)
        if not content:
            raise ApiError(
                404,
                f"item {id[:200]!r} has no thumbnail; /v1/items has what is kept of it.",
            )
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {**THUMBNAIL_HEADERS, "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)

    return routes


class AnyConvertor(Convertor[str]):
    """A path's end of any signs; Starlette's own leaves out what has a line end."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """As it is."""
        return value

    def to_string(self, value: str) -> str:
        """As it is."""
        return value


register_url_convertor("any", AnyConvertor())

THUMBNAIL_HEADERS = {
    # private: it may have taken a key to see it; then asked by its ETag
    "Cache-Control": "private, max-age=10",
    "Content-Security-Policy": "default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}


async def query_of(
    body: SearchBody, where: Predicate | None, engine: Engine, fetch: Fetch
) -> StoreQuery | None:
    """The body with its image's bytes; None: it asks for nothing, and what would need a query is
    refused.
    """
    text = body.text.strip()
    if not (text or body.image or body.like):
        for name in OF_A_QUERY:
            if getattr(body, name) != SearchBody.model_fields[name].default:
                raise ValueError(
                    f"{name} belongs to a query; give text, image or like, or leave it out."
                )
        return None
    return StoreQuery(
        text=text,
        image=await image_of(body.image, engine, fetch) if body.image else None,
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


async def embed_query(
    engine: Engine, inputs: Sequence[tuple[str, Item]]
) -> list[NDArray[np.float32]]:
    """The query's parts in one request to the engine; a part that cannot be embedded is the
    request's error.
    """
    if not inputs:
        return []
    results = await engine.embed(
        [item for _, item in inputs], prompt=engine.embedder.prompts.get("query", "")
    )
    vectors = []
    for (role, _), result in zip(inputs, results, strict=True):
        if isinstance(result, Failed):
            raise ApiError(result.status, f"{role}: {result.reason}")
        vectors.append(result.vector)
    return vectors


@contextmanager
def refused_as_400() -> Iterator[None]:
    """What the store or the filter's parser refuses is the client's to mend; their sentences say
    how.
    """
    try:
        yield
    except ValueError as error:
        raise ApiError(
            413 if isinstance(error, TooLargeError) else 400, str(error)
        ) from None
