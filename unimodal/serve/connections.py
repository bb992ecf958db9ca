"""Connections that end when a request does not arrive in time: uvicorn itself
would wait for ever.
"""

from __future__ import annotations

from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 32_768  # of a request's line and headers, or of what follows its body


def bounded_protocol(request_seconds: float) -> type[HttpToolsProtocol]:
    """uvicorn's connection, which ends when a request is not whole after so many seconds, or its
    head is too large.
    """

    class BoundedProtocol(HttpToolsProtocol):
        _deadline: TimerHandle | None = None
        _head_bytes = (
            0  # received since the request began, or since the last of its body
        )
        _is_partial = True
        _is_body = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_rest()

        def data_received(self, data: bytes) -> None:
            self._is_body = False
            super().data_received(data)
            if (
                not self._is_partial
                and self.cycle is not None
                and not self.cycle.response_complete
            ):
                self._stop_waiting()  # for the client; it is the client who waits
                return
            # even of a stray line end: it has stopped uvicorn's clock for idle connections
            self._await_rest()
            self._head_bytes = 0 if self._is_body else self._head_bytes + len(data)
            if self._head_bytes > HEAD_BYTES and not self.transport.is_closing():
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
                    request_seconds, self.transport.abort
                )

        def _stop_waiting(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return BoundedProtocol
