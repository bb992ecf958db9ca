"""What every request passes before a route sees it, and what is noted when it has been answered.

Who asks (a key), how much may be sent, a name for the request in answer and log, and the end of the
work when the client is gone. Plain ASGI: as Starlette's middleware class it would cost more than
the rest of the server.
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

from .api.errors import ApiError, as_api_error, error_response
from .config import ServeConfig
from .engine.engine import Lifecycle
from .engine.images import fetch_image
from .logs import request_id
from .metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

OPEN = {  # without a key: what a load balancer asks, and what holds nothing
    "/",
    "/docs",
    "/openapi.json",
    "/health/live",
    "/health/ready",
    "/.well-known/live",
    "/.well-known/ready",
}
OPEN_FOLDER = "/page/"
ID_FOLDERS = (
    "/v1/items/",
    "/v1/thumbnails/",
)  # below which a path is an id, which may end with a slash
METHODS = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"}
QUIET = {
    "/health/live",
    "/health/ready",
    "/.well-known/live",
    "/.well-known/ready",
    "/metrics",
}  # not logged when well
SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
FETCHES = 16  # images that are fetched at a time, for all requests together
CLIENT_GONE = 499  # nginx's number; nobody is there to read it

log = logging.getLogger("unimodal.serve.access")


class Gate:
    """The ASGI app, behind its gate."""

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
        # of the bodies and the fetched images of all requests that are not answered yet
        self.held_bytes = 0
        self.fetching = asyncio.Semaphore(FETCHES)

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Receive, send: Send
    ) -> None:
        """Let one request through, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        method = scope["method"] if scope["method"] in METHODS else "other"
        if method == "HEAD":  # as GET: the server below leaves the answer's body out
            scope = {**scope, "method": "GET"}
        if (
            len(scope["path"]) > 1
            and scope["path"].endswith("/")
            and not scope["path"].startswith(ID_FOLDERS)
        ):
            scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        headers = dict(scope["headers"])
        name = _name_of(headers)
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

    def _check(
        self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes]
    ) -> None:
        path = scope["path"]
        if self.keys and path not in OPEN and not path.startswith(OPEN_FOLDER):
            self._check_key(headers)
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.config.max_body_bytes:
            raise self.too_large()

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        """Compared with every key in constant time, whichever fits: how long it takes tells
        nothing.
        """
        scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
        given = token.strip() if scheme.lower() == b"bearer" else b""
        given = (
            given or headers.get(b"x-api-key", b"") or headers.get(b"api-key", b"")
        )  # the last is Azure's
        fits = False
        for key in self.keys:
            fits |= hmac.compare_digest(given, key)
        if not given:
            message = (
                "an API key is needed; send it as Authorization: Bearer KEY, as x-api-key "
                "or as api-key."
            )
            raise ApiError(401, message)
        if not fits:
            raise ApiError(
                401, "this API key is not known here; ask who runs the server for one."
            )

    def too_large(self) -> ApiError:
        """The body is more than one request may have."""
        most = self.config.max_body_bytes
        return ApiError(
            413,
            f"the body and the images of its URLs are over {most} bytes; send several requests.",
        )

    def _note(
        self, scope: MutableMapping[str, Any], method: str, status: int, seconds: float
    ) -> None:
        route = scope.get("route")
        self.metrics.count(method, getattr(route, "path", "other"), status, seconds)
        if scope["path"] in QUIET and status < 400:
            return
        if log.isEnabledFor(logging.INFO):
            facts = {
                "method": method,
                "path": scope["path"][:200],
                "status": status,
                "ms": round(1e3 * seconds, 2),
                "items": scope.get("num_items", 0),
                "client": (scope.get("client") or ("",))[0],
            }
            # Made by hand: log.info would look through the stack for who called, which no reader
            # needs.
            log.handle(
                log.makeRecord(
                    log.name,
                    logging.INFO,
                    "",
                    0,
                    "request",
                    (),
                    None,
                    extra={"facts": facts},
                )
            )


class Passage:
    """One request on its way: what it brings is counted, its client is watched,
    its status is kept.
    """

    def __init__(
        self,
        gate: Gate,
        scope: MutableMapping[str, Any],
        receive: Receive,
        send: Send,
        name: str,
    ) -> None:
        self.gate = gate
        self.scope = scope
        self._receive = receive
        self._send = send
        self.name = name.encode()
        self.received = 0
        self.status = CLIENT_GONE
        self.started = self.answered = self.gone = False
        self.watch: asyncio.Future[Message] | None = None
        self.task = asyncio.current_task()
        scope["fetch"], scope["hold"] = self.fetch, self._hold

    async def run(self, app: App) -> None:
        """The rest of the server, until it has answered or the client is gone."""
        try:
            await app(self.scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self.gone and not self.gate.lifecycle.draining:
                raise
            if (
                sys.version_info >= (3, 11) and self.task is not None
            ):  # this cancellation has been dealt with
                self.task.uncancel()
            if not self.gone:  # the time to drain is over
                self.gate.lifecycle.cut_off += 1
                raise ApiError(
                    503, "the server is shutting down; ask another one.", retry_after=1
                ) from None
        finally:
            if self.watch is not None:
                self.watch.cancel()

    async def receive(self) -> Message:
        """The next part of the body; once it is whole, somebody looks out for the
        client's going.
        """
        if self.watch is not None:
            return await asyncio.shield(self.watch)
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        self._hold(len(message.get("body", b"")))
        if not message.get("more_body"):
            self.watch = asyncio.ensure_future(self._receive())
            self.watch.add_done_callback(self._client_is_gone)
        return message

    async def fetch(self, url: str) -> bytes:
        """The image behind a URL, which counts as if it had come in the body."""
        async with self.gate.fetching:
            self._hold(0)
            image = await fetch_image(url, self.gate.config)
        self._hold(len(image))
        return image

    def _hold(self, size: int) -> None:
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
        """A part of the answer, with the request's name on its head."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.name),
            ]
            cut_short = self.status == 413 or (
                self.status == 429 and self.watch is None
            )  # the rest is not wanted
            if self.gate.lifecycle.draining or cut_short:
                message["headers"].append((b"connection", b"close"))
        elif not message.get("more_body"):
            self.answered = True
        await self._send(message)

    async def answer(self, response: Response) -> None:
        """An answer from the gate itself, unless one has begun already."""
        if not self.started:
            with contextlib.suppress(OSError):
                await response(self.scope, self.receive, self.send)

    def _client_is_gone(self, watch: asyncio.Future[Message]) -> None:
        if watch.cancelled() or self.answered or self.task is None:
            return
        self.gone = True
        self.task.cancel()


def _name_of(headers: dict[bytes, bytes]) -> str:
    """The request's name: the client's, if it is fit for a header and a log, or a new one."""
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if SANE_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"
