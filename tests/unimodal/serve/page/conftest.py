"""The search page in a browser, before a server of the shop."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unimodal.serve.shop import build_shop
from unimodal.embedder import Embedder
from unimodal.serve.app import create_app
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine


@pytest.fixture(scope="module")
def shop(
    served: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Embedder, Any]]:
    store = build_shop(tmp_path_factory.mktemp("shop") / "store", served)
    yield served, store
    store.close()


class Running:
    """The server, on a port of this machine, in a thread."""

    def __init__(self, embedder: Embedder, store: Any) -> None:
        import uvicorn

        config = ServeConfig(model="tiny")
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        app = create_app(Engine(embedder, config), config, store)
        self.server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)
        )
        self.thread = threading.Thread(
            target=self.server.run, kwargs={"sockets": [listener]}, daemon=True
        )
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=30)


@pytest.fixture(scope="module")
def address(shop: tuple[Embedder, Any]) -> Iterator[str]:
    running = Running(*shop)
    yield running.address
    running.stop()


class Watched:
    """A page, and all that it or the browser complained of."""

    def __init__(self, browser: Any, address: str) -> None:
        self.page = browser.new_page(viewport={"width": 1200, "height": 900})
        self.page.set_default_timeout(15_000)
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "data:", "blob:"))
                else self.complaints.append(request.url)
            ),
        )


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Any]:
    """The page as a visitor finds it; it may complain of nothing, and ask nobody but its server."""
    watched = Watched(browser, address)
    watched.page.goto(address)
    watched.page.wait_for_selector(".hit")
    yield watched.page
    watched.page.close()
    assert watched.complaints == []


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page before it is opened, whose requests a test may hold back or fail."""
    page = Watched(browser, address).page
    yield page
    page.close()
