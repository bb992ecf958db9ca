"""What operators ask: is it alive, may it get traffic, how is it doing."""

from __future__ import annotations

from fastapi import APIRouter, Response

from ..engine.engine import Engine
from ..metrics import Metrics
from .embeddings import json_response


def operations_router(engine: Engine, metrics: Metrics) -> APIRouter:
    """Health under Kubernetes' and Weaviate's names, and Prometheus' metrics."""
    router = APIRouter(tags=["operations"])

    @router.get("/health/live")
    async def live() -> Response:
        """200 while the server answers at all; a restart is due when it does not."""
        return json_response({"status": "live"})

    @router.get(
        "/health/ready",
        responses={503: {"description": "It must get no traffic now, and why"}},
    )
    async def ready() -> Response:
        """200 only after a forward pass of the model that went well lately, and while not shutting
        down.
        """
        is_ready, reason = engine.ready()
        response = json_response(
            {"status": "ready"}
            if is_ready
            else {"status": "not ready", "reason": reason}
        )
        response.status_code = 200 if is_ready else 503
        return response

    @router.get("/.well-known/live", status_code=204)
    async def weaviate_live() -> Response:
        """The same for Weaviate."""
        return Response(status_code=204)

    @router.get(
        "/.well-known/ready",
        status_code=204,
        responses={503: {"description": "Not ready"}},
    )
    async def weaviate_ready() -> Response:
        """The same for Weaviate."""
        return Response(status_code=204 if engine.ready()[0] else 503)

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Counters and histograms in Prometheus' text format."""
        return Response(
            metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    return router
