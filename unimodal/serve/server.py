"""`unimodal serve`: load, listen, answer, and shut down without losing an accepted request."""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Collection
from contextvars import Context
from types import FrameType

import uvicorn
from fastapi import FastAPI

from .api.model_name import shown_name
from .app import create_app
from .config import API_KEYS, ServeConfig, read_api_keys
from .connections import bounded_protocol
from .engine.engine import Engine, load_embedder
from .logs import write_logs

# exit statuses
CUT_OFF = 1  # requests were dropped at the end
STUCK = 70  # the model hangs (EX_SOFTWARE)

LAST_SECONDS = 2.0  # that threads have to end, once every request has been answered
CHECK_TICKS = 10  # of a tenth of a second, between two checks for a stuck model
LOOPBACK = ("127.", "::1", "localhost")

log = logging.getLogger(__name__)


def serve(config: ServeConfig) -> int:
    """Serve until a signal comes -> the exit status: 0 if every accepted request was answered.

    Raises ValueError for a model, a store, keys or an address that cannot be used, before anything
    is served.
    """
    write_logs(config.log)
    keys = read_api_keys(config)
    listener = bind_socket(config.host, config.port)
    store = None
    if config.store:
        from ..search.stores.open import open_store

        store = open_store(config.store)
    engine = Engine(load_embedder(config), config)
    app = create_app(engine, config, store)
    host, port = listener.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    log.info(
        "serving %s at %s, %s",
        shown_name(config),
        address,
        f"searching {config.store}" if store else "no store",
    )
    if not keys and not host.startswith(LOOPBACK):
        log.warning(
            "anyone who can reach %s may use it; set keys in $%s or api_keys_file=FILE.",
            address,
            API_KEYS,
        )
    try:
        return run(app, engine, config, listener)
    finally:
        if store is not None:
            store.close()


def run(
    app: FastAPI, engine: Engine, config: ServeConfig, listener: socket.socket
) -> int:
    """Answer the requests to this socket until a signal comes -> the exit status."""
    settings = uvicorn.Config(
        app,
        http=bounded_protocol(config.request_seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(config.proxies),  # anybody may send them
        forwarded_allow_ips="*" if "*" in config.proxies else list(config.proxies),
        timeout_keep_alive=config.keep_alive_seconds,
        timeout_graceful_shutdown=math.ceil(config.drain_seconds),
    )
    server = Server(settings, engine, config.delay_seconds)
    earlier_threads = threading.enumerate()
    server.run(sockets=[listener])
    end_threads(earlier_threads, server.exit_status)
    return server.exit_status


def end_threads(earlier: Collection[threading.Thread], status: int) -> None:
    """End the process if a thread does not end, except those that were started earlier.

    Python would wait for it forever, and a store must not be closed during a search.
    """
    deadline = time.monotonic() + LAST_SECONDS
    for thread in threading.enumerate():
        if thread.daemon or thread in earlier:
            continue
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            log.error(
                "thread %s does not end; the process ends without it", thread.name
            )
            logging.shutdown()
            os._exit(status)


def bind_socket(host: str, port: int) -> socket.socket:
    """Take the port; done before the model is loaded, so that a used port is reported early."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ValueError(
            f"cannot listen at {host} port {port} ({error.strerror or error}); choose another "
            "with port=, host=."
        ) from None
    return listener


class Server(uvicorn.Server):
    """uvicorn, which after SIGTERM is not ready, keeps accepting for a moment, and then drains.

    A load balancer keeps sending until it has noticed; its requests would find a closed port. A
    second signal ends the process immediately, and so does a model that hangs.
    """

    def __init__(
        self, config: uvicorn.Config, engine: Engine, delay_seconds: float
    ) -> None:
        super().__init__(config)
        self.lifecycle = engine.lifecycle
        self.engine = engine
        self.delay_seconds = delay_seconds
        self.exit_status = 0
        self._stop_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to shut down at the first signal, and end at the second."""
        if self.lifecycle.draining:
            os._exit(CUT_OFF)
        self.lifecycle.draining = True
        # In an empty context: a signal interrupts Python anywhere, perhaps in a request that the
        # line is not about.
        Context().run(log.info, "shutting down: not ready any more, finishing requests")
        delay = self.delay_seconds if sig == signal.SIGTERM else 0.0
        self._stop_at = time.monotonic() + delay

    async def on_tick(self, counter: int) -> bool:
        """Ten times per second: whether to stop accepting."""
        if counter % CHECK_TICKS == 0 and self.engine.stuck():
            log.critical("the model hangs; the process ends, so that it is restarted")
            logging.shutdown()
            os._exit(STUCK)
        self.should_exit |= time.monotonic() >= self._stop_at
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for accepted requests, and report those that were cut off."""
        await super().shutdown(sockets)
        num_dropped = self.lifecycle.cut_off
        if num_dropped:
            seconds = self.config.timeout_graceful_shutdown
            log.error("%d requests were dropped after %s s", num_dropped, seconds)
            self.exit_status = CUT_OFF
