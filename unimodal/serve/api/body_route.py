"""The route of a request that is a JSON body and nothing else, at a small part of what FastAPI's
own costs.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from ...config import nearest
from .errors import ApiError

IGNORED = "X-Unimodal-Ignored"  # the header that names the keys of a body that are not known here
INFLATED_AT_ONCE = (
    1_000_000  # bytes of a compressed body; a larger one is decompressed in a thread
)
SHOWN_KEYS = 20


class BodyRoute(APIRoute):
    """FastAPI describes it, this runs it: the endpoint takes `body` (a model) and `request`, and
    gives a Response.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, check it, answer."""
        if self.body_field is None or scope["method"] != "POST":
            await super().handle(scope, receive, send)
            return
        sent = await _whole_body(receive)
        if sent is None:  # nobody is there to read an answer
            return
        sent = await _decompressed(scope, sent)
        body, faults = self.body_field.validate(_parsed(scope, sent), loc=("body",))
        if faults:
            raise RequestValidationError(faults)
        ignored = list(body.model_extra or ())
        if ignored and scope["app"].state.engine.config.strict:
            key = ignored[0]
            message = (
                f"unknown key {key[:60]!r}; {nearest(key, type(body).model_fields)}"
            )
            raise ApiError(400, message, code="unknown_parameter", param=key[:60])
        response = await self.endpoint(body=body, request=Request(scope))
        if ignored:
            response.headers[IGNORED] = _header(ignored)
        await response(scope, receive, send)


def _header(keys: Sequence[str]) -> str:
    """Names of keys as a header can hold them."""
    return ", ".join(
        key[:60].encode("ascii", "backslashreplace").decode()
        for key in keys[:SHOWN_KEYS]
        if _sane(key)
    )


def _sane(key: str) -> bool:
    return key.isprintable() and "," not in key


async def _whole_body(receive: Receive) -> bytes | None:
    """The body, or None if the client left before its end."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
    return None


async def _decompressed(scope: Scope, sent: bytes) -> bytes:
    """The body as it was before it was compressed; what it grows by counts as if
    it had been sent.
    """
    coding = _header_of(scope, b"content-encoding").strip().lower()
    if coding in (b"", b"identity"):
        return sent
    if coding not in (b"gzip", b"x-gzip"):
        said = coding[:20].decode("latin-1")
        raise ApiError(
            415,
            f"Content-Encoding {said!r} is not read here; send the body as it is, or in gzip.",
        )
    most = scope["app"].state.engine.config.max_body_bytes
    if len(sent) > INFLATED_AT_ONCE:
        body = await asyncio.to_thread(_gunzip, sent, most)
    else:
        body = _gunzip(sent, most)
    scope["hold"](max(0, len(body) - len(sent)))
    return body


def _gunzip(sent: bytes, most: int) -> bytes:
    """Raises ApiError for what is not gzip, or would be larger than `most` bytes, of which no more
    is kept.
    """
    inflater = zlib.decompressobj(wbits=31)
    try:
        body = inflater.decompress(sent, most + 1)
    except zlib.error:
        raise ApiError(
            400,
            "the body is not gzip, as its Content-Encoding says; compress it again.",
        ) from None
    if len(body) > most:
        raise ApiError(
            413,
            f"the body is over {most} bytes when it is decompressed; send several requests.",
        )
    if not inflater.eof or inflater.unused_data:
        raise ApiError(400, "the body is not one whole gzip stream; compress it again.")
    return body


def _header_of(scope: Scope, wanted: bytes) -> bytes:
    found: bytes = next(
        (value for name, value in scope["headers"] if name == wanted), b""
    )
    return found


def _parsed(scope: Scope, sent: bytes) -> Any:
    """JSON, if it is said to be: a page of another origin can send the same as plain text without
    having to ask.
    """
    kind, _, parameters = _header_of(scope, b"content-type").lower().partition(b";")
    kind = kind.strip()
    if not kind.startswith(b"application/") or not kind.endswith((b"/json", b"+json")):
        return sent
    try:
        return json.loads(
            sent, parse_constant=_refuse_constant, object_pairs_hook=_without_repeats
        )
    except UnicodeDecodeError as error:
        said = parameters.decode("latin-1").strip()
        why = f"byte {error.start} is not {error.encoding.upper()}" + (
            f", nor is {said} read here" if said else ""
        )
        message = (
            f"the body is not UTF-8 ({why}); encode it as UTF-8, in which JSON is sent."
        )
        raise ApiError(400, message, code="invalid_json") from None
    except (
        ValueError,
        RecursionError,
    ) as error:  # of the syntax, too deep, a number of thousands of digits
        why = (
            f"{error.msg} at line {error.lineno}, column {error.colno}"
            if isinstance(error, _Syntax)
            else "too deep"
        )
        fault = {"type": "json_invalid", "loc": ("body",), "ctx": {"error": why}}
        raise RequestValidationError([fault]) from None


_Syntax = json.JSONDecodeError


def _refuse_constant(name: str) -> Any:
    raise ApiError(
        400,
        f"the body is not JSON ({name} is not in it); send null.",
        code="invalid_json",
    )


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    """An object; raises ApiError for a key that is there twice, of which one would be lost."""
    made = dict(pairs)
    if len(made) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ApiError(
            400,
            f"the body has the key {twice[:60]!r} twice; send it once.",
            param=twice[:60],
        )
    return made
