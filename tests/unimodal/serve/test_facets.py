"""What a page's filters are made of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from unimodal.search.store import Schema, VectorStore, create_store
from unimodal.serve import facets
from unimodal.serve.facets import Facet, Facets, find_facets

NUMBER = 240
FIELDS: dict[str, Any] = {
    "colour": "string", "tags": "strings", "new": "bool", "price": "float", "stock": "int", "title": "string",
    "many": "string", "long": "string", "parent": "string", "nothing": "float",
}  # fmt: skip


def rows(numbers: range) -> pa.Table:
    return pa.table({
        "id": [str(number) for number in numbers],
        "vector_fused": [np.eye(4, dtype=np.float32)[number % 4] for number in numbers],
        "colour": [["Red", "Blue", None, "Red"][number % 4] for number in numbers],
        "tags": [[["sale", "new"], ["sale"], [], None][number % 4] for number in numbers],
        "new": [[True, False, None, False][number % 4] for number in numbers],
        "price": [[1.5, None, 99.25, 3.0][number % 4] for number in numbers],
        "stock": [number - 7 for number in numbers],
        "title": [f"title {number}" for number in numbers],
        "many": [f"value {number % 110}" for number in numbers],
        "long": ["one long text of a description, which is the same for all of the items here" for _ in numbers],
        "parent": [f"parent {number % 5}" for number in numbers],
    })  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VectorStore]:
    schema = Schema(dim=4, fingerprint="f", fields=FIELDS, about={"parent": "parent"})
    store = create_store(str(tmp_path / "store"), schema)
    store.upsert(rows(range(NUMBER)), fingerprint="f")
    yield store
    store.close()


def found(store: VectorStore) -> dict[str, Facet]:
    return {facet.name: facet for facet in find_facets(store)}


def choices(facet: Facet) -> list[tuple[object, int]]:
    return [(choice.value, choice.count) for choice in facet.choices or []]


def test_every_field_is_there_in_its_order(store: VectorStore) -> None:
    assert {name: facet.type for name, facet in found(store).items()} == FIELDS
    assert list(found(store)) == list(FIELDS)


def test_values_that_come_again_are_choices_the_commonest_first(store: VectorStore) -> None:
    assert choices(found(store)["colour"]) == [("Red", 120), ("Blue", 60)]
    assert choices(found(store)["new"]) == [(False, 120), (True, 60)]


def test_of_a_list_each_value_is_counted(store: VectorStore) -> None:
    assert choices(found(store)["tags"]) == [("sale", 120), ("new", 60)]


def test_numbers_have_their_ends(store: VectorStore) -> None:
    price, stock, nothing = (found(store)[name] for name in ("price", "stock", "nothing"))
    assert (price.low, price.high, price.choices) == (1.5, 99.25, None)
    assert (stock.low, stock.high) == (-7, NUMBER - 8)
    assert (nothing.low, nothing.high) == (None, None)


@pytest.mark.parametrize("name", ["title", "many", "long", "parent"])
def test_names_long_texts_and_what_groups_items_are_no_choices(store: VectorStore, name: str) -> None:
    assert found(store)[name].choices is None


def test_a_store_without_fields_has_no_facets(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "plain"), Schema(dim=4, fingerprint="f"))
    assert find_facets(store) == []
    store.close()


def test_they_are_kept_for_a_while_and_then_found_again(store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Facets(store)
    assert kept.now()[0] == NUMBER
    store.upsert(rows(range(NUMBER, NUMBER + 4)), fingerprint="f")
    assert kept.now()[0] == NUMBER
    monkeypatch.setattr(facets, "FRESH_SECONDS", 0.0)
    kept = Facets(store)
    assert kept.now()[0] == NUMBER + 4
    store.upsert(rows(range(NUMBER + 4, NUMBER + 8)), fingerprint="f")
    assert kept.now()[0] == NUMBER + 8
