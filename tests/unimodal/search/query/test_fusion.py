"""Lists of hits become one: by comparable scores, by ranks, by groups."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from tests.unimodal.search.stores.exact_store import ExactStore
from unimodal.search.query import fusion
from unimodal.search.query.fusion import (
    RankedHit,
    Standard,
    best_of_kinds,
    estimate_standards,
    fuse_by_rank,
)
from unimodal.search.query.groups import best_of_groups
from unimodal.search.stores.columns import fixed_size_list
from unimodal.search.stores.hits import Hit
from unimodal.search.stores.schema import Schema
from unimodal.vectors import normalize

DIM = 16


def hits(vector: str, **scores: float) -> list[Hit]:
    return [Hit(name, score, vector, {}) for name, score in scores.items()]


def store_of(texts: NDArray[np.float32], images: NDArray[np.float32]) -> ExactStore:
    """The texts are items of their own, and so are the images."""
    store = ExactStore(Schema(dim=DIM, fingerprint="f", vectors=("text", "image")))
    both = np.concatenate([texts, images])
    is_text = np.arange(len(both)) < len(texts)
    columns = {
        "vector_text": fixed_size_list(both, is_text),
        "vector_image": fixed_size_list(both, ~is_text),
    }
    store.upsert(
        pa.table({"id": [str(row) for row in range(len(both))], **columns}),
        fingerprint="f",
    )
    return store


def drawn(count: int, seed: int) -> NDArray[np.float32]:
    return normalize(np.random.default_rng(seed).standard_normal((count, DIM)))


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


def test_a_small_stores_standard_is_mean_and_deviation_of_all_cosines() -> None:
    texts, images, (query,) = drawn(150, 0), drawn(130, 1), drawn(1, 2)
    standards = estimate_standards(
        store_of(texts, images), {"text": query, "image": query}
    )
    assert standards["text"].mean == pytest.approx(
        float((texts @ query).mean()), abs=1e-6
    )
    assert standards["image"].spread == pytest.approx(
        float((images @ query).std()), abs=1e-6
    )


def test_a_large_store_is_read_in_part_and_only_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fusion, "ROWS_READ", 200)
    monkeypatch.setattr(fusion, "SAMPLE", 150)
    store, (query,) = store_of(drawn(500, 0), drawn(0, 1)), drawn(1, 2)
    num_read = 0

    def in_small_batches(
        self: ExactStore, where: None, columns: list[str], batch: int
    ) -> Iterator[pa.RecordBatch]:
        nonlocal num_read
        for rows in self.table.select(columns).to_batches(max_chunksize=50):
            num_read += rows.num_rows
            yield rows

    monkeypatch.setattr(ExactStore, "_scan", in_small_batches)
    first = estimate_standards(store, {"text": query})
    assert num_read == 200
    store.delete(ids=[str(row) for row in range(500)])
    assert estimate_standards(store, {"text": query}) == first
    assert num_read == 200


def test_a_sample_that_is_too_small_is_drawn_again_when_more_has_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fusion, "REDRAW_SECONDS", 0.0)
    texts, images, (query,) = drawn(300, 0), drawn(20, 1), drawn(1, 2)
    store = store_of(texts, images[:1])
    estimate_standards(store, {"text": query, "image": query})
    store.upsert(
        store_of(texts, images).table.select(["id", "vector_text", "vector_image"]),
        fingerprint="f",
    )
    mean = estimate_standards(store, {"text": query, "image": query})["image"].mean
    assert mean == pytest.approx(float((images @ query).mean()), abs=1e-6)


def test_a_kind_of_few_vectors_has_the_spread_of_all_kinds_around_their_means() -> None:
    texts, images, (query,) = drawn(300, 0), drawn(3, 1), drawn(1, 2)
    standards = estimate_standards(
        store_of(texts, images), {"text": query, "image": query}
    )
    around = np.concatenate(
        [kind @ query - (kind @ query).mean() for kind in (texts, images)]
    )
    assert standards["text"].spread == pytest.approx(
        float((texts @ query).std()), abs=1e-6
    )
    assert standards["image"].spread == pytest.approx(float(around.std()), abs=1e-6)


def test_the_only_image_of_a_store_does_not_stand_out_without_bounds() -> None:
    texts, images, (query,) = drawn(300, 0), drawn(1, 1), drawn(1, 2)
    standard = estimate_standards(
        store_of(texts, images), {"text": query, "image": query}
    )["image"]
    assert (1 - standard.mean) / standard.spread < 10


def test_vectors_that_are_all_alike_and_a_kind_without_any_have_a_spread_too() -> None:
    (query,) = drawn(1, 2)
    for count in (1, 5, 200):
        store = store_of(np.repeat(drawn(1, 0), count, axis=0), drawn(0, 1))
        standards = estimate_standards(store, {"text": query, "image": query})
        assert standards["image"] == Standard(0.0, 1.0)
        assert standards["text"].spread == 1.0


def test_reciprocal_rank_fusion_sums_one_over_sixty_and_the_rank() -> None:
    nearest = best_of_kinds([hits("fused", a=0.9, b=0.8, c=0.7)], {})
    found = fuse_by_rank(nearest, hits("words", c=12.0, d=7.0))
    expected = {"c": 1 / 63 + 1 / 61, "a": 1 / 61, "b": 1 / 62, "d": 1 / 62}
    assert {hit.id: hit.score for hit in found} == pytest.approx(expected)
    assert [hit.id for hit in found] == ["c", "a", "b", "d"]
    assert [(hit.vector, hit.cosine) for hit in found] == [
        ("fused", 0.7),
        ("fused", 0.9),
        ("fused", 0.8),
        ("words", None),
    ]


def test_the_best_of_each_group_stays_in_order_and_items_without_one_stand_for_themselves() -> (
    None
):
    found = [
        RankedHit(name, 1.0, "text", {"parent": parent})
        for name, parent in zip("abcdef", ["x", None, "x", "y", None, "y"], strict=True)
    ]
    assert [hit.id for hit in best_of_groups(found, "parent")] == ["a", "b", "d", "e"]
