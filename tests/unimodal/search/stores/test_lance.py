"""LanceDB holds what every store has to, and what only it can: several writers at once."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.unimodal.search.stores.conformance import Conformance
from tests.unimodal.search.stores.conformance_processes import ProcessConformance
from tests.unimodal.search.stores.store_case import (
    DIM,
    MODEL,
    column,
    everything,
    quiet,
    unit_vectors,
)
from unimodal.search.filters.parser import parse_where
from unimodal.search.stores import lance
from unimodal.search.stores.base import IndexSpec
from unimodal.search.stores.open import create_store, open_store
from unimodal.search.stores.schema import Schema

pytest.importorskip("lancedb")

SCHEMA = Schema(
    DIM,
    MODEL,
    vectors=("text",),
    fields={"writer": "string", "batch": "int"},
    words=True,
)

WRITER_OF_THE_SAME_IDS = """
import sys
import numpy as np, pyarrow as pa
from unimodal.search.stores.open import open_store
store, name = open_store(sys.argv[1]), sys.argv[2]
vector = np.eye(1, store.schema.dim, dtype=np.float32)[0]
print("open", flush=True)
sys.stdin.readline()  # so that all begin at once
for batch in range(8):
    rows = {"id": [f"i{n}" for n in range(40)], "vector_text": [vector] * 40, "words": [name] * 40}
    rows |= {"writer": [name] * 40, "batch": [batch] * 40}
    store.upsert(pa.table(rows), fingerprint=store.schema.fingerprint)
"""


class TestLance(Conformance, ProcessConformance):
    capabilities = lance.CAPABILITIES

    @staticmethod
    def url(folder: Path) -> str:
        return f"lance://{folder}/store"


def test_writers_of_the_same_ids_leave_each_once_while_others_read_and_build(
    tmp_path: Path,
) -> None:
    url = str(tmp_path / "store")
    store = create_store(url, SCHEMA)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER_OF_THE_SAME_IDS, url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=quiet(),
        )
        for name in ("first", "second")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.close()
    query = np.eye(1, DIM, dtype=np.float32)
    while any(writer.poll() is None for writer in writers):
        hits = store.search(query, 100, fingerprint=MODEL, vector="text")[0]
        assert len(hits) in (0, 40)  # all of a batch or none
        assert len({hit.id for hit in hits}) == len(hits)
        store.build(IndexSpec(kind="hnsw"))
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()
        assert writer.wait() == 0
    rows = everything(store)
    assert sorted(row["id"] for row in rows) == sorted(f"i{n}" for n in range(40))
    assert {(row["batch"], row["writer"] == row["words"]) for row in rows} == {
        (7, True)
    }
    store.close()


def test_an_index_is_made_above_the_threshold_and_taken_away_for_exact(
    tmp_path: Path,
) -> None:
    store = create_store(str(tmp_path / "store"), SCHEMA)
    vectors = unit_vectors(300, seed=8)
    ids = [f"i{n}" for n in range(300)]
    store.upsert(
        pa.table({"id": ids, "vector_text": column(vectors)}), fingerprint=MODEL
    )
    indexes = {}
    for spec in (
        IndexSpec(exact_up_to=300),
        IndexSpec(exact_up_to=299),
        IndexSpec(),
        IndexSpec(kind="exact"),
    ):
        store.build(spec)
        assert isinstance(store, lance.LanceStore)
        indexes[spec] = "vector_text" in store.indexed()
        assert [
            hits[0].id
            for hits in store.search(vectors, 1, fingerprint=MODEL, vector="text")
        ] == ids
    assert list(indexes.values()) == [
        False,
        True,
        True,
        False,
    ]  # one that is there is kept


def test_one_row_can_be_indexed(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "store"), SCHEMA)
    query = np.eye(1, DIM, dtype=np.float32)
    store.upsert(
        pa.table({"id": ["a"], "vector_text": column(query)}), fingerprint=MODEL
    )
    store.build(IndexSpec(kind="hnsw"))
    assert store.search(query, 5, fingerprint=MODEL, vector="text")[0][0].id == "a"


def test_a_store_whose_making_was_cut_short_is_completed_by_a_build(
    tmp_path: Path,
) -> None:
    url = str(tmp_path / "store")
    store: Any = create_store(url, SCHEMA)
    for name in store.indexed().values():
        lance.run(store.table.drop_index(name))
    store = open_store(url)
    store.upsert(
        pa.table({"id": ["a"], "words": ["red shoe"], "writer": ["x"]}),
        fingerprint=MODEL,
    )
    store.build()
    assert [
        hit.id
        for hit in store.search_full_text("shoe", 5, where=parse_where("writer = 'x'"))
    ] == ["a"]


def test_a_disk_that_is_full_is_said_and_loses_nothing(tmp_path: Path) -> None:
    num = 100_000 // DIM  # in one file, four times as much as is allowed
    store = create_store(str(tmp_path / "shop"), Schema(DIM, MODEL, vectors=("text",)))
    vectors = column(unit_vectors(num, seed=1))
    rows = pa.table(
        {"id": [f"i{number}" for number in range(num)], "vector_text": vectors}
    )
    store.upsert(rows.slice(0, 10), fingerprint=MODEL)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (100_000, hard)
    )  # of any file: it fails as on a full disk
    try:
        with pytest.raises(
            OSError,
            match=r"cannot use the store's folder: File too large; nothing that was in",
        ):
            store.upsert(rows, fingerprint=MODEL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.count() == 10
    store.upsert(rows, fingerprint=MODEL)
    assert store.count() == num
