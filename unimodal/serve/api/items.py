"""Single items of the store, and their thumbnails."""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from starlette.convertors import Convertor, register_url_convertor

from ...search.stores.base import VectorStore
from ..served_store import ServedStore
from .errors import ApiError
from .responses import json_response
from .rows import one_row, row_as_json

THUMBNAIL_HEADERS = {
    # private: a key may have been needed to see it; then revalidated by its ETag
    "Cache-Control": "private, max-age=10",
    "Content-Security-Policy": "default-src 'none'",
    "X-Content-Type-Options": "nosniff",
}


class AnyText(Convertor[str]):
    """The end of a path with any characters; Starlette's own excludes line ends."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        """Return the text as it is."""
        return value

    def to_string(self, value: str) -> str:
        """Return the text as it is."""
        return value


class ItemResult(BaseModel):
    """One item of the store."""

    id: str
    fields: dict[str, Any]
    thumbnail: str | None


def items_router(served: ServedStore) -> APIRouter:
    """/v1/items and /v1/thumbnails, with any id."""
    register_url_convertor("any", AnyText())
    router = APIRouter(tags=["search"])

    @router.get("/v1/items/{id:any}", response_model=ItemResult)
    async def item(id: str) -> Response:
        def read_item(store: VectorStore) -> dict[str, Any]:
            row = one_row(store, id, ["id", *store.schema.fields])
            return row_as_json(row, store.schema)

        return json_response(await served.run(read_item))

    @router.get(
        "/v1/thumbnails/{id:any}",
        responses={200: {"content": {"image/jpeg": {}}}},
        response_class=Response,
    )
    async def thumbnail(id: str, request: Request) -> Response:
        def read_thumbnail(store: VectorStore) -> bytes:
            if not store.schema.thumbnails:
                return b""
            row = one_row(store, id, ["id", "thumbnail"])
            content: bytes | None = row.get("thumbnail")
            return content or b""

        content = await served.run(read_thumbnail)
        if not content:
            raise ApiError(
                404,
                f"item {id[:200]!r} has no thumbnail; /v1/items returns its fields.",
            )
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        headers = {**THUMBNAIL_HEADERS, "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)

    return router
