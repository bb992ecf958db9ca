"""A copy has every item, finds them, and says so when it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.unimodal.search.stores.store_case import (
    DIM,
    MODEL,
    column,
    everything,
    unit_vectors,
)
from unimodal.search.filters.tree import IsNull
from unimodal.search.stores.base import VectorStore
from unimodal.search.stores.copy import BATCH, copy_store
from unimodal.search.stores.lance import LanceStore, create
from unimodal.search.stores.open import create_store, open_store
from unimodal.search.stores.schema import Schema

pytest.importorskip("lancedb")

NUM_ROWS = BATCH + 500  # more than one batch
SCHEMA = Schema(
    DIM,
    MODEL,
    vectors=("text", "image"),
    fields={"n": "int"},
    words=True,
    thumbnails=True,
    prefix_dims=(16,),
    binary=True,
    about={"model": "m"},
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VectorStore]:
    store = create_store(str(tmp_path_factory.mktemp("source") / "store"), SCHEMA)
    vectors = unit_vectors(NUM_ROWS, seed=5)
    rows: dict[str, Any] = {
        "id": [f"i{n}" for n in range(NUM_ROWS)],
        "vector_text": column(vectors),
        "vector_image": column(vectors, np.arange(NUM_ROWS) % 3 == 0),
        "n": list(range(NUM_ROWS)),
        "words": [f"word {n}" for n in range(NUM_ROWS)],
        "thumbnail": [b"x"] * NUM_ROWS,
    }
    store.upsert(pa.table(rows), fingerprint=MODEL)
    yield store
    store.close()


def test_a_copy_has_every_item_with_all_its_columns(
    source: VectorStore, tmp_path: Path
) -> None:
    url = str(tmp_path / "copy")
    assert copy_store(source, url) == NUM_ROWS
    target = open_store(url)
    assert target.schema == source.schema
    assert everything(target) == everything(source)
    query = unit_vectors(NUM_ROWS, seed=5)[7:8]
    assert (
        target.search(query, 1, fingerprint=MODEL, vector="text", coarse="binary")[0][
            0
        ].id
        == "i7"
    )
    target.close()


def test_an_empty_store_is_copied_too(tmp_path: Path) -> None:
    assert (
        copy_store(
            create_store(str(tmp_path / "empty"), SCHEMA), str(tmp_path / "copy")
        )
        == 0
    )


def test_what_is_at_the_target_is_replaced_only_on_request(
    source: VectorStore, tmp_path: Path
) -> None:
    url = str(tmp_path / "copy")
    create_store(url, SCHEMA).close()
    with pytest.raises(ValueError, match="already holds a store"):
        copy_store(source, url)
    assert copy_store(source, url, overwrite=True) == NUM_ROWS


class Emptied(LanceStore):
    """A store that somebody empties as soon as its items have been counted."""

    def _count(self, *options: Any) -> int:
        num = super()._count(*options)
        self._delete(IsNull("n"))
        return num


def test_a_source_that_is_emptied_meanwhile_is_reported(tmp_path: Path) -> None:
    store = create(str(tmp_path / "source"), SCHEMA, overwrite=False)
    rows = pa.table(
        {"id": ["a", "b", "c"], "vector_text": column(unit_vectors(3, seed=6))}
    )
    store.upsert(rows, fingerprint=MODEL)
    with pytest.raises(ValueError, match=r"has 0 items, .*had 3 and now has 0"):
        copy_store(Emptied(store.table, SCHEMA), str(tmp_path / "copy"))


class Busy(LanceStore):
    """A store to which somebody adds a row as soon as it has been read."""

    def _scan(self, *options: Any) -> Iterator[Any]:
        yield from super()._scan(*options)
        self.upsert(
            pa.table({"id": ["late"], "vector_text": column(unit_vectors(1, seed=7))}),
            fingerprint=MODEL,
        )


def test_a_source_that_is_written_to_meanwhile_is_reported(tmp_path: Path) -> None:
    store = create(str(tmp_path / "source"), SCHEMA, overwrite=False)
    rows = pa.table(
        {"id": ["a", "b", "c"], "vector_text": column(unit_vectors(3, seed=6))}
    )
    store.upsert(rows, fingerprint=MODEL)
    with pytest.raises(ValueError, match=r"has 3 items, .*had 3 and now has 4"):
        copy_store(Busy(store.table, SCHEMA), str(tmp_path / "copy"))
