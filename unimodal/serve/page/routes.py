"""Hands out the search page: a few static files, read once, under a policy that lets nothing else
run.

Whatever a catalogue's titles hold, the page can run no script but its own, load nothing from
elsewhere, be framed by nobody and send nothing but to the server that it came from.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from fastapi import APIRouter, HTTPException, Request, Response

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        # blob: the chosen image, and thumbnails that were fetched with a key
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the address holds what was searched for
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked again each time, and answered 304
}


def page_router() -> APIRouter:
    """`/` is the page; `/page/NAME` are the files that it is made of. Neither is
    part of the API.
    """
    files = {
        entry.name: entry.read_bytes()
        for entry in resources.files(__package__).iterdir()
        if entry.name.rpartition(".")[2] in TYPES
    }
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def index(request: Request) -> Response:
        return _answer(request, "index.html", files["index.html"])

    @routes.get("/page/{name}")
    async def file(request: Request, name: str) -> Response:
        if name not in files:
            raise HTTPException(404, f"there is no file {name[:80]!r} of the page.")
        return _answer(request, name, files[name])

    return routes


def _answer(request: Request, name: str, content: bytes) -> Response:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=TYPES[name.rpartition(".")[2]], headers=headers)
