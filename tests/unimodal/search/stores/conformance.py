"""What every store must do, whichever engine is behind it; the tests of each engine run it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.unimodal.search.filters.random_filters import FIELDS, random_row, random_tree
from tests.unimodal.search.stores.store_case import (
    DIM,
    MODEL,
    NUM_KINDS,
    NUM_ROWS,
    StoreCase,
    best,
    column,
    everything,
    recall,
    unit_vectors,
)
from unimodal.search.filters.check import check_filter, matches
from unimodal.search.filters.parser import parse_where
from unimodal.search.stores.base import IndexSpec, VectorStore
from unimodal.search.stores.capabilities import CAPABILITIES, UnsupportedError
from unimodal.search.stores.open import create_store


class Conformance(StoreCase):
    """Searches, filters, full text and writes."""

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
