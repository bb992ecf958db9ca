"""A real HTTP server on loopback with the faults of storage: slow, failing, cut short."""

from __future__ import annotations

import random
import re
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple


class Faults(NamedTuple):
    """The probability of each fault per request."""

    unavailable: float = 0.0  # 503
    short: float = 0.0  # half of the body, then the connection is closed
    fewer: float = 0.0  # half of the body, and the header says that this is all
    reset: float = 0.0  # a TCP reset in mid-body
    stall: float = 0.0  # nothing for `stall_seconds`, then the answer
    stall_seconds: float = 1.0
    latency: float = 0.0  # seconds before every answer


class Request(NamedTuple):
    """A line of the log."""

    method: str
    path: str
    first: int  # of the bytes asked for
    sent: int  # bytes of body
    what: str  # "ok", or the fault


class Server:
    """A context manager; `url` is its root. `faults` may be changed while it runs."""

    def __init__(
        self,
        folder: Path,
        faults: Faults = Faults(),  # noqa: B008
        *,
        ranges: bool = True,
        seed: int = 0,
    ) -> None:
        """ranges: whether it answers Range; otherwise it sends the whole file."""
        self.folder = folder
        self.faults = faults
        self.ranges = ranges
        self.requests: list[Request] = []
        self.stalled = threading.Event()  # set when a request begins to stall
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self})
        )
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Server:
        threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def count(self, what: str) -> int:
        """The number of requests with an answer of this kind."""
        return sum(request.what == what for request in list(self.requests))

    def draw_fault(self) -> str:
        """The fault of the next request: a function of the seed and the order of requests."""
        with self._lock:
            chance = self._draw.random()
        for name in ("unavailable", "short", "fewer", "reset", "stall"):
            chance -= getattr(self.faults, name)
            if chance < 0:
                return name
        return "ok"

    def pause(self, seconds: float) -> None:
        """Wait, but not after the server has ended."""
        if seconds:
            self._over.wait(seconds)


class _Handler(BaseHTTPRequestHandler):
    owner: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        owner = self.owner
        file = owner.folder / self.path.partition("?")[0].lstrip("/")
        fault = owner.draw_fault()
        owner.pause(owner.faults.latency)
        if fault == "stall":
            owner.stalled.set()
            owner.pause(owner.faults.stall_seconds)
        if fault == "unavailable" or not file.is_file():
            status = 503 if fault == "unavailable" else 404
            self._log(0, 0, fault if status == 503 else "missing")
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = file.read_bytes()
        first = 0
        size = len(content)
        wanted = (
            re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if owner.ranges
            else None
        )
        if wanted:
            first = int(wanted[1])
            content = content[first : int(wanted[2]) + 1 if wanted[2] else None]
        if fault == "fewer" and with_body:
            content = content[: len(content) // 2]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header(
                "Content-Range", f"bytes {first}-{first + len(content) - 1}/{size}"
            )
        if owner.ranges:
            self.send_header("Accept-Ranges", "bytes")
        stat = file.stat()
        self.send_header("ETag", f'"{stat.st_mtime_ns:x}-{size:x}"')
        self.send_header("Last-Modified", self.date_time_string(stat.st_mtime))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not with_body:
            self._log(first, 0, fault)
            return
        if fault in ("short", "reset"):
            content = content[: len(content) // 2]
        self._log(first, len(content), fault)
        try:
            self.wfile.write(content)
            self.wfile.flush()
        except OSError:  # the client has closed the connection
            self.close_connection = True
        if fault == "reset":  # closing without lingering sends RST
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        if fault in ("short", "reset"):
            self.close_connection = True
            if fault == "reset":
                self.connection.close()

    def _log(self, first: int, sent: int, what: str) -> None:
        self.owner.requests.append(
            Request(self.command, self.path.partition("?")[0], first, sent, what)
        )

    def log_message(self, format: str, *args: Any) -> None:
        """The log is `Server.requests`."""
