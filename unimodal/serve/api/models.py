"""What the served model is and can do."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Response

from ...embedder import Embedder
from ..config import ServeConfig
from ..engine.engine import Engine
from .encodings import NUMBERS
from .model_name import check_name, shown_name
from .responses import json_response


def models_router(engine: Engine, config: ServeConfig) -> APIRouter:
    """/v1/models and /meta."""
    router = APIRouter(tags=["embeddings"])
    name = shown_name(config)
    started = int(time.time())

    @router.get("/v1/models")
    @router.get("/models", include_in_schema=False)  # infinity's
    async def models() -> Response:
        """List the model that is served, in OpenAI's shape, with what it can do."""
        description = describe_model(engine.embedder, name, started)
        return json_response({"object": "list", "data": [description]})

    @router.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        """Describe the model under one of its names."""
        check_name(model, config)
        return json_response(describe_model(engine.embedder, name, started))

    @router.get("/meta")
    async def meta() -> Response:
        """Describe the model to Weaviate."""
        return json_response(describe_model(engine.embedder, name, started))

    return router


def describe_model(embedder: Embedder, name: str, created: int) -> dict[str, Any]:
    """OpenAI's description of a model, with what it can do.

    created: seconds since 1970.
    """
    text = embedder.config.text
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "unimodal",
        "dimensions": embedder.config.embed_dim,
        "matryoshka_dims": list(embedder.config.matryoshka_dims),
        "modalities": sorted(embedder.modalities),
        "prompts": dict(embedder.prompts),
        "max_length": text.max_length if text else None,
        "embedding_types": [*NUMBERS, "base64"],
        "calibrated": embedder.calibration is not None,
    }
