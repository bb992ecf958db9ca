"""`unimodal serve`: load, listen, answer, and go down without losing a request that was taken."""

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

from .api.embeddings import shown_name
from .app import create_app
from .config import API_KEYS, ServeConfig, read_api_keys
from .connections import bounded_protocol
from .engine.engine import Engine, load_embedder
from .logs import write_logs

CUT_OFF = 1
STUCK = (
    70  # exit statuses: requests were dropped at the end; the model hung (EX_SOFTWARE)
)
LAST_SECONDS = 2.0  # that threads have to come back, when everybody has been answered
LOOPBACK = ("127.", "::1", "localhost")

log = logging.getLogger(__name__)


def serve(config: ServeConfig) -> int:
    """Serve until a signal comes -> the exit status: 0 if every request that was taken was
    answered.

    Raises ValueError for a model, a store, keys or an address that cannot be used, before anything
    is served.
    """
    write_logs(config.log)
    keys = read_api_keys(config)
    listener = bound_socket(config.host, config.port)
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
            "anyone who reaches %s may use it; set keys in $%s or api_keys_file=FILE.",
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
    """Answer what comes to this socket, until a signal -> the exit status."""
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
    begun = threading.enumerate()
    server.run(sockets=[listener])
    leave_behind(begun, server.exit_status)
    return server.exit_status


def leave_behind(begun: Collection[threading.Thread], status: int) -> None:
    """End the process if a thread, but for those begun earlier, does not come back: Python would
    wait for it for ever, and a store must not be closed under a search."""
    until = time.monotonic() + LAST_SECONDS
    for thread in threading.enumerate():
        if thread.daemon or thread in begun:
            continue
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            log.error("%s does not come back; the process ends without it", thread.name)
            logging.shutdown()
            os._exit(status)


def bound_socket(host: str, port: int) -> socket.socket:
    """Take the port before the model is loaded: that it is in use should not be known a minute
    later.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ValueError(
            f"cannot listen at {host} port {port} ({error.strerror or error}); choose "
            "another with port=, host=."
        ) from None
    return listener


class Server(uvicorn.Server):
    """uvicorn, which after SIGTERM says that it is not ready, goes on accepting for a moment, and
    then drains.

    A load balancer goes on sending until it has heard; what it sends meanwhile would find a closed
    port. A second signal ends everything at once, and so does a model that hangs.
    """

    def __init__(
        self, config: uvicorn.Config, engine: Engine, delay_seconds: float
    ) -> None:
        super().__init__(config)
        self.lifecycle = engine.lifecycle
        self.engine = engine
        self.delay_seconds = delay_seconds
        self.exit_status = 0
        self._stop_at = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, the second is the end."""
        if self.lifecycle.draining:
            os._exit(CUT_OFF)
        self.lifecycle.draining = True
        # In no context: a signal is handled wherever Python just was, which may be in a request
        # that it is not about.
        Context().run(log.info, "not ready any more: finishing what was begun")
        self._stop_at = time.monotonic() + (
            self.delay_seconds if sig == signal.SIGTERM else 0
        )

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: is it time to stop accepting?"""
        if counter % 10 == 0 and self.engine.stuck():
            log.critical(
                "the model hangs in a forward pass; the process ends, so that it is started again"
            )
            logging.shutdown()
            os._exit(STUCK)
        self.should_exit |= time.monotonic() >= self._stop_at
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what was taken; what is left then was cut off."""
        await super().shutdown(sockets)
        if self.lifecycle.cut_off:
            seconds = self.config.timeout_graceful_shutdown
            log.error(
                "%d requests were given up after %s s", self.lifecycle.cut_off, seconds
            )
            self.exit_status = CUT_OFF
