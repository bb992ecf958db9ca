"""The route of a request that is a JSON body and nothing else, at a small part of what FastAPI's own costs."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send


class BodyRoute(APIRoute):
    """FastAPI describes it, this runs it: the endpoint takes `body` (a model) and `request`, and gives a Response."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, check it, answer."""
        if self.body_field is None or scope["method"] != "POST":
            await super().handle(scope, receive, send)
            return
        sent = await _whole_body(receive)
        if sent is None:  # nobody is there to read an answer
            return
        body, faults = self.body_field.validate(_parsed(scope, sent), loc=("body",))
        if faults:
            raise RequestValidationError(faults)
        response = await self.endpoint(body=body, request=Request(scope))
        await response(scope, receive, send)


async def _whole_body(receive: Receive) -> bytes | None:
    """The body, or None if the client left before its end."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
    return None


def _parsed(scope: Scope, sent: bytes) -> Any:
    """JSON, if it is said to be: a page of another origin can send the same as plain text without having to ask."""
    said = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    kind = said.partition(b";")[0].strip().lower()
    if not kind.startswith(b"application/") or not kind.endswith((b"/json", b"+json")):
        return sent
    try:
        return json.loads(sent)
    except (ValueError, RecursionError) as error:  # of the syntax, not UTF-8, too deep
        fault = {"type": "json_invalid", "loc": ("body",), "ctx": {"error": getattr(error, "msg", "broken")}}
        raise RequestValidationError([fault]) from None
