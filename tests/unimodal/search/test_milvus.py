"""A store on Milvus, tested in a file of Milvus Lite, which the same client drives."""

from __future__ import annotations

import random
from pathlib import Path
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from unimodal.search.milvus import create
from unimodal.search.predicate import (
    And,
    Compare,
    In,
    IsNull,
    Not,
    Or,
    Predicate,
    StartsWith,
    Value,
    matches,
)
from unimodal.search.schema import Schema
from unimodal.search.store import VectorStore

pytest.importorskip("milvus_lite")

from tests.unimodal.search.conformance import Conformance

class TestMilvusLite(Conformance):
    capabilities = frozenset({"filter", "words", "prefix", "persistent"})

    @staticmethod
    def url(folder: Path) -> str:
        return f"milvus://{folder}/store.db"


DIM = 16
FIELDS = {"price": "float", "stock": "int", "sold": "bool", "like": "string", "tags": "strings"}
SCHEMA = Schema(
    DIM,
    "f1",
    vectors=("text", "image"),
    fields=FIELDS,
    words=True,
    thumbnails=True,
    prefix_dims=(8,),
    about={"model": "ü"},
)


def unit_vectors(num: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(num, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


STRINGS = [
    "",
    "a",
    "a%b",
    "a_b",
    "a\\b",
    'a"b',
    "it's",
    "ab",
    "b",
    "ü😀",
    "ü",
    "line\nfeed\ttab\rend",
    "\x01\x7f",
    "{x}",
    "😀\U0010ffff",
]


def item(number: int, chance: random.Random) -> dict[str, Any]:
    """A row with nulls, quotes, lists and other alphabets."""

    def maybe(value: Any) -> Any:
        return value if chance.random() < 0.8 else None

    return {
        "id": f"i{number}" if number % 7 else f'it\'s "{number}" ü',
        "vector_text": maybe(unit_vectors(1, number)[0].tolist()),
        "vector_image": maybe(unit_vectors(1, 1000 + number)[0].tolist()),
        "words": maybe(chance.choice(["red bag", "blue shoe of leather", "a red shoe"])),
        "thumbnail": maybe(bytes([number % 256]) * 9),
        "price": maybe(chance.choice([0.0, -1.5, 9.5, 50.0, 1e16, 1e-7])),
        "stock": maybe(chance.choice([0, -3, 7, 2**62])),
        "sold": maybe(chance.random() < 0.5),
        "like": maybe(chance.choice(STRINGS)),
        "tags": maybe(chance.sample(STRINGS, chance.randrange(3))),
    }


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    from unimodal.search.rows import arrow_schema

    return pa.Table.from_pylist(rows, arrow_schema(SCHEMA, copies=False))


def by_id(store: VectorStore, where: Predicate | None = None) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for batch in store.scan(where=where) for row in batch.to_pylist()}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    chance = random.Random(0)
    return [item(number, chance) for number in range(120)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]) -> Iterator[VectorStore]:
    """A store to read only."""
    store = create(f"milvus://{tmp_path_factory.mktemp('milvus')}/shared.db", SCHEMA)
    store.upsert(table_of(rows[:80]), fingerprint="f1")
    store.build()  # 80 rows in a file, with their indexes, and 40 in memory
    store.upsert(table_of(rows[80:]), fingerprint="f1")
    yield store
    store.close()


def test_rows_come_back_as_they_went_in(shared: VectorStore, rows: list[dict[str, Any]]) -> None:
    for row in by_id(shared).values():
        assert row == next(one for one in rows if one["id"] == row["id"])


def random_leaf(chance: random.Random) -> Predicate:
    values: dict[str, list[Value]] = {
        "price": [0, -1.5, 9.5, 50, 1e16, 1e-7, 3.25],
        "stock": [0, -3, 7, 2**62],
        "like": list(STRINGS),
        "tags": list(STRINGS),
        "id": ["i1", 'it\'s "7" ü', "zz"],
        "sold": [True, False],
    }
    name = chance.choice(list(values))
    kind = chance.randrange(4)
    if kind == 0:
        return IsNull(name)
    if kind == 1 and name in ("like", "id"):
        return StartsWith(name, str(chance.choice([*values[name], "it", "i", "\U0010ffff"])))
    if kind == 2:
        return In(name, tuple(chance.sample(values[name], chance.randrange(1, 1 + min(3, len(values[name]))))))
    operators = ["=", "!="] if name in ("sold", "tags") else ["=", "!=", "<", "<=", ">", ">="]
    return Compare(name, chance.choice(operators), chance.choice(values[name]))  # type: ignore[arg-type]


def random_tree(chance: random.Random, depth: int = 3) -> Predicate:
    kind = chance.randrange(4) if depth else 3
    if kind == 0:
        return Not(random_tree(chance, depth - 1))
    if kind < 3:
        parts = tuple(random_tree(chance, depth - 1) for _ in range(chance.randrange(1, 4)))
        return And(parts) if kind == 1 else Or(parts)
    return random_leaf(chance)


def test_any_filter_keeps_what_it_means_to(shared: VectorStore, rows: list[dict[str, Any]]) -> None:
    chance = random.Random(1)
    trees = [random_tree(chance, 0) for _ in range(150)] + [Not(random_tree(chance, 0)) for _ in range(150)]
    for tree in [*trees, *(random_tree(chance) for _ in range(200))]:
        wanted = sum(matches(tree, row) for row in rows)
        assert shared.count(tree) == wanted, tree
