"""JSON answers."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Response

# of the routes that embed, for OpenAPI
EMBEDDINGS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One vector for each input, in order",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


def json_response(content: Any) -> Response:
    """JSON by orjson, which writes numpy's numbers without a Python object for each."""
    return Response(
        orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY),
        media_type="application/json",
    )
