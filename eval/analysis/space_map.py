"""Maps: texts and images of a task in two dimensions.

n points, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from unimodal.vectors import Vectors

from ..data.inputs import Deferred, Input
from ..data.task_data import Ranking
from ..results import TaskResult
from .space import matches_of, searches_images

Positions = npt.NDArray[np.int64]
Method = Literal["pca", "umap"]

MAX_POINTS = 2000


@dataclass(frozen=True)
class Point:
    """One text or image."""

    x: float
    y: float
    modality: Literal["text", "image"]
    label: str  # the text, or the name of the image
    index: int  # of a text among the queries, of an image among the documents


@dataclass(frozen=True)
class SpaceMap:
    """The map of one task."""

    task: str
    method: Method
    points: list[Point]  # the texts, then the images
    explained: (
        tuple[float, float] | None
    )  # share of the variance along x and y; None for UMAP


def space_maps(
    results: Iterable[TaskResult],
    method: Method = "pca",
    *,
    max_points: int = MAX_POINTS,
    seed: int = 0,
) -> list[SpaceMap]:
    """A map of each task in which texts search images.

    method: "pca" keeps distances as well as two axes can; "umap" (McInnes et al., 2018) keeps
        neighbourhoods.
    max_points: the largest number of texts and images to draw: half are texts, by the seed, with
        images that they belong to.

    Raises ImportError for "umap" where umap-learn is not installed.
    """
    maps = []
    for result in results:
        corpus = result.data.as_corpus()
        texts = result.queries
        images = result.documents
        if corpus is None or texts is None or images is None:
            continue
        if not searches_images(corpus):
            continue
        asked, shown = _drawn(corpus, max_points // 2, np.random.default_rng(seed))
        vectors = np.concatenate([texts[asked], images[shown]])
        places, explained = (
            pca(vectors) if method == "pca" else (_umap(vectors, seed), None)
        )
        points = _points("text", corpus.queries, asked, places[: len(asked)])
        points += _points("image", corpus.documents, shown, places[len(asked) :])
        maps.append(
            SpaceMap(
                result.name.removesuffix("/text->image"), method, points, explained
            )
        )
    return maps


def pca(vectors: Vectors) -> tuple[Vectors, tuple[float, float]]:
    """(n, 2) places on the two axes of the largest variance, and the share of the variance on each.

    vectors: (n, D). By singular values of the centred vectors; each axis points to where its
        largest weight is positive.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    axes = (
        axes[:2]
        * np.where(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)] < 0, -1, 1)[
            :, None
        ]
    )
    shares = values**2 / max(float((values**2).sum()), 1e-12)
    return np.asarray(centred @ axes.T, dtype=np.float32), (
        float(shares[0]),
        float(shares[1]),
    )


def _umap(vectors: Vectors, seed: int) -> Vectors:
    try:
        # optional, and without types
        from umap import UMAP  # type: ignore[import-not-found, import-untyped]
    except ImportError:
        raise ImportError(
            "a map by UMAP needs umap-learn: pip install umap-learn; or set map: pca"
        ) from None
    neighbours = min(15, len(vectors) - 1)
    # One job: that is what a seed needs, and what umap-learn would warn of.
    return np.asarray(
        UMAP(
            n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1
        ).fit_transform(vectors)
    )


def _drawn(
    corpus: Ranking, count: int, rng: np.random.Generator
) -> tuple[Positions, Positions]:
    """Positions of texts, and of images: those of the texts, then others, up to `count`."""
    asked = rng.permutation(len(corpus.queries))[:count]
    matches = matches_of(corpus.judgements)
    matching = [document for text in asked for document in matches[text]]
    shown = list(
        dict.fromkeys([*matching, *rng.permutation(len(corpus.documents)).tolist()])
    )[:count]
    return np.sort(asked), np.sort(np.array(shown, dtype=np.int64))


def _points(
    modality: Literal["text", "image"],
    inputs: Sequence[Input],
    indexes: Positions,
    places: Vectors,
) -> list[Point]:
    return [
        Point(
            round(float(x), 4),
            round(float(y), 4),
            modality,
            _label(inputs[index], int(index)),
            int(index),
        )
        for index, (x, y) in zip(indexes, places, strict=True)
    ]


def _label(one: Input, index: int) -> str:
    if isinstance(one, str):
        return one
    return one.name if isinstance(one, (Path, Deferred)) else f"image {index}"
