"""`/v1/store`: what there is to search; and the routes of one store together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from ...search.stores.base import VectorStore
from ..config import ServeConfig
from ..engine.engine import Engine
from ..engine.pool import BoundedPool
from ..served_store import UNREADABLE, ServedStore
from .errors import UnavailableError
from .facets import Facet, Facets
from .items import items_router
from .model_name import shown_name
from .responses import json_response
from .search import search_router

THREADS = 4  # that search the store; Lance and numpy release the interpreter meanwhile
QUEUE = 256  # requests that wait for one of them


class StoreResult(BaseModel):
    """What there is to search."""

    model: str
    count: int
    vectors: list[str]
    words: bool = Field(description="Whether full-text search (`hybrid`) is available.")
    modalities: list[str] = Field(
        description="What a query may consist of: text, image."
    )
    parent: str = Field(description="The field that groups items, or nothing.")
    max_k: int
    fields: list[Facet]


def store_router(engine: Engine, config: ServeConfig, store: VectorStore) -> APIRouter:
    """The routes that search one store.

    Raises ValueError if its vectors are another model's than the engine's.
    """
    pool = BoundedPool(THREADS, QUEUE)
    served = ServedStore(store, engine, config, pool)
    facets = Facets(lambda: served.store)

    @asynccontextmanager
    async def life(app: object) -> AsyncIterator[None]:
        facets.scan()  # takes a while for a large store
        async with pool.life(app), served.life():
            yield

    router = APIRouter(tags=["search"], lifespan=life)
    router.routes += search_router(engine, served).routes

    @router.get("/v1/store", response_model=StoreResult)
    async def describe() -> Response:
        schema = served.store.schema
        try:
            count, fields = await facets.now()
        except Exception as error:
            await served.check()
            reason = engine.lifecycle.store_fault or UNREADABLE
            raise UnavailableError(reason) from error
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

    router.routes += items_router(served).routes
    return router
