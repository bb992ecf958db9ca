"""Connections that end when a request does not arrive in time: uvicorn itself would wait for ever."""

from __future__ import annotations

from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 32_768  # of a request's line and headers


def bounded_protocol(request_seconds: float) -> type[HttpToolsProtocol]:
    """uvicorn's connection, which ends when a request is not whole after so many seconds, or its head is too large."""

    class BoundedProtocol(HttpToolsProtocol):
        _deadline: TimerHandle | None = None
        _head_bytes = 0
        _is_partial = _is_head = True

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_rest()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if not self._is_partial:
                self._stop_waiting()
                return
            self._await_rest()
            if self._is_head:
                self._head_bytes += len(data)
                if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
                    self.send_400_response("The head of the request is too large.")

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._is_partial, self._is_head, self._head_bytes = True, True, 0

        def on_headers_complete(self) -> None:
            self._is_head = False
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._is_partial = False
            super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _await_rest(self) -> None:
            if self._deadline is None:
                self._deadline = self.loop.call_later(request_seconds, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return BoundedProtocol
