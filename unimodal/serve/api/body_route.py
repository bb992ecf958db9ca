"""The route of a request that is a JSON body, at a fraction of the cost of FastAPI's own."""

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

IGNORED = "X-Unimodal-Ignored"  # the header that names the unknown keys of a body
# bytes of a compressed body; a larger one is decompressed in a thread
DECOMPRESSED_DIRECTLY = 1_000_000
MAX_NAMED_KEYS = 20


class BodyRoute(APIRoute):
    """FastAPI describes this route, and the route runs itself.

    The endpoint has the parameters `body` (a model) and `request`, and returns a Response.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, check it, and answer."""
        if self.body_field is None or scope["method"] != "POST":
            await super().handle(scope, receive, send)
            return
        content = await _read_body(receive)
        if content is None:  # nobody waits for an answer
            return
        content = await _decompress(scope, content)
        values = _parse_json(scope, content)
        body, faults = self.body_field.validate(values, loc=("body",))
        if faults:
            raise RequestValidationError(faults)
        ignored = list(body.model_extra or ())
        if ignored and scope["app"].state.engine.config.strict:
            key = ignored[0]
            known = type(body).model_fields
            raise ApiError(
                400,
                f"unknown key {key[:60]!r}; {nearest(key, known)}",
                code="unknown_parameter",
                param=key[:60],
            )
        response = await self.endpoint(body=body, request=Request(scope))
        if ignored:
            response.headers[IGNORED] = _header_value(ignored)
        await response(scope, receive, send)


def _header_value(keys: Sequence[str]) -> str:
    """Names of keys, as a header can hold them."""
    names = [
        key[:60].encode("ascii", "backslashreplace").decode()
        for key in keys[:MAX_NAMED_KEYS]
        if key.isprintable() and "," not in key
    ]
    return ", ".join(names)


def _header(scope: Scope, name: bytes) -> bytes:
    """A header of the request, or nothing."""
    for header, value in scope["headers"]:
        if header == name:
            return bytes(value)
    return b""


async def _read_body(receive: Receive) -> bytes | None:
    """The body, or None if the client disconnected before its end."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
    return None


async def _decompress(scope: Scope, content: bytes) -> bytes:
    """The body without its compression; the bytes it gains count as received."""
    coding = _header(scope, b"content-encoding").strip().lower()
    if coding in (b"", b"identity"):
        return content
    if coding not in (b"gzip", b"x-gzip"):
        name = coding[:20].decode("latin-1")
        raise ApiError(
            415,
            f"Content-Encoding {name!r} is not supported; send the body uncompressed, or in gzip.",
        )
    max_bytes = scope["app"].state.engine.config.max_body_bytes
    if len(content) > DECOMPRESSED_DIRECTLY:
        body = await asyncio.to_thread(_gunzip, content, max_bytes)
    else:
        body = _gunzip(content, max_bytes)
    scope["hold"](max(0, len(body) - len(content)))
    return body


def _gunzip(content: bytes, max_bytes: int) -> bytes:
    """Decompress gzip, without keeping more than `max_bytes`.

    Raises ApiError for what is not gzip, or is larger than that.
    """
    decompressor = zlib.decompressobj(wbits=31)
    try:
        body = decompressor.decompress(content, max_bytes + 1)
    except zlib.error:
        raise ApiError(
            400,
            "the body is not gzip, as its Content-Encoding says; compress it again.",
        ) from None
    if len(body) > max_bytes:
        raise ApiError(
            413,
            f"the decompressed body is over {max_bytes} bytes; send several requests.",
        )
    if not decompressor.eof or decompressor.unused_data:
        raise ApiError(400, "the body is not one whole gzip stream; compress it again.")
    return body


def _parse_json(scope: Scope, content: bytes) -> Any:
    """The JSON of a body whose Content-Type is JSON, or its bytes, which are then refused.

    A page of another origin may send other types, such as plain text, without permission.
    """
    header = _header(scope, b"content-type").lower()
    content_type, _, parameters = header.partition(b";")
    content_type = content_type.strip()
    is_json = content_type.endswith((b"/json", b"+json"))
    if not content_type.startswith(b"application/") or not is_json:
        return content
    try:
        return json.loads(
            content, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
        )
    except UnicodeDecodeError as error:
        raise _not_utf8(error, parameters.decode("latin-1").strip()) from None
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise _invalid_json(reason) from None
    except (ValueError, RecursionError):  # too deep, or a number of thousands of digits
        raise _invalid_json("too deep") from None


def _invalid_json(reason: str) -> RequestValidationError:
    fault = {"type": "json_invalid", "loc": ("body",), "ctx": {"error": reason}}
    return RequestValidationError([fault])


def _not_utf8(error: UnicodeDecodeError, charset: str) -> ApiError:
    """The error of a body in another encoding; charset: the parameters of its Content-Type."""
    reason = f"byte {error.start} is not {error.encoding.upper()}"
    if charset:
        reason += f", and {charset} is not supported"
    message = f"the body is not UTF-8 ({reason}); encode it as UTF-8, as JSON requires."
    return ApiError(400, message, code="invalid_json")


def _refuse_constant(name: str) -> Any:
    raise ApiError(
        400,
        f"the body is not JSON, which has no {name}; send null.",
        code="invalid_json",
    )


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    """An object; raises ApiError for a repeated key, because one of its values would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ApiError(
            400,
            f"the body has the key {key[:60]!r} twice; send it once.",
            param=key[:60],
        )
    return values
