"""Near-duplicates are counted; clusters are found again and named by their words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from eval.analysis import neighbours
from eval.analysis.neighbours import (
    clusters_of,
    duplicate_rows,
    duplicates_of,
    k_means,
    typical_words,
)
from eval.data.inputs import Fused, Input
from eval.data.retrieval import RetrievalData
from eval.results import TaskResult
from unimodal.vectors import Vectors


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    return np.asarray(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32
    )


def result(
    documents: list[Input], vectors: Vectors, queries: list[Input] | None = None
) -> TaskResult:
    asked: list[Input] = queries or [
        f"query {number}" for number in range(len(documents))
    ]
    data = RetrievalData(asked, documents, [[number] for number in range(len(asked))])
    return TaskResult("sections", "text", data, [], queries=vectors, documents=vectors)


def blobs(num_clusters: int, size: int, spread: float, dim: int = 12) -> Vectors:
    """Rows number * num_clusters + c lie around axis c."""
    rng = np.random.default_rng(0)
    return unit(
        np.tile(np.eye(dim)[:num_clusters], (size, 1))
        + spread * rng.standard_normal((num_clusters * size, dim))
    )


def test_the_share_counts_all_documents_that_have_a_near_duplicate() -> None:
    vectors = unit(np.eye(6)[[0, 1, 0, 2, 1, 0, 3, 4]])
    found = duplicates_of(
        [result([f"document {number}" for number in range(8)], vectors)]
    )
    assert found[0].groups == [[0, 2, 5], [1, 4]]
    (row,) = duplicate_rows(found)
    assert (row.task, row.metric, row.value, row.variant) == (
        "sections",
        "near_duplicate_share",
        5 / 8,
        "cosine 0.95",
    )


def test_a_sample_names_documents_by_their_own_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "MAX_DOCUMENTS", 20)
    vectors = blobs(4, 10, 0.01)
    task = result([f"document {number}" for number in range(40)], vectors)
    groups = duplicates_of([task])[0].groups
    assert sum(map(len, groups)) == 20
    assert all(len({one % 4 for one in group}) == 1 for group in groups)
    (clusters,) = clusters_of([task], 4)
    assert all(
        len({one % 4 for one in cluster.typical}) == 1 for cluster in clusters.clusters
    )
    assert sum(cluster.share for cluster in clusters.clusters) == pytest.approx(1)


def test_k_means_finds_blobs_again_and_the_same_ones_by_the_same_seed() -> None:
    vectors = blobs(5, 30, 0.1)
    labels, centres = k_means(vectors, 5, seed=1)
    assert len({tuple(labels[number::5]) for number in range(5)}) == 5
    assert all(len(set(labels[number::5])) == 1 for number in range(5))
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-6)
    for number in range(5):
        mean = vectors[labels == number].mean(axis=0)
        np.testing.assert_allclose(
            centres[number], mean / np.linalg.norm(mean), atol=1e-5
        )
    again, _ = k_means(vectors, 5, seed=1)
    np.testing.assert_array_equal(labels, again)


def test_more_clusters_than_distinct_vectors_leave_some_empty() -> None:
    (found,) = clusters_of(
        [result(["one red", "one red", "two", "two"], unit(np.eye(4)[[0, 0, 1, 1]]))], 4
    )
    assert sorted(cluster.share for cluster in found.clusters) == [0.5, 0.5]


def test_words_are_weighted_by_how_few_other_texts_hold_them() -> None:
    texts = [
        "The red mug",
        "the red cup, the 3rd",
        "the blue sofa",
        "the blue, blue chair",
        "the red hat",
        "the",
    ]
    assert typical_words(texts, np.array([0, 0, 1, 1, 2, 2]), 3) == [
        ["cup", "mug", "rd", "red"],
        ["blue", "chair", "sofa"],
        ["hat", "red"],
    ]


def test_clusters_are_named_by_the_texts_of_their_documents() -> None:
    vectors = blobs(2, 20, 0.1)
    vectors = vectors[:30]  # both of 15
    kinds = ["mug of clay", "sofa of wood"]
    texts: list[Input] = [f"{kinds[number % 2]} {number}" for number in range(30)]
    images: list[Input] = [Path(f"{number}.jpg") for number in range(30)]
    both: list[Input] = [
        Fused(f"{kinds[number % 2]} {number}", Path(f"{number}.jpg"))
        for number in range(30)
    ]
    for documents, queries in ((texts, None), (images, texts), (both, images)):
        (found,) = clusters_of([result(documents, vectors, queries)], 2)
        assert sorted(cluster.words for cluster in found.clusters) == [
            ["clay", "mug"],
            ["sofa", "wood"],
        ]
        for cluster in found.clusters:
            assert len(cluster.typical) == 5
            side = cluster.typical[0] % 2
            members = vectors[side::2]
            order = np.argsort(-(members @ unit(members.mean(axis=0)[None])[0]))[:5]
            assert cluster.typical == [2 * one + side for one in order]


def test_the_number_of_clusters_grows_with_the_root_of_the_documents() -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((200, 12)))
    (found,) = clusters_of(
        [result([f"document {number}" for number in range(200)], vectors)]
    )
    assert len(found.clusters) == 10
    assert [cluster.share for cluster in found.clusters] == sorted(
        (c.share for c in found.clusters), reverse=True
    )


def test_what_has_no_documents_or_no_vectors_is_left_out() -> None:
    task = result(["a", "b"], unit(np.eye(2)))
    unscored = TaskResult(task.name, task.half, task.data, [])
    assert not duplicates_of([unscored])
    assert not clusters_of([unscored])
