"""What operators ask: whether the server is alive, whether it may get traffic, and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Response

from ..engine.engine import Engine
from ..metrics import Metrics
from .responses import json_response

PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"


def operations_router(engine: Engine, metrics: Metrics) -> APIRouter:
    """Health under Kubernetes' and Weaviate's names, and metrics for Prometheus."""
    router = APIRouter(tags=["operations"])

    @router.get("/health/live")
    async def live() -> Response:
        """Answer 200 while the server runs; restart it when it does not answer."""
        return json_response({"status": "live"})

    @router.get(
        "/health/ready",
        responses={503: {"description": "Send it no traffic, for this reason"}},
    )
    async def ready() -> Response:
        """Answer 200 after a recent successful forward pass, and while not shutting down."""
        is_ready, reason = engine.ready()
        if is_ready:
            return json_response({"status": "ready"})
        response = json_response({"status": "not ready", "reason": reason})
        response.status_code = 503
        return response

    @router.get("/.well-known/live", status_code=204)
    async def weaviate_live() -> Response:
        """The same as /health/live, for Weaviate."""
        return Response(status_code=204)

    @router.get(
        "/.well-known/ready",
        status_code=204,
        responses={503: {"description": "Not ready"}},
    )
    async def weaviate_ready() -> Response:
        """The same as /health/ready, for Weaviate."""
        is_ready, _ = engine.ready()
        return Response(status_code=204 if is_ready else 503)

    @router.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    async def prometheus() -> Response:
        """Return counters and histograms in Prometheus' text format."""
        return Response(metrics.text(), media_type=PROMETHEUS_TEXT)

    return router
