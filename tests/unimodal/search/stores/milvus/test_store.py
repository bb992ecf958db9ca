"""A store on Milvus holds what every store has to: in a file of Milvus Lite, which the same client
drives.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.unimodal.search.filters.random_filters import FIELDS, random_row, random_tree
from tests.unimodal.search.stores.conformance import Conformance
from tests.unimodal.search.stores.conformance_processes import ProcessConformance
from tests.unimodal.search.stores.store_case import (
    MODEL,
    column,
    everything,
    quiet,
    unit_vectors,
)
from unimodal.config import parse_config
from unimodal.embedder import Embedder
from unimodal.formats import native
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.search.filters.check import check_filter, matches
from unimodal.search.filters.parser import parse_where
from unimodal.search.filters.tree import Compare, Not, StartsWith
from unimodal.search.index.items import IndexConfig
from unimodal.search.index.run import index
from unimodal.search.query.query import Query
from unimodal.search.query.search import search
from unimodal.search.stores.base import IndexSpec, VectorStore
from unimodal.search.stores.copy import copy_store
from unimodal.search.stores.milvus import store as milvus
from unimodal.search.stores.milvus.connection import connect, disconnect, parse_address
from unimodal.search.stores.milvus.rows import create_collection
from unimodal.search.stores.open import open_store
from unimodal.search.stores.schema import Schema

pytest.importorskip("milvus_lite")

DIM = 32
SCHEMA = Schema(
    DIM,
    MODEL,
    vectors=("text",),
    fields={"like": "string", "tags": "strings"},
    words=True,
    thumbnails=True,
)


class TestMilvusLite(Conformance, ProcessConformance):
    capabilities = milvus.LITE_CAPABILITIES

    @staticmethod
    def url(folder: Path) -> str:
        return f"milvus://{folder}/store.db"


def rows(ids: list[str], **columns: Any) -> Any:
    """Rows with a vector each, and more columns."""
    return pa.table(
        {"id": ids, "vector_text": column(unit_vectors(len(ids), seed=5)), **columns}
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VectorStore]:
    """An empty one, with room for words, thumbnails, a string and a list."""
    store = milvus.create(f"milvus://{tmp_path}/new.db", SCHEMA)
    yield store
    store.close()


def test_the_negation_of_any_filter_means_what_the_tree_says(tmp_path: Path) -> None:
    rng = random.Random(7)
    items = [{"id": f"r{n}", **random_row(rng)} for n in range(90)]
    with_vectors = pa.Table.from_pylist(items).append_column(
        "vector_text", column(unit_vectors(90, seed=4))
    )
    store = milvus.create(
        f"milvus://{tmp_path}/new.db",
        Schema(DIM, MODEL, vectors=("text",), fields=FIELDS),
    )
    store.upsert(with_vectors.slice(0, 60), fingerprint=MODEL)
    store.build()  # 60 rows in a file with its indexes, 30 in memory
    store.upsert(with_vectors.slice(60), fingerprint=MODEL)
    for _ in range(120):
        tree = Not(random_tree(rng))
        meant = check_filter(tree, store.schema.fields)
        assert store.count(tree) == sum(matches(meant, item) for item in items), tree
    store.close()


@pytest.mark.parametrize(
    "prefix",
    ["", "a", "a%", "a_", "\\", "ü", "\ud7ff", "😀", "\U0010ffff", "b\U0010ffff"],
)
def test_what_begins_so_is_found_whatever_signs_it_has(
    store: VectorStore, prefix: str
) -> None:
    begins = [
        "",
        "a",
        "a%b",
        "a_b",
        "ab",
        "\\b",
        "ü",
        "v",
        "\ud7ffx",
        "\ue000",
        "😀!",
        "\U0010ffff\U0010ffff",
        "b\U0010ffff",
        "c",
    ]
    items: list[dict[str, Any]] = [
        *({"id": f"i{n}", "like": text} for n, text in enumerate(begins)),
        {"id": "none", "like": None},
    ]
    store.upsert(
        rows([item["id"] for item in items], like=[item["like"] for item in items]),
        fingerprint=MODEL,
    )
    for tree in (StartsWith("like", prefix), Not(StartsWith("like", prefix))):
        wanted = {item["id"] for item in items if matches(tree, item)}
        assert {row["id"] for row in everything(store, where=tree)} == wanted


def test_an_item_without_a_vector_is_no_hit_even_where_all_others_are_worse_than_nothing(
    store: VectorStore,
) -> None:
    vectors = column(np.eye(2, DIM, dtype=np.float32), np.array([True, False]))
    store.upsert(
        pa.table({"id": ["there", "missing"], "vector_text": vectors}),
        fingerprint=MODEL,
    )
    for kind in ("exact", "hnsw"):
        store.build(IndexSpec(kind=kind))  # type: ignore[arg-type]  # one of them
        for exact in (False, True):
            (hits,) = store.search(
                -np.eye(1, DIM, dtype=np.float32),
                5,
                fingerprint=MODEL,
                vector="text",
                exact=exact,
            )
            assert [(hit.id, hit.score) for hit in hits] == [("there", -1.0)]


def test_a_store_moves_from_a_folder_to_milvus_and_back_unchanged(
    tmp_path: Path,
) -> None:
    pytest.importorskip("lancedb")
    from unimodal.search.stores import lance

    folder = lance.create(str(tmp_path / "folder"), SCHEMA, overwrite=False)
    words = ["red shoe", None] * 30
    tags = [["a", "ü"], [], None] * 20
    folder.upsert(
        rows(
            [f"i{n}" for n in range(60)],
            words=words,
            tags=tags,
            thumbnail=[b"x", None] * 30,
        ),
        fingerprint=MODEL,
    )
    url = f"milvus://{tmp_path}/new.db"
    assert copy_store(folder, url) == 60
    moved = milvus.open(url)
    assert copy_store(moved, str(tmp_path / "back")) == 60
    back = lance.open(str(tmp_path / "back"))
    assert everything(back) == everything(moved) == everything(folder)
    assert back.schema == moved.schema == folder.schema
    for store in (folder, moved, back):
        store.close()


def test_a_catalogue_is_indexed_and_asked_on_milvus_as_in_a_folder(
    tmp_path: Path,
    model: DualEncoder,
    tokenizer: Tokenizer,
    embedder: Embedder,
    texts: list[str],
) -> None:
    pytest.importorskip("lancedb")
    native.save(tmp_path / "model", model, tokenizer)
    products = [
        {"id": f"p{n}", "title": text, "price": n / 2} for n, text in enumerate(texts)
    ]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(product) + "\n" for product in products)
    )
    config = parse_config(
        IndexConfig,
        {
            "input": str(tmp_path / "rows.jsonl"),
            "text": "title",
            "fields": ["price"],
            "prefix_dims": [8],
        },
    )
    found = []
    for url in (f"lance://{tmp_path}/folder", f"milvus://{tmp_path}/new.db"):
        for _ in range(2):  # the second time nothing is left to do
            index(str(tmp_path / "model"), config, url, device="cpu")
        store = open_store(url)
        queries = [
            Query(text=texts[1], where=parse_where("price < 2 and not id = 'p0'")),
            Query(like="p2", negatives=[texts[0]], k=3),
            Query(text=texts[2], coarse="prefix:8", group_by="price", exact=True),
        ]
        found.append(
            [
                [
                    (hit.id, hit.fields, hit.score)
                    for hit in search(store, embedder, one)
                ]
                for one in queries
            ]
        )
        assert (
            search(store, embedder, Query(text=texts[1], hybrid=True, k=1))[0].id
            == "p1"
        )
        store.close()
    for folder, server in zip(*found, strict=True):
        assert [hit[:2] for hit in server] == [hit[:2] for hit in folder]
        assert [hit[2] for hit in server] == pytest.approx(
            [hit[2] for hit in folder], abs=1e-5
        )
        assert folder


def test_ids_with_signs_of_the_language_are_ids_and_nothing_else(
    store: VectorStore,
) -> None:
    ids = (
        [f'{n}" or id != "' for n in range(10)]
        + [f"{n}\\" for n in range(10)]
        + ["it's\n", 'x" /*', "{a}", "ü😀"]
    )
    store.upsert(rows(ids), fingerprint=MODEL)
    assert [
        row["id"] for batch in store.scan(batch=3) for row in batch.to_pylist()
    ] == sorted(ids)
    assert store.count(Compare("id", "=", ids[0])) == 1
    assert store.delete(ids=ids[:3]) == 3
    assert store.count() == len(ids) - 3


def test_a_large_upsert_goes_in_several_messages(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(store, milvus.MilvusStore)
    sizes: list[int] = []
    send = store._client.upsert

    def counted(collection: str, batch: list[Any], **options: Any) -> None:
        sizes.append(len(batch))
        send(collection, batch, **options)

    monkeypatch.setattr(milvus, "MESSAGE_BYTES", 5000)
    monkeypatch.setattr(store._client, "upsert", counted)
    images = [bytes([n]) * 300 for n in range(50)]
    store.upsert(
        rows([f"i{n:02d}" for n in range(50)], thumbnail=images), fingerprint=MODEL
    )
    assert sum(sizes) == 50
    assert 1 < max(sizes) < 10
    assert [row["thumbnail"] for row in everything(store)] == images
    found = store.search(
        unit_vectors(50, seed=5),
        5,
        fingerprint=MODEL,
        vector="text",
        fields=["thumbnail"],
    )
    assert [hits[0].fields["thumbnail"] for hits in found] == images


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"words": ["fine", "x" * 70_000]},
            "words of item 'b' has 70000 bytes, and Milvus keeps 65535",
        ),
        ({"like": ["ü" * 40_000, None]}, "like of item 'a' has 80000 bytes"),
        (
            {"thumbnail": [b"", b"x" * 60_000]},
            "thumbnail of item 'b' has 60000 bytes, and Milvus keeps 49149",
        ),
        (
            {"tags": [["x"] * 5000, None]},
            "tags of item 'a' has 5000 strings, and Milvus keeps 4096",
        ),
        ({"tags": [["x" * 70_000], None]}, "a string of 'tags' has 70000 bytes"),
    ],
)
def test_what_milvus_cannot_keep_is_refused_before_anything_is_written(
    store: VectorStore, columns: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        store.upsert(rows(["a", "b"], **columns), fingerprint=MODEL)
    assert store.count() == 0


def test_a_store_names_the_longest_text_and_list_that_it_keeps(
    store: VectorStore,
) -> None:
    longest = store.max_text_bytes
    most = store.max_strings
    assert longest is not None
    assert most is not None
    store.upsert(
        rows(["a"], words=["x" * longest], like=["x" * longest], tags=[["x"] * most]),
        fingerprint=MODEL,
    )
    for too_much in ({"words": ["x" * (longest + 1)]}, {"tags": [["x"] * (most + 1)]}):
        with pytest.raises(ValueError, match="Milvus keeps"):
            store.upsert(rows(["b"], **too_much), fingerprint=MODEL)


def test_more_hits_than_milvus_gives_are_found_here_and_by_words_refused(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert(
        rows([f"i{n}" for n in range(40)], words=["shoe"] * 40), fingerprint=MODEL
    )
    (few,) = store.search(unit_vectors(1, seed=0), 30, fingerprint=MODEL, vector="text")
    monkeypatch.setattr(milvus, "MAX_HITS", 7)
    (many,) = store.search(
        unit_vectors(1, seed=0), 30, fingerprint=MODEL, vector="text"
    )
    assert [hit.id for hit in many] == [hit.id for hit in few]
    assert len(store.search_full_text("shoe", 7)) == 7
    with pytest.raises(
        ValueError,
        match="k 30 is more than 7",
    ):
        store.search_full_text("shoe", 30)


def test_a_change_of_index_leaves_the_other_indexes_alone(store: VectorStore) -> None:
    store.upsert(
        rows(["a", "b"], words=["a red shoe", "a boot"], like=["x", "y"]),
        fingerprint=MODEL,
    )
    kinds = []
    for kind in ("hnsw", "exact", "hnsw", "auto"):
        store.build(IndexSpec(kind=kind))  # type: ignore[arg-type]  # one of them
        assert isinstance(store, milvus.MilvusStore)
        kinds.append(store._index_type("vector_text"))
        assert (
            len(store._client.list_indexes(store._collection)) == 3
        )  # of vector_text, words and like
        assert [hit.id for hit in store.search_full_text("red", 5)] == ["a"]
        assert store.count(Compare("like", "=", "y")) == 1
    assert kinds == ["HNSW", "FLAT", "HNSW", "FLAT"]


def test_two_stores_of_a_file_share_it_and_the_last_one_gives_it_free(
    tmp_path: Path,
) -> None:
    url = f"milvus://{tmp_path}/new.db"
    first = milvus.create(url, SCHEMA)
    second = milvus.open(url)
    first.upsert(rows(["a"]), fingerprint=MODEL)
    first.close()
    first.close()
    assert milvus.exists(url)
    assert second.count() == 1
    second.upsert(rows(["b"]), fingerprint=MODEL)
    second.close()
    count = f"from unimodal.search.stores.milvus.store import open; print(open({url!r}).count())"
    other = subprocess.run(
        [sys.executable, "-c", count],
        capture_output=True,
        text=True,
        env=quiet(),
        check=True,
    )
    assert other.stdout == "2\n"
    assert other.stderr == ""  # neither noise, nor a thread that is killed at the exit


def test_searches_and_writes_of_several_threads_do_not_disturb_each_other(
    store: VectorStore,
) -> None:
    ids = [f"i{n:03d}" for n in range(100)]
    store.upsert(rows(ids), fingerprint=MODEL)
    vectors = unit_vectors(100, seed=5)

    def search(start: int) -> list[str]:
        found = store.search(
            vectors[start : start + 25], 1, fingerprint=MODEL, vector="text"
        )
        return [hits[0].id for hits in found]

    with ThreadPoolExecutor(4) as pool:
        searches = [pool.submit(search, start) for start in (0, 25, 50, 75) * 5]
        writes = [
            pool.submit(store.upsert, rows(ids), fingerprint=MODEL) for _ in range(3)
        ]
        assert [one.result() for one in writes] == [100] * 3
        assert [name for one in searches[:4] for name in one.result()] == ids
        assert all(one.result() for one in searches)


def test_a_store_whose_maker_died_before_its_indexes_were_made_opens(
    tmp_path: Path,
) -> None:
    url = f"milvus://{tmp_path}/new.db"
    place = parse_address(url)
    client, _ = connect(place)
    create_collection(client, place, SCHEMA)
    disconnect(client, place)
    store = milvus.open(url)
    store.upsert(rows(["a"], words=["shoe"]), fingerprint=MODEL)
    assert [hit.id for hit in store.search_full_text("shoe", 1)] == ["a"]
    store.close()


def test_a_collection_that_is_not_ours_is_neither_opened_nor_overwritten(
    tmp_path: Path,
) -> None:
    url = f"milvus://{tmp_path}/new.db?collection=theirs"
    place = parse_address(url)
    client, is_there = connect(place)
    client.create_collection("theirs", dimension=4)
    assert not is_there
    disconnect(client, place)
    with pytest.raises(ValueError, match="is not a unimodal store"):
        milvus.open(url)
    with pytest.raises(ValueError, match="is not a unimodal store"):
        milvus.create(url, SCHEMA, overwrite=True)
    assert not milvus.exists(f"milvus://{tmp_path}/new.db")
    assert milvus.exists(url)


def test_asking_for_a_store_makes_no_file(tmp_path: Path) -> None:
    url = f"milvus://{tmp_path}/deeper/new.db"
    assert not milvus.exists(url)
    with pytest.raises(ValueError, match="holds no store"):
        milvus.open(url)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_kind_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "old.db").write_bytes(b"SQLite format 3")
    with pytest.raises(ValueError, match="cannot be opened by Milvus Lite"):
        milvus.open(f"milvus://{tmp_path}/old.db")
    assert (tmp_path / "old.db").read_bytes() == b"SQLite format 3"


def test_an_exact_search_asks_no_graph(
    store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        milvus, "EF", 1
    )  # a graph that is searched as carelessly as can be
    monkeypatch.setattr(milvus, "REFINE", 1)
    vectors = unit_vectors(1500, seed=5)
    queries = unit_vectors(40, seed=8)
    store.upsert(rows([f"i{n:04d}" for n in range(1500)]), fingerprint=MODEL)
    store.build(IndexSpec(kind="hnsw"))
    exact = store.search(queries, 5, fingerprint=MODEL, vector="text", exact=True)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]  # (Q, k)
    assert [[hit.id for hit in hits] for hits in exact] == [
        [f"i{n:04d}" for n in row] for row in best
    ]
    np.testing.assert_allclose(
        [[hit.score for hit in hits] for hits in exact],
        np.take_along_axis(queries @ vectors.T, best, 1),
        atol=1e-5,
    )
    careless = store.search(queries, 5, fingerprint=MODEL, vector="text")
    assert [[hit.id for hit in hits] for hits in careless] != [
        [hit.id for hit in hits] for hits in exact
    ]
