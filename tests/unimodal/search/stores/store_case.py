"""The stores that every engine is tested with, and what the tests need to read them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from unimodal.search.stores.base import IndexSpec, VectorStore
from unimodal.search.stores.columns import fixed_size_list
from unimodal.search.stores.open import create_store
from unimodal.search.stores.schema import Schema
from unimodal.vectors import Vectors

# N rows, D dimensions, Q queries

DIM = 32
NUM_ROWS = 5000
NUM_KINDS = 50  # a filter by kind keeps 2 %
MODEL = "fingerprint-of-the-model"


def unit_vectors(num: int, seed: int, dim: int = DIM) -> Vectors:
    """(num, dim) around a hundred centres, as embeddings are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(100, dim))
    vectors = centres[rng.integers(0, 100, num)] + 0.7 * rng.normal(size=(num, dim))
    return np.asarray(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32
    )


def column(vectors: Vectors, valid: NDArray[np.bool_] | None = None) -> Any:
    """A column of vectors, null where not valid."""
    return fixed_size_list(
        vectors, np.ones(len(vectors), dtype=bool) if valid is None else valid
    )


def best(scores: NDArray[np.float32], k: int) -> set[int]:
    """The k highest of (N,)."""
    return set(np.argsort(-scores, kind="stable")[:k].tolist())


class StoreCase:
    """Stores of one engine; a subclass names its capabilities and its URLs."""

    capabilities: ClassVar[frozenset[str]]

    vectors = unit_vectors(NUM_ROWS, seed=0)  # (N, D)
    queries = unit_vectors(20, seed=1)  # (Q, D)
    has_image = np.arange(NUM_ROWS) % 5 == 1

    @staticmethod
    def url(folder: Path) -> str:
        """A place for a store in the folder."""
        raise NotImplementedError

    @classmethod
    def schema(cls, **options: Any) -> Schema:
        options = {
            "vectors": ("text", "image"),
            "words": "full_text" in cls.capabilities,
            **options,
        }
        return Schema(DIM, MODEL, **options)

    @pytest.fixture(scope="class")
    @classmethod
    def store(cls, tmp_path_factory: pytest.TempPathFactory) -> Any:
        """5,000 rows with all that the engine can do, in an HNSW index."""
        can = cls.capabilities
        schema = cls.schema(
            fields={"kind": "string", "number": "int"},
            prefix_dims=(16,) if "prefix" in can else (),
            binary="binary" in can,
        )
        store = create_store(cls.url(tmp_path_factory.mktemp("store")), schema)
        for start in range(0, NUM_ROWS, 2500):
            part = slice(start, start + 2500)
            numbers = range(NUM_ROWS)[part]
            rows = {
                "id": [f"item-{n:05d}" for n in numbers],
                "vector_text": column(cls.vectors[part]),
                "vector_image": column(-cls.vectors[part], cls.has_image[part]),
                "kind": [f"kind-{n % NUM_KINDS}" for n in numbers],
                "number": list(numbers),
            }
            assert store.upsert(pa.table(rows), fingerprint=MODEL) == 2500
        store.build(IndexSpec(kind="hnsw"))
        yield store
        store.close()

    @pytest.fixture
    def small(self, tmp_path: Path) -> Any:
        """Ten rows, not built: `a0` to `a9`, the n-th axis each."""
        fields = {"price": "float", "tags": "strings"}
        store = create_store(
            self.url(tmp_path), self.schema(fields=fields, thumbnails=True)
        )
        store.upsert(self.ten_rows(), fingerprint=MODEL)
        yield store
        store.close()

    def ten_rows(self) -> pa.Table:
        rows: dict[str, Any] = {
            "id": [f"a{n}" for n in range(10)],
            "vector_text": column(np.eye(10, DIM, dtype=np.float32)),
            "price": [None if n == 3 else float(n) for n in range(10)],
            "tags": [["even"] if n % 2 == 0 else [] for n in range(10)],
            "thumbnail": [b"\xff\xd8" + bytes([n]) for n in range(10)],
        }
        if "full_text" in self.capabilities:
            numbers = ["one", "two", "three", "four", "five", "six"]
            rows["words"] = [f"a red shoe, number {numbers[n % 6]}" for n in range(10)]
        return pa.table(rows)


def recall(found: list[list[Any]], wanted: list[set[int]]) -> float:
    """The share of the wanted numbers that were found."""
    shares = [
        len({hit.fields["number"] for hit in hits} & numbers) / len(numbers)
        for hits, numbers in zip(found, wanted, strict=True)
    ]
    return float(np.mean(shares))


def everything(store: VectorStore, **options: Any) -> list[dict[str, Any]]:
    """The rows of a scan, by id."""
    rows: list[dict[str, Any]] = [
        row for batch in store.scan(**options) for row in batch.to_pylist()
    ]
    return sorted(rows, key=lambda row: str(row["id"]))


def quiet() -> dict[str, str]:
    """The environment of a process that shares two cores with others."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}
