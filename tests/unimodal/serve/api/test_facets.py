"""What a page's filters are made of."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from unimodal.embedder import Embedder
from unimodal.search.stores.base import VectorStore
from unimodal.search.stores.open import create_store
from unimodal.search.stores.schema import Schema
from unimodal.serve.api import facets
from unimodal.serve.api.facets import Facet, Facets, find_facets
from unimodal.serve.app import create_app
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine

NUMBER = 240
FIELDS: dict[str, Any] = {
    "colour": "string",
    "tags": "strings",
    "new": "bool",
    "price": "float",
    "stock": "int",
    "title": "string",
    "many": "string",
    "long": "string",
    "parent": "string",
    "nothing": "float",
}


def rows(numbers: range) -> pa.Table:
    return pa.table(
        {
            "id": [str(number) for number in numbers],
            "vector_fused": [
                np.eye(4, dtype=np.float32)[number % 4] for number in numbers
            ],
            "colour": [["Red", "Blue", None, "Red"][number % 4] for number in numbers],
            "tags": [
                [["sale", "new"], ["sale"], [], None][number % 4] for number in numbers
            ],
            "new": [[True, False, None, False][number % 4] for number in numbers],
            "price": [[1.5, None, 99.25, 3.0][number % 4] for number in numbers],
            "stock": [number - 7 for number in numbers],
            "title": [f"title {number}" for number in numbers],
            "many": [f"value {number % 110}" for number in numbers],
            "long": [
                "one long text of a description, which is the same for all of the items here"
                for _ in numbers
            ],
            "parent": [f"parent {number % 5}" for number in numbers],
        }
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VectorStore]:
    schema = Schema(dim=4, fingerprint="f", fields=FIELDS, about={"parent": "parent"})
    store = create_store(str(tmp_path / "store"), schema)
    store.upsert(rows(range(NUMBER)), fingerprint="f")
    yield store
    store.close()


def facets_by_name(store: VectorStore) -> dict[str, Facet]:
    return {facet.name: facet for facet in find_facets(store)}


def choices(facet: Facet) -> list[tuple[object, int]]:
    return [(choice.value, choice.count) for choice in facet.choices or []]


def test_every_field_is_there_in_its_order(store: VectorStore) -> None:
    assert {name: facet.type for name, facet in facets_by_name(store).items()} == FIELDS
    assert list(facets_by_name(store)) == list(FIELDS)


def test_values_that_come_again_are_choices_the_commonest_first(
    store: VectorStore,
) -> None:
    assert choices(facets_by_name(store)["colour"]) == [("Red", 120), ("Blue", 60)]
    assert choices(facets_by_name(store)["new"]) == [(False, 120), (True, 60)]


def test_of_a_list_each_value_is_counted(store: VectorStore) -> None:
    assert choices(facets_by_name(store)["tags"]) == [("sale", 120), ("new", 60)]


def test_numbers_have_their_ends(store: VectorStore) -> None:
    price, stock, nothing = (
        facets_by_name(store)[name] for name in ("price", "stock", "nothing")
    )
    assert (price.low, price.high, price.choices) == (1.5, 99.25, None)
    assert (stock.low, stock.high) == (-7, NUMBER - 8)
    assert (nothing.low, nothing.high) == (None, None)


@pytest.mark.parametrize("name", ["title", "many", "long", "parent"])
def test_names_long_texts_and_what_groups_items_are_no_choices(
    store: VectorStore, name: str
) -> None:
    assert facets_by_name(store)[name].choices is None


def test_a_store_without_fields_has_no_facets(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "plain"), Schema(dim=4, fingerprint="f"))
    assert find_facets(store) == []
    store.close()


async def until(cached: Facets, number: int) -> None:
    """Wait until a scan counts this many items."""
    async with asyncio.timeout(20):
        while (await cached.now())[0] != number:
            await asyncio.sleep(0.01)


def test_they_follow_the_store(store: VectorStore) -> None:
    async def ask() -> None:
        cached = Facets(lambda: store)
        assert (await cached.now())[0] == NUMBER
        store.upsert(rows(range(NUMBER, NUMBER + 4)), fingerprint="f")
        await until(cached, NUMBER + 4)
        store.delete(ids=["0", "1"])
        await until(cached, NUMBER + 2)
        store.upsert(
            rows(range(2, 3)).set_column(5, "price", pa.array([500.0])), fingerprint="f"
        )
        async with asyncio.timeout(20):  # the count is the same
            while (
                next(
                    facet for facet in (await cached.now())[1] if facet.name == "price"
                ).high
                != 500
            ):
                await asyncio.sleep(0.01)

    asyncio.run(ask())


def test_a_store_that_does_not_change_is_not_scanned_again(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    held.go.set()
    monkeypatch.setattr(facets, "REST", 0.0)

    async def ask() -> None:
        cached = Facets(lambda: store)
        for _ in range(5):
            assert (await cached.now())[0] == NUMBER
        assert held.calls == 1

    asyncio.run(ask())


def test_of_a_store_without_versions_they_are_kept_for_moments(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "version", lambda: None)
    monkeypatch.setattr(facets, "REST", 0.0)

    async def ask() -> None:
        cached = Facets(lambda: store)
        assert (await cached.now())[0] == NUMBER
        store.upsert(rows(range(NUMBER, NUMBER + 4)), fingerprint="f")
        assert (await cached.now())[0] == NUMBER
        monkeypatch.setattr(facets, "FRESH_SECONDS", 0.0)
        await until(cached, NUMBER + 4)

    asyncio.run(ask())


def test_a_store_that_was_made_again_has_another_version(tmp_path: Path) -> None:
    schema = Schema(dim=4, fingerprint="f", fields=FIELDS)
    versions = []
    for _ in range(2):
        store = create_store(str(tmp_path / "again"), schema)
        store.upsert(rows(range(4)), fingerprint="f")
        versions.append(store.version())
        assert store.version() == versions[-1]
        shutil.rmtree(tmp_path / "again")
    assert versions[0] != versions[1]


class Held:
    """`find_facets`, which waits until the test releases it; counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.calls = 0
        monkeypatch.setattr(facets, "find_facets", self)

    def __call__(self, store: VectorStore) -> list[Facet]:
        self.calls += 1
        assert self.go.wait(20)
        return find_facets(store)


def test_old_ones_are_given_to_who_has_waited(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facets, "REST", 0.0)
    monkeypatch.setattr(facets, "PATIENCE_SECONDS", 0.05)

    async def ask() -> None:
        cached = Facets(lambda: store)
        assert (await cached.now())[0] == NUMBER
        held = Held(monkeypatch)
        store.upsert(rows(range(NUMBER, NUMBER + 4)), fingerprint="f")
        assert (await cached.now())[0] == NUMBER
        assert (await cached.now())[0] == NUMBER
        held.go.set()
        await until(cached, NUMBER + 4)
        assert held.calls == 1

    asyncio.run(ask())


def test_who_stops_waiting_stops_no_scan(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)

    async def ask() -> None:
        cached = Facets(lambda: store)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cached.now(), 0.01)
        held.go.set()
        assert (await cached.now())[0] == NUMBER
        assert held.calls == 1

    asyncio.run(ask())


def test_a_scan_that_fails_is_an_error_and_tried_again(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> None:
        cached = Facets(lambda: store)
        with monkeypatch.context() as broken:
            broken.setattr(facets, "find_facets", lambda store: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await cached.now()
        await until(cached, NUMBER)

    asyncio.run(ask())


def test_searching_goes_on_while_they_are_found(
    tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)
    config = ServeConfig(model="tiny")
    store = create_store(
        str(tmp_path / "store"), Schema(dim=4, fingerprint=embedder.fingerprint())
    )
    with (
        TestClient(create_app(Engine(embedder, config), config, store)) as client,
        ThreadPoolExecutor(8) as pages,
    ):
        loads = [pages.submit(client.get, "/v1/store") for _ in range(8)]
        try:
            assert client.post("/v1/search", json={}).status_code == 200
            assert not any(load.done() for load in loads)
        finally:
            held.go.set()
        assert {load.result().status_code for load in loads} == {200}
        assert held.calls == 1
    store.close()
