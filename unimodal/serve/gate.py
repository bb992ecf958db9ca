"""What every request passes before a route, and what is noted after its answer.

The gate checks the API key and the size, names the request in its answer and the log, and cancels
the work when the client disconnects. It is plain ASGI: Starlette's middleware class would cost more
than the rest of the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from fastapi import Response

from .api.error_answers import SHUTTING_DOWN, as_api_error, error_response
from .api.errors import ApiError
from .config import ServeConfig
from .engine.fetch import fetch_image
from .engine.lifecycle import Lifecycle
from .logs import request_id
from .metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEALTH = {
    "/health/live",
    "/health/ready",
    "/.well-known/live",
    "/.well-known/ready",
}
# without a key: what a load balancer asks, and what holds nothing
OPEN = {"/", "/docs", "/openapi.json", *HEALTH}
OPEN_FOLDER = "/page/"
# not logged when successful
QUIET = {"/metrics", *HEALTH}
# below which a path is an id, which may end with a slash
ID_FOLDERS = ("/v1/items/", "/v1/thumbnails/")
METHODS = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"}
VALID_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
FETCHES = 16  # images that all requests together fetch at a time
CLIENT_GONE = 499  # nginx's status; nobody is left to read it

log = logging.getLogger("unimodal.serve.access")


class Gate:
    """The ASGI app behind its gate."""

    def __init__(
        self,
        app: App,
        *,
        config: ServeConfig,
        keys: Sequence[str],
        metrics: Metrics,
        lifecycle: Lifecycle,
    ) -> None:
        self.app = app
        self.config = config
        self.metrics = metrics
        self.lifecycle = lifecycle
        self.keys = [key.encode() for key in keys]
        # of the bodies and fetched images of all requests that are not answered yet
        self.held_bytes = 0
        self.fetching = asyncio.Semaphore(FETCHES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        method = scope["method"] if scope["method"] in METHODS else "other"
        scope = _normalize(scope)
        headers = dict(scope["headers"])
        name = _request_name(headers)
        request_id.set(name)
        passage = Passage(self, scope, receive, send, name)
        try:
            self._check(scope, headers)
            await passage.run(self.app)
        except Exception as error:
            if not isinstance(error, ApiError):
                logging.getLogger("unimodal.serve").error(
                    "a request failed", exc_info=error
                )
            await passage.answer(error_response(scope["path"], as_api_error(error)))
        finally:
            self.held_bytes -= passage.received
            self._note(scope, method, passage.status, time.perf_counter() - started)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        path = scope["path"]
        is_open = path in OPEN or path.startswith(OPEN_FOLDER)
        if self.keys and not is_open:
            self._check_key(headers)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.config.max_body_bytes:
            raise self.too_large()

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        """Compare the request's key with every key, in constant time."""
        sent = _bearer_token(headers)
        sent = sent or headers.get(b"x-api-key", b"")
        sent = sent or headers.get(b"api-key", b"")  # Azure's
        is_known = False
        for key in self.keys:
            is_known |= hmac.compare_digest(sent, key)
        if not sent:
            raise ApiError(
                401,
                "the request has no API key; send it as Authorization: Bearer KEY, as x-api-key "
                "or as api-key.",
            )
        if not is_known:
            raise ApiError(
                401, "this API key is not known; ask the server's operator for one."
            )

    def too_large(self) -> ApiError:
        """The error of a request that is larger than allowed."""
        max_bytes = self.config.max_body_bytes
        return ApiError(
            413,
            f"the body and the images of its URLs are over {max_bytes} bytes; send several "
            "requests.",
        )

    def _note(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        """Count the request, and log it."""
        route = scope.get("route")
        self.metrics.count(method, getattr(route, "path", "other"), status, seconds)
        is_quiet = scope["path"] in QUIET and status < 400
        if is_quiet or not log.isEnabledFor(logging.INFO):
            return
        client = scope.get("client") or ("",)
        facts = {
            "method": method,
            "path": scope["path"][:200],
            "status": status,
            "ms": round(1e3 * seconds, 2),
            "items": scope.get("num_items", 0),
            "client": client[0],
        }
        # log.info would search the stack for its caller, which no reader needs.
        record = log.makeRecord(
            log.name,
            logging.INFO,
            fn="",
            lno=0,
            msg="request",
            args=(),
            exc_info=None,
            extra={"facts": facts},
        )
        log.handle(record)


class Passage:
    """One request on its way: counts what it brings, watches its client, keeps its status."""

    def __init__(
        self, gate: Gate, scope: Scope, receive: Receive, send: Send, name: str
    ) -> None:
        self.gate = gate
        self.scope = scope
        self._receive = receive
        self._send = send
        self.name = name.encode()
        self.received = 0
        self.status = CLIENT_GONE
        self.started = False  # the answer
        self.answered = False
        self.gone = False  # the client
        self.watch: asyncio.Future[Message] | None = None
        self.task = asyncio.current_task()
        scope["fetch"] = self.fetch
        scope["hold"] = self._hold

    async def run(self, app: App) -> None:
        """Run the app until it has answered or the client is gone."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self.gone and not self.gate.lifecycle.draining:
                raise
            # this cancellation is handled here
            if sys.version_info >= (3, 11) and self.task is not None:
                self.task.uncancel()
            if not self.gone:  # the time to drain is over
                self.gate.lifecycle.cut_off += 1
                raise ApiError(503, SHUTTING_DOWN, retry_after=1) from None
        finally:
            if self.watch is not None:
                self.watch.cancel()

    async def receive(self) -> Message:
        """The next part of the body; after its end the client is watched."""
        if self.watch is not None:
            return await asyncio.shield(self.watch)
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        self._hold(len(message.get("body", b"")))
        if not message.get("more_body"):
            self.watch = asyncio.ensure_future(self._receive())
            self.watch.add_done_callback(self._cancel_if_gone)
        return message

    async def fetch(self, url: str) -> bytes:
        """The image behind a URL, which counts as part of the body."""
        async with self.gate.fetching:
            self._hold(0)
            image = await fetch_image(url, self.gate.config)
        self._hold(len(image))
        return image

    def _hold(self, size: int) -> None:
        """Count bytes; raises ApiError over a limit."""
        self.received += size
        self.gate.held_bytes += size
        if self.received > self.gate.config.max_body_bytes:
            raise self.gate.too_large()
        if self.gate.held_bytes > self.gate.config.queue_bytes:
            raise ApiError(
                429,
                "too many requests are being received; try again later.",
                retry_after=1,
            )

    async def send(self, message: Message) -> None:
        """Send a part of the answer, with the request's name in its headers."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.name)]
            is_unread = self.status == 429 and self.watch is None
            # the rest of the body is not wanted
            is_cut_short = self.status == 413 or is_unread
            if self.gate.lifecycle.draining or is_cut_short:
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        elif not message.get("more_body"):
            self.answered = True
        await self._send(message)

    async def answer(self, response: Response) -> None:
        """Send an answer of the gate itself, unless one has begun already."""
        if not self.started:
            with contextlib.suppress(OSError):
                await response(self.scope, self.receive, self.send)

    def _cancel_if_gone(self, watch: asyncio.Future[Message]) -> None:
        if watch.cancelled() or self.answered or self.task is None:
            return
        self.gone = True
        self.task.cancel()


def _normalize(scope: Scope) -> Scope:
    """The request with HEAD as GET, and without a slash at the end of its path."""
    if scope["method"] == "HEAD":  # the server below leaves the answer's body out
        scope = {**scope, "method": "GET"}
    path = scope["path"]
    if path.endswith("/") and path != "/" and not path.startswith(ID_FOLDERS):
        scope = {**scope, "path": path.rstrip("/") or "/"}
    return scope


def _bearer_token(headers: dict[bytes, bytes]) -> bytes:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _request_name(headers: dict[bytes, bytes]) -> str:
    """The client's name for the request, if it is fit for a header and a log, or a new one."""
    name = headers.get(b"x-request-id", b"").decode("latin-1")
    if VALID_ID.fullmatch(name):
        return name
    return f"{random.getrandbits(64):016x}"
