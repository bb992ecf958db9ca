"""Connections that end when a request does not arrive in time; uvicorn itself waits forever."""

from __future__ import annotations

from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 32_768  # of a request's line and headers, or of what follows its body


def bounded_protocol(max_seconds: float) -> type[HttpToolsProtocol]:
    """uvicorn's connection, with a time limit for a request to arrive."""

    class LimitedProtocol(BoundedProtocol):
        request_seconds = max_seconds

    return LimitedProtocol


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's connection, which ends when a request is late, or its head is too large."""

    request_seconds: float

    _deadline: TimerHandle | None = None
    # received since the request began, or since the last part of its body
    _head_bytes = 0
    _is_partial = True
    _is_body = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_rest()

    def data_received(self, data: bytes) -> None:
        self._is_body = False
        super().data_received(data)
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering and not self._is_partial:
            self._stop_waiting()  # the client waits now
            return
        # also after a stray line end, which has stopped uvicorn's timer of idle connections
        self._await_rest()
        self._head_bytes = 0 if self._is_body else self._head_bytes + len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(
                "The head of the request, or what follows its body, is too large."
            )

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_partial = True
        self._head_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._is_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_partial = False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_rest(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(
                self.request_seconds, self.transport.abort
            )

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
