"""The parts of the server put together as one ASGI app: routes, errors, gate, CORS, and the
engine's life.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import RedirectResponse

from .api.body_route import IGNORED
from .api.embeddings import embeddings_router
from .api.errors import answer_errors
from .api.operations import operations_router
from .api.reference import reference_router
from .config import ServeConfig, read_api_keys
from .engine.engine import Engine
from .gate import Gate
from .metrics import Metrics

if TYPE_CHECKING:
    from ..search.stores.base import VectorStore

ABOUT = """One embedding space for text and images: vectors of either, in the formats that clients know, and search.

Images are sent as data URIs or base64; as https URLs only from hosts that the server allows. Vectors are of length 1.
`usage` counts the tokens that the model read; an image counts its patches and one."""


def create_app(
    engine: Engine, config: ServeConfig, store: VectorStore | None = None
) -> FastAPI:
    """The whole server as an ASGI app, which starts the engine with it and lets it finish at its
    end.

    Raises ValueError for a store of another model's vectors, and for keys that are none.
    """
    metrics = Metrics(engine)
    keys = read_api_keys(config)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        engine.start()  # alive at once, ready when the model has run
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
        # to an address that a proxy may have another name for; the gate takes the slash away
        redirect_slashes=False,
    )
    app.state.engine = engine
    answer_errors(app)
    app.router.routes += embeddings_router(
        engine, config
    ).routes  # included, each request would be matched twice
    if store is not None:
        from .api.search import search_router
        from .page.routes import router as page_router

        app.include_router(search_router(engine, config, store))
        app.include_router(page_router())
    else:
        app.add_api_route(
            "/", lambda: RedirectResponse("/docs"), include_in_schema=False
        )
    app.include_router(operations_router(engine, metrics))
    app.include_router(reference_router(app))
    app.add_middleware(
        Gate, config=config, keys=keys, metrics=metrics, lifecycle=engine.lifecycle
    )
    if config.cors:
        add_cors(app, config.cors)
    return app


def add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of these origins ask; around the gate, because a browser's first question brings no
    key.
    """
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=[
            "*"
        ],  # whatever a client's library adds, such as OpenAI's x-stainless-lang
        expose_headers=["X-Request-ID", "Retry-After", IGNORED],
        max_age=3600,
    )
