"""The best item of each value of a field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.unimodal.search.query.catalogue import (
    CHEAP,
    NUM_ITEMS,
    hits_of,
    ids,
    nearest,
    vectors_of,
)
from tests.unimodal.search.stores.exact_store import ExactStore
from unimodal.search.filters.tree import And, Compare
from unimodal.search.query import groups, ranking
from unimodal.search.query.query import Query
from unimodal.search.query.search import find
from unimodal.search.stores.hits import Hit
from unimodal.vectors import Vectors


@pytest.mark.parametrize("k", [1, 4, 10])
def test_a_group_is_its_best_item_with_the_number_of_others(
    store: ExactStore, query_vector: Vectors, k: int
) -> None:
    expected: dict[str, str] = {}
    for name in nearest("fused", query_vector[0], 60):
        row = int(name[1:])
        expected.setdefault(f"p{row // 5}" if row < 50 else name, name)
    found = hits_of(store, Query(text="a hat", group_by="parent", k=k), query_vector)
    assert ids(found) == list(expected.values())[:k]
    assert [hit.more for hit in found] == [
        4 if hit.fields["parent"] else 0 for hit in found
    ]


def test_k_groups_are_found_however_large_the_first_is(
    store: ExactStore,
) -> None:
    query = vectors_of("fused")[3]
    ranks = np.argsort(np.argsort(-vectors_of("fused") @ query))
    groups = pa.array(["all" if rank < 50 else f"rest {rank}" for rank in ranks])
    store.table = store.table.set_column(
        store.table.column_names.index("parent"), "parent", groups
    )
    found = hits_of(store, Query(text="a hat", group_by="parent", k=5), query[None])
    assert [hit.fields["parent"] for hit in found] == [
        "all",
        "rest 50",
        "rest 51",
        "rest 52",
        "rest 53",
    ]
    assert found[0].more == 49
    assert store.depths[0] < 60  # it began with less than everything


def test_a_group_is_not_fetched_again_in_later_rounds(
    store: ExactStore, query_vector: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    nearest_of = ExactStore._nearest

    def counted(*words: Any) -> list[list[Hit]]:
        found = nearest_of(*words)
        fetched.extend(hit.id for hits in found for hit in hits)
        return found

    monkeypatch.setattr(ExactStore, "_nearest", counted)
    halves = pa.array([["all", "few"][row < 10] for row in range(NUM_ITEMS)])
    store.table = store.table.set_column(
        store.table.column_names.index("parent"), "parent", halves
    )
    found = hits_of(store, Query(text="a hat", group_by="parent", k=5), query_vector)
    assert {hit.fields["parent"]: hit.more for hit in found} == {"all": 49, "few": 9}
    assert len(fetched) <= 20 + 10


@pytest.mark.parametrize("hybrid", [False, True])
def test_groups_of_several_rounds_are_unique_and_best_first(
    store: ExactStore,
    query_vector: Vectors,
    hybrid: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranking, "HYBRID_DEPTH", 1)
    monkeypatch.setattr(groups, "GROUP_DEPTH", 1)
    found = hits_of(
        store,
        Query(text="green hat", group_by="parent", k=20, hybrid=hybrid),
        query_vector,
    )
    assert sorted(hit.fields["parent"] or hit.id for hit in found) == sorted(
        [*(f"p{number}" for number in range(10)), *(f"i{row}" for row in range(50, 60))]
    )
    assert [hit.score for hit in found] == sorted(
        (hit.score for hit in found), reverse=True
    )


def test_fewer_groups_than_k_are_all_that_match(
    store: ExactStore, query_vector: Vectors
) -> None:
    found = hits_of(
        store, Query(text="a hat", group_by="parent", k=50, where=CHEAP), query_vector
    )
    assert {hit.fields["parent"]: hit.more for hit in found} == {
        "p0": 4,
        "p1": 4,
        "p2": 1,
    }


def test_a_group_counts_only_items_that_match_the_filter(
    store: ExactStore, query_vector: Vectors
) -> None:
    where = And((CHEAP, Compare("price", ">=", 3)))
    found = hits_of(
        store, Query(text="a hat", group_by="parent", where=where), query_vector
    )
    assert {hit.fields["parent"]: hit.more for hit in found} == {
        "p0": 1,
        "p1": 4,
        "p2": 1,
    }


def test_hits_carry_the_group_only_where_the_fields_name_it(
    store: ExactStore, query_vector: Vectors
) -> None:
    query = Query(text="a hat", group_by="parent", k=3)
    found = find(
        store, query, list(query_vector), fingerprint="model", fields=["price"]
    )
    assert [list(hit.fields) for hit in found] == [["price"]] * 3
