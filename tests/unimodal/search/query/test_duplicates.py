"""Near-duplicates hang together, however the blocks are cut, among vectors and among the items of a
store.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from tests.unimodal.search.stores.exact_store import ExactStore
from unimodal.search.filters.tree import Compare
from unimodal.search.query import duplicates
from unimodal.search.query.duplicates import groups_of_near, near_duplicates
from unimodal.search.stores.columns import fixed_size_list
from unimodal.search.stores.schema import Schema
from unimodal.vectors import Vectors, normalize


def naive_groups(vectors: Vectors, threshold: float) -> list[list[int]]:
    close = vectors @ vectors.T >= threshold
    left = set(range(len(vectors)))
    groups = []
    while left:
        group = {min(left)}
        while (
            more := {
                other for one in group for other in np.flatnonzero(close[one]).tolist()
            }
            - group
        ):
            group |= more
        left -= group
        groups.append(sorted(group))
    return sorted(
        (group for group in groups if len(group) > 1),
        key=lambda group: (-len(group), group),
    )


@pytest.mark.parametrize("block", [1 << 22, 500, 1])
@pytest.mark.parametrize("threshold", [0.2, 0.6, 0.8, 0.95])
def test_groups_are_those_of_all_pairs(
    block: int, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "BLOCK_SCORES", block)
    vectors = normalize(np.random.default_rng(4).standard_normal((150, 4)))
    expected = naive_groups(vectors, threshold)
    assert groups_of_near(vectors, threshold) == expected
    assert expected


def test_a_chain_of_near_duplicates_is_one_group() -> None:
    angles = np.deg2rad([0, 90, 10, 20, 30, 180])
    vectors = normalize(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert groups_of_near(vectors, 0.98) == [[0, 2, 3, 4]]


def test_at_a_threshold_of_one_every_pair_of_equal_vectors_is_found() -> None:
    vectors = normalize(np.random.default_rng(0).standard_normal((200, 96)))
    assert len(groups_of_near(np.concatenate([vectors, vectors]), 1.0)) == 200


def test_all_vectors_of_a_collapsed_model_are_one_group() -> None:
    assert groups_of_near(normalize(np.ones((3000, 4))), 0.95) == [list(range(3000))]


@pytest.fixture
def store() -> ExactStore:
    """Of items 0 to 7, 0, 2 and 5 are alike, and 1 and 4; 6 has no vector."""
    store = ExactStore(
        Schema(dim=6, fingerprint="f", vectors=("image",), fields={"price": "float"})
    )
    there: npt.NDArray[Any] = np.arange(8) != 6
    vectors = fixed_size_list(normalize(np.eye(6)[[0, 1, 0, 2, 1, 0, 3, 4]]), there)
    ids = [f"item {number}" for number in range(8)]
    store.upsert(
        pa.table(
            {"id": ids, "vector_image": vectors, "price": [float(n) for n in range(8)]}
        ),
        fingerprint="f",
    )
    return store


def test_items_of_a_store_are_grouped_by_id_and_those_without_a_vector_left_out(
    store: ExactStore,
) -> None:
    assert near_duplicates(store, vector="image") == [
        ["item 0", "item 2", "item 5"],
        ["item 1", "item 4"],
    ]


def test_a_filter_bounds_which_items_are_compared(store: ExactStore) -> None:
    assert near_duplicates(store, vector="image", where=Compare("price", "<", 4)) == [
        ["item 0", "item 2"]
    ]


def test_a_store_of_nothing_has_no_near_duplicates(store: ExactStore) -> None:
    assert near_duplicates(store, vector="image", where=Compare("price", "<", 0)) == []


def test_a_vector_that_the_store_has_not_and_a_threshold_that_is_no_cosine_are_refused(
    store: ExactStore,
) -> None:
    with pytest.raises(ValueError, match="no vector 'imag'; did you mean 'image'"):
        near_duplicates(store, vector="imag")
    with pytest.raises(ValueError, match="threshold 95 is not a cosine"):
        near_duplicates(store, vector="image", threshold=95)
