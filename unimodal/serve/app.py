"""The server as one ASGI app: routes, errors, gate, CORS, and the engine's life."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import RedirectResponse

from .api.body_route import IGNORED
from .api.cohere import cohere_router
from .api.error_answers import answer_errors
from .api.models import models_router
from .api.openai import openai_router
from .api.operations import operations_router
from .api.tei import tei_router
from .api.weaviate import weaviate_router
from .config import ServeConfig, read_api_keys
from .engine.engine import Engine
from .gate import Gate
from .metrics import Metrics
from .page.reference import reference_router

if TYPE_CHECKING:
    from ..search.stores.base import VectorStore

ABOUT = """One embedding space for text and images: vectors of both, in the formats of the usual \
clients, and search.

Send an image as a data URI or in base64, or as an https URL of a host that the server allows. \
Vectors have length 1. `usage` counts the tokens that the model read; an image counts its patches \
plus 1."""


def create_app(
    engine: Engine, config: ServeConfig, store: VectorStore | None = None
) -> FastAPI:
    """The server as an ASGI app, which starts the engine and drains it at the end.

    Raises ValueError for a store of another model's vectors, and for API keys that cannot be used.
    """
    metrics = Metrics(engine)
    keys = read_api_keys(config)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        engine.start()  # live immediately, ready after the first forward passes
        try:
            yield
        finally:
            await engine.drain()

    app = FastAPI(
        title="unimodal",
        description=ABOUT,
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        # a redirect would name an address that differs behind a proxy; the gate removes the slash
        redirect_slashes=False,
    )
    app.state.engine = engine
    answer_errors(app)
    for router in (
        openai_router(engine, config),
        cohere_router(engine, config),
        tei_router(engine),
        weaviate_router(engine),
        models_router(engine, config),
    ):
        # an included router would match each request twice
        app.router.routes += router.routes
    _add_store_and_page(app, engine, config, store)
    app.include_router(operations_router(engine, metrics))
    app.include_router(reference_router(app))
    app.add_middleware(
        Gate, config=config, keys=keys, metrics=metrics, lifecycle=engine.lifecycle
    )
    if config.cors:
        add_cors(app, config.cors)
    return app


def _add_store_and_page(
    app: FastAPI, engine: Engine, config: ServeConfig, store: VectorStore | None
) -> None:
    """Add the search and its page; without a store, `/` leads to /docs."""
    if store is None:
        app.add_api_route(
            "/", lambda: RedirectResponse("/docs"), include_in_schema=False
        )
        return

    from .api.store import store_router
    from .page.routes import page_router

    app.include_router(store_router(engine, config, store))
    app.include_router(page_router())


def add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    """Allow requests from pages of these origins.

    It wraps the gate, because a browser's preflight request has no key.
    """
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        # a client's library may add any, such as OpenAI's x-stainless-lang
        allow_headers=["*"],
        expose_headers=["X-Request-ID", "Retry-After", IGNORED],
        max_age=3600,
    )
