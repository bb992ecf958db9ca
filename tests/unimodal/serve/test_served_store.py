"""A store that changes, moves, or becomes another model's, while it is served."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from tests.unimodal.serve.shop import build_shop, title
from unimodal.embedder import Embedder, load
from unimodal.formats import native
from unimodal.model import build_model
from unimodal.model_config import ModelConfig
from unimodal.search.stores.open import open_store
from unimodal.serve import served_store
from unimodal.serve.app import create_app
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine

SEARCHES = [
    ("POST", "/v1/search", {"text": "mug"}),
    ("POST", "/v1/search", {}),
    ("POST", "/v1/search", {"like": "p/3", "where": "price < 20"}),
    ("GET", "/v1/search?q=mug", None),
    ("GET", "/v1/store", None),
    ("GET", "/v1/items/p%2F3", None),
    ("GET", "/v1/thumbnails/p%2F3", None),
]


@pytest.fixture
def other(tiny: ModelConfig, served: Embedder) -> Embedder:
    """The same model with other weights."""
    torch.manual_seed(1)
    return Embedder(build_model(tiny).eval(), served.tokenizer, device="cpu")


class Shop:
    """A model in a folder, a store in another, and a server of both."""

    def __init__(self, folder: Path, embedder: Embedder, **keys: Any) -> None:
        self.model = folder / "some-model"
        self.folder = folder / "some-store"
        self.save(embedder)
        build_shop(self.folder, embedder).close()
        config = ServeConfig(
            model=str(self.model), store=str(self.folder), device="cpu", **keys
        )
        self.store = open_store(str(self.folder))
        app = create_app(
            Engine(load(self.model, device="cpu"), config), config, self.store
        )
        self.client = TestClient(app, raise_server_exceptions=False)
        self.secrets = [
            str(folder),
            "some-model/",
            "some-store",
            f"{Path.home()}/",
            "lance",
        ]

    def save(self, embedder: Embedder) -> None:
        shutil.rmtree(self.model, ignore_errors=True)
        assert embedder.tokenizer is not None
        native.save(self.model, embedder.models[0], embedder.tokenizer)

    def index(self, embedder: Embedder) -> None:
        """Make the store again, with this model."""
        shutil.rmtree(self.folder)
        build_shop(self.folder, embedder).close()

    def statuses(self) -> set[int]:
        """What searches are answered; none of it may hold a path."""
        statuses = set()
        for method, path, body in SEARCHES:
            answer = self.client.request(method, path, json=body)
            statuses.add(answer.status_code)
            if answer.status_code >= 400:
                self.keeps_secrets(answer.text)
                assert answer.json()["error"]["code"] == "unavailable"
                assert answer.headers["Retry-After"] == "2"
        return statuses

    def keeps_secrets(self, text: str) -> None:
        assert not [secret for secret in self.secrets if secret in text], text

    def ready(self) -> tuple[int, str]:
        answer = self.client.get("/health/ready")
        self.keeps_secrets(answer.text)
        return answer.status_code, answer.json().get("reason", "")


@pytest.fixture
def shop(
    tmp_path: Path, served: Embedder, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Shop]:
    monkeypatch.setattr(served_store, "WATCH_SECONDS", 0.05)
    shop = Shop(tmp_path, served)
    with shop.client:
        until(lambda: shop.ready()[0] == 200)
        yield shop
    shop.store.close()


def until(is_true: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.02)


def test_a_store_that_was_moved_is_503_until_it_is_back(shop: Shop) -> None:
    assert shop.statuses() == {200}
    shop.folder.rename(shop.folder.with_name("some-store-away"))
    assert shop.statuses() == {503}
    until(lambda: shop.ready() == (503, "the store cannot be read now"))
    assert shop.client.post("/v1/embeddings", json={"input": "a"}).status_code == 200
    assert "unimodal_ready 0.0" in shop.client.get("/metrics").text
    shop.folder.with_name("some-store-away").rename(shop.folder)
    until(lambda: shop.ready()[0] == 200)
    assert shop.statuses() == {200}


def test_a_store_of_another_model_is_503_until_it_is_the_servers_again(
    shop: Shop, served: Embedder, other: Embedder
) -> None:
    shop.index(other)
    assert shop.statuses() <= {
        200,
        503,
    }  # what needs no vector may still be answered, until it is found out
    until(
        lambda: (
            shop.ready()
            == (
                503,
                "the store holds vectors of another model than the one that is served",
            )
        )
    )
    assert shop.statuses() == {503}
    shop.index(served)
    until(lambda: shop.ready()[0] == 200)
    assert shop.statuses() == {200}


def test_the_first_search_of_another_models_store_is_503(
    tmp_path: Path, served: Embedder, other: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_store, "WATCH_SECONDS", 1000.0)
    shop = Shop(tmp_path, served)
    with shop.client:
        assert shop.client.post("/v1/search", json={"text": "mug"}).status_code == 200
        shop.index(other)
        answer = shop.client.post("/v1/search", json={"text": "mug"})
        assert answer.status_code == 503
        message = answer.json()["error"]["message"]
        assert (
            message
            == "the store holds vectors of another model than the one that is served; try "
            "again later."
        )
        assert shop.ready()[0] == 503
    shop.store.close()


def test_a_store_that_was_made_again_with_the_same_model_is_searched_at_once(
    shop: Shop, served: Embedder
) -> None:
    shop.index(served)
    assert shop.statuses() == {200}


def test_what_is_no_store_is_503(shop: Shop) -> None:
    shutil.rmtree(shop.folder)
    shop.folder.write_text("a file")
    assert shop.statuses() == {503}


def test_the_stores_model_is_loaded_again_where_that_is_allowed(
    tmp_path: Path, served: Embedder, other: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_store, "WATCH_SECONDS", 0.05)
    shop = Shop(tmp_path, served, reload=True)
    with shop.client:
        until(lambda: shop.ready()[0] == 200)
        shop.index(other)
        until(lambda: shop.ready()[0] == 503)
        time.sleep(0.5)
        assert (
            shop.ready()[0] == 503
        )  # the model that lies there is still the first one
        stop = threading.Event()
        statuses = set()

        def ask() -> None:
            while not stop.is_set():
                statuses.add(
                    shop.client.post(
                        "/v1/embeddings", json={"input": ["a", "b"]}
                    ).status_code
                )

        asking = threading.Thread(target=ask)
        asking.start()
        shop.save(other)
        until(lambda: shop.ready()[0] == 200)
        stop.set()
        asking.join()
        assert statuses <= {200, 503}
        hits = shop.client.post(
            "/v1/search", json={"text": title(4), "vectors": ["text"], "k": 1}
        ).json()["hits"]
        assert hits[0]["id"] == "p/4"
        assert hits[0]["cosine"] == pytest.approx(1, abs=1e-5)
        vector = shop.client.post("/v1/embeddings", json={"input": "a hat"}).json()[
            "data"
        ][0]["embedding"]
        assert vector == pytest.approx(other.encode("a hat")[0].tolist(), abs=1e-5)
    shop.store.close()


def test_the_model_is_not_loaded_again_unless_that_is_allowed(
    shop: Shop, other: Embedder
) -> None:
    shop.save(other)
    shop.index(other)
    until(lambda: shop.ready()[0] == 503)
    time.sleep(0.5)
    assert shop.ready()[0] == 503


def test_no_answer_holds_the_place_of_the_store_or_the_model(shop: Shop) -> None:
    def ask_everything() -> None:
        for body in BODIES:
            for path in (
                "/v1/search",
                "/v1/embeddings",
                "/v2/embed",
                "/v1/embed",
                "/embed",
                "/vectorize",
            ):
                shop.keeps_secrets(shop.client.post(path, json=body).text)
        for path in (
            "/v1/store",
            "/v1/items/none",
            "/v1/thumbnails/none",
            "/nothing",
            "/v1/models",
            "/meta",
            "/health/ready",
        ):
            shop.keeps_secrets(shop.client.get(path).text)

    ask_everything()
    for place in (
        shop.folder / "items.lance" / "_versions",
        shop.folder / "items.lance" / "data",
        shop.folder,
    ):
        shutil.rmtree(place)
        ask_everything()


BODIES: list[dict[str, Any]] = [
    {"text": "mug", "where": "prize < 3"},
    {"text": "mug", "k": 10**9},
    {"like": "none"},
    {"image": "/etc/passwd"},
    {"image": "file:///etc/passwd"},
    {"text": "mug", "vectors": ["none"]},
    {"text": "mug", "coarse": "binary"},
    {"where": "price < 3"},
    {"text": "mug", "hybrid": True},
    {"text": "mug", "group_by": "parent"},
    {"input": {"image": "/etc/passwd"}},
    {"input": "a", "dimensions": 3},
    {"input": "a", "model": "none"},
    {"inputs": "a"},
    {"texts": ["a"], "input_type": "query"},
    {"images": ["AAAA"], "input_type": "image"},
]
