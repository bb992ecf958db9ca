"""The map is that of principal components, shows texts beside their images, and is the same at
each look.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from eval.analysis.space_map import pca, space_maps
from eval.data.inputs import Deferred, Input
from eval.data.retrieval import RetrievalData
from eval.results import TaskResult


def figures(count: int = 60) -> list[TaskResult]:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((count, 8)).astype(np.float32)
    near = vectors + 0.05 * rng.standard_normal((count, 8)).astype(np.float32)
    texts: list[Input] = [f"text {number}" for number in range(count)]
    images: list[Input] = [Path(f"folder/{number}.jpg") for number in range(count)]
    images[:2] = [b"bytes", Deferred("shard.tar/1", bytes)]
    data = RetrievalData(texts, images, [[number] for number in range(count)])
    return [
        TaskResult(
            "figures/text->image",
            "cross-modal",
            data,
            [],
            queries=vectors,
            documents=near,
        ),
        TaskResult(
            "figures/image->text",
            "cross-modal",
            data.swap_sides(),
            [],
            queries=near,
            documents=vectors,
        ),
    ]


def test_axes_are_those_of_the_largest_variance() -> None:
    vectors = (
        np.random.default_rng(1).standard_normal((50, 6)).astype(np.float32)
        * [5, 1, 3, 0.2, 0.2, 0.2]
        + 7
    )
    places, explained = pca(vectors.astype(np.float32))
    variances, axes = np.linalg.eigh(np.cov(vectors.T))
    expected = (vectors - vectors.mean(axis=0)) @ axes[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-4)
    assert explained == pytest.approx(
        [variances[-1] / variances.sum(), variances[-2] / variances.sum()], abs=1e-5
    )
    mirrored, _ = pca(-vectors.astype(np.float32))
    np.testing.assert_allclose(
        mirrored, -places, atol=1e-4
    )  # an axis does not turn with what lies on it


def test_two_points_are_a_map_too() -> None:
    places, explained = pca(np.eye(2, dtype=np.float32))
    np.testing.assert_allclose(
        np.abs(places), [[0.5**0.5, 0], [0.5**0.5, 0]], atol=1e-6
    )
    assert explained == pytest.approx((1, 0))


def test_one_map_a_task_with_all_its_texts_and_images() -> None:
    (found,) = space_maps(figures())
    assert (found.task, found.method) == ("figures", "pca")
    assert [(point.modality, point.index) for point in found.points] == [
        (modality, number) for modality in ("text", "image") for number in range(60)
    ]
    labels = [point.label for point in found.points[:1] + found.points[60:63]]
    assert labels == ["text 0", "image 0", "shard.tar/1", "2.jpg"]
    queries = figures()[0].queries
    documents = figures()[0].documents
    assert queries is not None
    assert documents is not None
    places, explained = pca(np.concatenate([queries, documents]))
    np.testing.assert_allclose(
        [(point.x, point.y) for point in found.points], places, atol=1e-4
    )
    assert found.explained == explained


def test_a_sample_shows_texts_with_their_images_and_is_drawn_by_the_seed() -> None:
    (found,) = space_maps(figures(), max_points=20)
    texts = [point.index for point in found.points if point.modality == "text"]
    assert texts == [point.index for point in found.points if point.modality == "image"]
    assert len(texts) == 10
    assert space_maps(figures(), max_points=20) == [found]
    assert space_maps(figures(), max_points=20, seed=1) != [found]


def test_a_sample_shows_the_image_of_a_product_rather_than_those_of_its_category() -> (
    None
):
    (result, _) = figures()
    assert isinstance(result.data, RetrievalData)
    relevant = [[*sorted({*range(60)} - {number}), number] for number in range(60)]
    data = dataclasses.replace(
        result.data, relevant=relevant, gains=[[1.0] * 59 + [3.0]] * 60, hit_gain=3.0
    )
    (found,) = space_maps([dataclasses.replace(result, data=data)], max_points=20)
    texts = [point.index for point in found.points if point.modality == "text"]
    assert texts == [point.index for point in found.points if point.modality == "image"]


def test_what_the_model_cannot_do_has_no_map() -> None:
    unscored = TaskResult("figures/text->image", "cross-modal", figures()[0].data, [])
    assert space_maps([unscored]) == []


def test_umap_puts_neighbours_together() -> None:
    pytest.importorskip("umap", reason="umap-learn is not installed")
    (found,) = space_maps(figures(), "umap")
    assert (found.method, found.explained, len(found.points)) == ("umap", None, 120)
    places = np.array([(point.x, point.y) for point in found.points])
    to_twin = np.linalg.norm(places[:60] - places[60:], axis=1)
    to_others = np.linalg.norm(places[:60] - np.roll(places[60:], 7, axis=0), axis=1)
    assert np.median(to_twin) < 0.5 * np.median(to_others)
    assert space_maps(figures(), "umap") == [found]


def test_umap_that_is_not_installed_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        space_maps(figures(), "umap")
