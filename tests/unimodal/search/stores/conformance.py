"""What every store has to hold, whichever engine is behind it; test_lance.py and test_milvus.py run
it.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from tests.unimodal.search.filters.test_check import FIELDS, random_row, random_tree
from unimodal.search.filters.check import check_filter, matches
from unimodal.search.filters.parser import parse_where
from unimodal.search.stores.base import IndexSpec, VectorStore
from unimodal.search.stores.capabilities import CAPABILITIES, UnsupportedError
from unimodal.search.stores.columns import fixed_size_list
from unimodal.search.stores.copy import copy_store
from unimodal.search.stores.open import create_store, open_store, store_exists
from unimodal.search.stores.schema import Schema
from unimodal.vectors import Vectors

# N rows, D dimensions, Q queries

DIM = 32
NUM_ROWS = 5000
NUM_KINDS = 50  # a filter by kind keeps 2 %
MODEL = "fingerprint-of-the-model"

WRITER = """
import sys
import numpy as np, pyarrow as pa
from unimodal.search.stores.open import open_store
store = open_store(sys.argv[1])
vector = np.eye(1, store.schema.dim, dtype=np.float32)[0]
for batch in range(int(sys.argv[2])):
    ids = [f"{batch}-{n}" for n in range(20)]
    store.upsert(pa.table({"id": ids, "vector_text": [vector] * 20}), fingerprint=store.schema.fingerprint)
    print(batch, flush=True)
"""


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


class Conformance:
    """Subclassed for each engine, which says what it is called and can."""

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

    def test_it_can_do_what_it_says(self, store: VectorStore) -> None:
        assert store.capabilities == self.capabilities
        assert store.capabilities <= set(CAPABILITIES)

    def test_an_hnsw_index_finds_95_percent_of_what_an_exact_search_finds(
        self, store: VectorStore
    ) -> None:
        found = store.search(
            self.queries, 10, fingerprint=MODEL, vector="text", fields=["number"]
        )
        wanted = [best(row, 10) for row in self.queries @ self.vectors.T]
        assert recall(found, wanted) >= 0.95
        assert all(len(hits) == 10 for hits in found)

    def test_scores_are_cosines_best_first(self, store: VectorStore) -> None:
        for query, hits in zip(
            self.queries,
            store.search(self.queries, 5, fingerprint=MODEL, vector="text"),
            strict=True,
        ):
            cosines = [
                float(query @ self.vectors[hit.fields["number"]]) for hit in hits
            ]
            assert [hit.score for hit in hits] == pytest.approx(cosines, abs=2e-5)
            assert cosines == sorted(cosines, reverse=True)

    def test_a_filter_that_keeps_2_percent_costs_no_recall(
        self, store: VectorStore
    ) -> None:
        where = parse_where("kind = 'kind-7'")
        kept = np.arange(NUM_ROWS) % NUM_KINDS == 7
        found = store.search(
            self.queries, 10, fingerprint=MODEL, vector="text", where=where
        )
        wanted = [
            best(np.where(kept, row, -9), 10) for row in self.queries @ self.vectors.T
        ]
        assert recall(found, wanted) >= 0.95
        assert all(hit.fields["kind"] == "kind-7" for hits in found for hit in hits)

    def test_an_exact_search_is_exact(self, store: VectorStore) -> None:
        found = store.search(
            self.queries, 10, fingerprint=MODEL, vector="text", exact=True
        )
        wanted = [best(row, 10) for row in self.queries @ self.vectors.T]
        assert recall(found, wanted) == 1

    def test_an_item_without_a_vector_is_not_found_by_it(
        self, store: VectorStore
    ) -> None:
        some = -self.vectors[:50:5]  # whose own image is missing
        for exact in (False, True):
            found = store.search(
                some, 50, fingerprint=MODEL, vector="image", exact=exact
            )
            assert all(
                self.has_image[hit.fields["number"]] for hits in found for hit in hits
            )
            assert all(len(hits) == 50 and hits[0].vector == "image" for hits in found)

    @pytest.mark.parametrize("coarse", ["prefix:16", "binary"])
    def test_a_first_pass_over_shorter_copies_is_re_ranked_by_whole_vectors(
        self, store: VectorStore, coarse: str, tmp_path: Path
    ) -> None:
        ability = coarse.partition(":")[0]
        if ability not in self.capabilities:
            options = (
                {"prefix_dims": (16,)} if ability == "prefix" else {"binary": True}
            )
            with pytest.raises(UnsupportedError, match="cannot keep"):
                create_store(self.url(tmp_path), self.schema(**options))
            return
        where = parse_where("number >= 1000")
        found = store.search(
            self.queries,
            10,
            fingerprint=MODEL,
            vector="text",
            where=where,
            coarse=coarse,
            candidates=500,
        )
        kept = np.arange(NUM_ROWS) >= 1000
        wanted = [
            best(np.where(kept, row, -9), 10) for row in self.queries @ self.vectors.T
        ]
        assert recall(found, wanted) >= 0.95
        for query, hits in zip(self.queries, found, strict=True):
            cosines = [
                float(query @ self.vectors[hit.fields["number"]]) for hit in hits
            ]
            assert [hit.score for hit in hits] == pytest.approx(cosines, abs=1e-6)
            assert cosines == sorted(cosines, reverse=True)
            assert set(hits[0].fields) == {"kind", "number"}

    def test_more_hits_than_there_are_items_are_all_items(
        self, store: VectorStore
    ) -> None:
        where = parse_where("number < 30")
        found = store.search(
            self.queries[:1], 400, fingerprint=MODEL, vector="text", where=where
        )
        assert {hit.fields["number"] for hit in found[0]} == set(range(30))

    def test_rows_that_come_after_the_build_are_found_and_old_ones_are_not(
        self, tmp_path: Path
    ) -> None:
        store = create_store(self.url(tmp_path), self.schema(fields={"kind": "string"}))
        vectors = unit_vectors(600, seed=2)
        ids = [f"i{n}" for n in range(600)]
        rows = {
            "id": ids[:500],
            "vector_text": column(vectors[:500]),
            "kind": ["old"] * 500,
        }
        if self.schema().words:
            rows["words"] = [f"word{n}" for n in range(500)]
        store.upsert(pa.table(rows), fingerprint=MODEL)
        store.build(IndexSpec(kind="hnsw"))
        late = {
            "id": [*ids[:10], *ids[500:]],
            "vector_text": column(vectors[490:]),
            "kind": ["new"] * 110,
        }
        if self.schema().words:
            late["words"] = [f"late{n}" for n in range(110)]
        store.upsert(pa.table(late), fingerprint=MODEL)
        for built in (False, True):
            found = store.search(vectors[500:], 1, fingerprint=MODEL, vector="text")
            assert [hits[0].id for hits in found] == ids[500:]
            found = store.search(vectors[:10], 1, fingerprint=MODEL, vector="text")
            assert all(hits[0].id not in ids[:10] for hits in found)
            assert store.count(parse_where("kind = 'new'")) == 110
            assert store.count(parse_where("kind = 'old'")) == 490
            if self.schema().words:
                assert [hit.id for hit in store.search_full_text("late0", 5)] == ["i0"]
                assert store.search_full_text("word0", 5) == []
                assert [hit.id for hit in store.search_full_text("word77", 5)] == [
                    "i77"
                ]
            if not built:
                store.build()
        store.close()

    def test_an_upsert_replaces_the_whole_row(self, small: VectorStore) -> None:
        rows = {
            "id": ["a1", "b"],
            "vector_text": column(np.eye(12, DIM, dtype=np.float32)[10:]),
            "price": [7.5, 8.5],
        }
        assert small.upsert(pa.table(rows), fingerprint=MODEL) == 2
        assert small.count() == 11
        (hit,) = small.search(
            np.eye(12, DIM, dtype=np.float32)[10:11],
            1,
            fingerprint=MODEL,
            vector="text",
        )[0]
        assert (hit.id, hit.fields) == ("a1", {"price": 7.5, "tags": None})
        old = small.search(
            np.eye(2, DIM, dtype=np.float32)[1:], 11, fingerprint=MODEL, vector="text"
        )[0]
        assert max(hit.score for hit in old) < 0.1
        (row,) = everything(small, where=parse_where("id = 'a1'"))
        assert row["thumbnail"] is None

    def test_deleting_by_id_and_by_filter_counts_what_was_there(
        self, small: VectorStore
    ) -> None:
        assert small.delete(ids=["a1", "a2", "a1", "nobody"]) == 2
        assert small.delete(ids=["a1"]) == 0
        assert small.delete(where=parse_where("price > 6")) == 3
        assert {row["id"] for row in everything(small)} == {
            "a0",
            "a3",
            "a4",
            "a5",
            "a6",
        }
        found = small.search(
            np.eye(10, DIM, dtype=np.float32)[1:3], 10, fingerprint=MODEL, vector="text"
        )
        assert all(len(hits) == 5 for hits in found)
        with pytest.raises(ValueError, match="ids or where"):
            small.delete()

    def test_what_was_put_in_comes_out_the_same(self, small: VectorStore) -> None:
        rows = {row["id"]: row for row in everything(small)}
        assert set(rows["a0"]) == set(small.schema.item_columns)
        for row in self.ten_rows().to_pylist():
            there = rows[row["id"]]
            assert {name: there[name] for name in row} == row
            assert there["vector_image"] is None

    def test_a_scan_takes_the_columns_and_the_batch_that_were_asked_for(
        self, small: VectorStore
    ) -> None:
        batches = list(
            small.scan(
                where=parse_where("price >= 4"), columns=["price", "id"], batch=4
            )
        )
        assert all(
            isinstance(batch, pa.RecordBatch) and 0 < len(batch) <= 4
            for batch in batches
        )
        assert batches[0].schema.names == ["price", "id"]
        assert sorted(id for batch in batches for id in batch["id"].to_pylist()) == [
            "a4",
            "a5",
            "a6",
            "a7",
            "a8",
            "a9",
        ]

    def test_hits_carry_the_fields_that_were_asked_for(
        self, small: VectorStore
    ) -> None:
        query = np.eye(6, DIM, dtype=np.float32)[5:]
        carried = {
            names: small.search(
                query, 1, fingerprint=MODEL, vector="text", fields=names
            )[0][0].fields
            for names in (None, (), ("tags",), ("thumbnail", "price"))
        }
        assert carried == {
            None: {"price": 5.0, "tags": []},
            (): {},
            ("tags",): {"tags": []},
            ("thumbnail", "price"): {"thumbnail": b"\xff\xd8\x05", "price": 5.0},
        }

    def test_equal_scores_come_in_the_order_of_their_ids(
        self, small: VectorStore
    ) -> None:
        ids = ["q", "c", "z", "m"]
        vectors = np.repeat(np.eye(20, DIM, dtype=np.float32)[19:], 4, axis=0)
        small.upsert(
            pa.table({"id": ids, "vector_text": column(vectors)}), fingerprint=MODEL
        )
        found = small.search(vectors[:1], 4, fingerprint=MODEL, vector="text")[0]
        assert [hit.id for hit in found] == sorted(ids)

    def test_words_find_what_has_them_the_rarest_first(
        self, small: VectorStore
    ) -> None:
        if "full_text" not in self.capabilities:
            with pytest.raises(UnsupportedError, match="cannot search full text"):
                small.search_full_text("shoe", 3)
            return
        assert small.search_full_text("Five shoe", 3)[0].id == "a4"
        where = parse_where("price in (2.0, 5.0) or price is null")
        found = small.search_full_text(
            'shoe AND "(', 10, where=where, fields=["price", "words"]
        )
        assert {hit.id for hit in found} == {"a2", "a3", "a5"}
        assert all(
            hit.vector == "words" and hit.score > 0 and "shoe" in hit.fields["words"]
            for hit in found
        )
        assert (
            small.search_full_text("boot", 3) == small.search_full_text("?!", 3) == []
        )

    def test_an_empty_store_finds_nothing_and_can_be_built(
        self, tmp_path: Path
    ) -> None:
        store = create_store(self.url(tmp_path), self.schema(fields={"price": "float"}))
        for _ in range(2):
            assert store.count() == 0
            assert store.search(
                self.queries[:2], 3, fingerprint=MODEL, vector="text"
            ) == [[], []]
            assert list(store.scan()) == []
            assert not store.schema.words or store.search_full_text("shoe", 3) == []
            store.build(IndexSpec(kind="hnsw"))
        store.close()

    def test_filters_mean_what_the_tree_says(self, tmp_path: Path) -> None:
        rng = random.Random(3)
        rows = [{"id": f"r{n}", **random_row(rng)} for n in range(120)]
        store = create_store(self.url(tmp_path), self.schema(fields=FIELDS))
        table = pa.Table.from_pylist(rows)
        store.upsert(
            table.append_column("vector_text", column(unit_vectors(120, seed=4))).slice(
                0, 90
            ),
            fingerprint=MODEL,
        )
        # The first once was true of everything, null or not, to an engine's optimiser.
        trees = [
            parse_where("stock not in (1) or stock not in (2)"),
            *(random_tree(rng) for _ in range(60)),
        ]
        for num_rows in (90, 120):
            for tree in trees:
                meant = check_filter(tree, store.schema.fields)
                wanted = {row["id"] for row in rows[:num_rows] if matches(meant, row)}
                ids = [
                    id
                    for batch in store.scan(where=tree, columns=["id"])
                    for id in batch["id"].to_pylist()
                ]
                assert sorted(ids) == sorted(wanted), tree
                assert store.count(tree) == len(wanted), tree
            # Again with indexes, and rows that came after them.
            store.build()
            store.upsert(
                table.append_column("vector_text", column(unit_vectors(120, seed=4))),
                fingerprint=MODEL,
            )
        store.close()

    def test_a_search_never_drops_its_filter(self, store: VectorStore) -> None:
        for text, num in [
            ("kind = 'nothing such'", 0),
            ("number in (1, 2)", 2),
            ("not number > 1", 2),
        ]:
            for coarse in ("", *(["prefix:16"] if store.schema.prefix_dims else [])):
                found = store.search(
                    self.queries[:3],
                    10,
                    fingerprint=MODEL,
                    vector="text",
                    where=parse_where(text),
                    coarse=coarse,
                )
                assert [len(hits) for hits in found] == [num] * 3
        with pytest.raises(
            ValueError, match="'nummer', which is not a field; did you mean 'number'"
        ):
            store.search(
                self.queries,
                10,
                fingerprint=MODEL,
                vector="text",
                where=parse_where("nummer = 1"),
            )

    def test_vectors_and_queries_of_another_model_are_refused(
        self, small: VectorStore
    ) -> None:
        with pytest.raises(ValueError, match="of these vectors is another"):
            small.upsert(self.ten_rows(), fingerprint="other")
        with pytest.raises(ValueError, match="of these queries is another"):
            small.search(self.queries, 1, fingerprint="other", vector="text")

    def test_a_store_that_another_made_anew_is_known_by_its_new_model(
        self, tmp_path: Path
    ) -> None:
        url = self.url(tmp_path)
        store = create_store(url, self.schema())
        store.upsert(
            pa.table({"id": ["a"], "vector_text": column(self.queries[:1])}),
            fingerprint=MODEL,
        )
        anew = create_store(
            url, replace(self.schema(), fingerprint="other"), overwrite=True
        )
        anew.upsert(
            pa.table({"id": ["b"], "vector_text": column(self.queries[:1])}),
            fingerprint="other",
        )
        with pytest.raises(ValueError, match="the store holds vectors of"):
            store.search(self.queries, 1, fingerprint=MODEL, vector="text")
        with pytest.raises(ValueError, match="the store holds vectors of"):
            store.upsert(
                pa.table({"id": ["c"], "vector_text": column(self.queries[:1])}),
                fingerprint=MODEL,
            )
        assert (
            store.search(self.queries[:1], 2, fingerprint="other", vector="text")[0][
                0
            ].id
            == "b"
        )
        assert store.count() == 1
        store.close()
        anew.close()

    def test_a_store_is_not_copied_over_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = self.url(tmp_path)
        store = create_store(url, self.schema())
        store.upsert(
            pa.table({"id": ["a"], "vector_text": column(self.queries[:1])}),
            fingerprint=MODEL,
        )
        monkeypatch.chdir(tmp_path)
        for spelled in (
            url,
            f"{url.partition('://')[0]}://{tmp_path}/../{tmp_path.name}/{Path(url).name}",
        ):
            with pytest.raises(
                ValueError, match="is the store that is copied; choose another place"
            ):
                copy_store(store, spelled, overwrite=True)
        assert store.count() == 1
        store.close()

    def test_a_store_opened_again_is_the_same(self, tmp_path: Path) -> None:
        url = self.url(tmp_path)
        assert not store_exists(url)
        schema = self.schema(
            fields={"price": "float", "tags": "strings"},
            thumbnails=True,
            about={"model": "größer"},
        )
        store = create_store(url, schema)
        store.upsert(self.ten_rows(), fingerprint=MODEL)
        rows = everything(store)
        store.close()
        assert store_exists(url)
        with pytest.raises(ValueError, match="already holds a store"):
            create_store(url, schema)
        store = open_store(url)
        assert store.schema == schema
        assert everything(store) == rows
        store.close()
        store = create_store(url, self.schema(), overwrite=True)
        assert store.count() == 0
        assert store.schema == self.schema()
        store.close()

    def test_kill_9_loses_nothing_that_an_upsert_returned_for(
        self, tmp_path: Path
    ) -> None:
        url = self.url(tmp_path)
        create_store(url, self.schema()).close()
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, url, "100000"],
            stdout=subprocess.PIPE,
            text=True,
            env=quiet(),
        ) as writer:
            assert writer.stdout is not None
            acknowledged = [next(writer.stdout) for _ in range(6)]
            writer.send_signal(signal.SIGKILL)
            acknowledged += writer.stdout.readlines()
        store = open_store(url)
        ids = {row["id"] for row in everything(store, columns=["id"])}
        assert ids >= {f"{int(batch)}-{n}" for batch in acknowledged for n in range(20)}
        assert (
            store.count() == len(ids) == 20 * len({id.partition("-")[0] for id in ids})
        )  # a batch is in or not
        store.build()
        assert store.count() == len(ids)
        store.close()

    def test_a_second_process_writes_beside_this_one_or_is_refused_in_words(
        self, tmp_path: Path
    ) -> None:
        url = self.url(tmp_path)
        store = create_store(url, self.schema())
        second = subprocess.run(
            [sys.executable, "-c", WRITER, url, "3"],
            capture_output=True,
            text=True,
            env=quiet(),
            check=False,
        )
        if "multiwriter" in self.capabilities:
            assert second.returncode == 0, second.stderr
            assert store.count() == 60
        else:
            assert "another process" in second.stderr.splitlines()[-1]
            assert second.returncode == 1
            assert store.count() == 0
        store.close()


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
