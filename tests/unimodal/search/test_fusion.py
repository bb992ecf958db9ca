"""Lists of hits become one: by comparable scores, by ranks, by groups."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from tests.unimodal.search.exact_store import ExactStore
from unimodal.search import fusion
from unimodal.search.fusion import Found, Standard, best_of_groups, best_of_kinds, fused_by_rank, standards_of
from unimodal.search.rows import fixed_size_list
from unimodal.search.schema import Schema
from unimodal.search.store import Hit
from unimodal.vectors import unit

DIM = 16


def hits(vector: str, **scores: float) -> list[Hit]:
    return [Hit(name, score, vector, {}) for name, score in scores.items()]


def store_of(texts: NDArray[np.float32], pictures: NDArray[np.float32]) -> ExactStore:
    """The texts are items of their own, and so are the pictures."""
    store = ExactStore(Schema(dim=DIM, fingerprint="f", vectors=("text", "image")))
    both = np.concatenate([texts, pictures])
    is_text = np.arange(len(both)) < len(texts)
    columns = {"vector_text": fixed_size_list(both, is_text), "vector_image": fixed_size_list(both, ~is_text)}
    store.upsert(pa.table({"id": [str(row) for row in range(len(both))], **columns}), fingerprint="f")
    return store


def drawn(count: int, seed: int) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).standard_normal((count, DIM)))


def test_an_item_found_by_several_vectors_counts_once_by_its_best() -> None:
    found = best_of_kinds([hits("text", a=0.9, b=0.2), hits("image", b=0.5, a=0.4)], {})
    assert [(hit.id, hit.score, hit.vector, hit.cosine) for hit in found] == [
        ("a", 0.9, "text", 0.9),
        ("b", 0.5, "image", 0.5),
    ]


def test_standardised_scores_order_the_list_and_the_cosine_stays_to_be_seen() -> None:
    standards = {"text": Standard(0.6, 0.1), "image": Standard(0.1, 0.05)}
    found = best_of_kinds([hits("text", a=0.8), hits("image", b=0.3)], standards)
    assert [(hit.id, hit.cosine) for hit in found] == [("b", 0.3), ("a", 0.8)]
    assert [hit.score for hit in found] == pytest.approx([4.0, 2.0])


def test_a_standard_is_mean_and_deviation_of_a_querys_cosines_with_all_vectors_of_a_small_store() -> None:
    texts, pictures, (query,) = drawn(50, 0), drawn(30, 1), drawn(1, 2)
    standards = standards_of(store_of(texts, pictures), {"text": query, "image": query})
    assert standards["text"].mean == pytest.approx(float((texts @ query).mean()), abs=1e-6)
    assert standards["image"].spread == pytest.approx(float((pictures @ query).std()), abs=1e-6)


def test_a_large_store_is_read_in_part_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "ROWS_READ", 100)
    store, (query,) = store_of(drawn(300, 0), drawn(0, 1)), drawn(1, 2)
    monkeypatch.setattr(fusion, "SAMPLE", 40)
    first = standards_of(store, {"text": query})
    store.delete(ids=[str(row) for row in range(300)])
    assert standards_of(store, {"text": query}) == first


def test_a_kind_without_vectors_and_one_whose_vectors_are_all_alike_have_a_standard_too() -> None:
    (query,) = drawn(1, 2)
    store = store_of(np.repeat(drawn(1, 0), 5, axis=0), drawn(0, 1))
    standards = standards_of(store, {"text": query, "image": query})
    assert standards["image"] == Standard(0.0, 1.0)
    assert np.isfinite(1 / standards["text"].spread)


def test_reciprocal_rank_fusion_sums_one_over_sixty_and_the_rank() -> None:
    nearest = best_of_kinds([hits("fused", a=0.9, b=0.8, c=0.7)], {})
    found = fused_by_rank(nearest, hits("words", c=12.0, d=7.0))
    expected = {"c": 1 / 63 + 1 / 61, "a": 1 / 61, "b": 1 / 62, "d": 1 / 62}
    assert {hit.id: hit.score for hit in found} == pytest.approx(expected)
    assert [hit.id for hit in found] == ["c", "a", "b", "d"]
    assert [(hit.vector, hit.cosine) for hit in found] == [
        ("fused", 0.7), ("fused", 0.9), ("fused", 0.8), ("words", None),
    ]  # fmt: skip


def test_the_best_of_each_group_stays_in_order_and_items_without_one_stand_for_themselves() -> None:
    found = [
        Found(name, 1.0, "text", {"parent": parent})
        for name, parent in zip("abcdef", ["x", None, "x", "y", None, "y"], strict=True)
    ]
    assert [hit.id for hit in best_of_groups(found, "parent")] == ["a", "b", "d", "e"]
