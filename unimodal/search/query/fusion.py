"""Merge ranked lists: by scores that are made comparable, or by ranks.

Cosines of two kinds of vectors are not comparable where a model leaves texts and images in
different cones (the modality gap, see `unimodal.calibration`): to a text, any text is nearer than
the image that it describes. So the scores of each kind are standardized by what the query scores
with a sample of that kind: (cosine - mean) / spread says how far a hit stands out in its kind.

S vectors of a sample, D embedding dimension.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unimodal.vectors import Vectors

from ..stores.base import VectorStore
from ..stores.columns import vectors_of
from ..stores.hits import Hit, best_first
from ..stores.schema import vector_column

SAMPLE = 2_000  # vectors of a kind: their mean is then known to 2 % of the spread
# Rows to draw them from: the whole of a small store, the first rows of a large one.
ROWS_READ = 20_000
ENOUGH = 100  # vectors that give the spread of their kind to 7 %
REDRAW_SECONDS = 10.0  # after which a sample with fewer is drawn again
# Cormack et al., 2009: it keeps the first ranks of a list from outweighing all else.
RRF_CONSTANT = 60
FLAT = 1e-6  # a smaller spread is none: all vectors of a kind are alike


@dataclass(frozen=True)
class RankedHit(Hit):
    """A hit of a query: `score` orders the list, `cosine` is the similarity of the nearest vector.

    They differ where the score is standardized (several kinds of vectors of a model that is not
    calibrated) or fused from ranks (a hybrid search).
    """

    cosine: float | None = None  # None: only full text has it
    more: int = 0  # other items of the same group that match the filter


@dataclass(frozen=True)
class Standard:
    """The distribution of a query's cosines with one kind of vectors."""

    mean: float
    spread: float


@dataclass(frozen=True)
class _Sample:
    vectors: Vectors  # (S, D)
    drawn: float  # when, by time.monotonic()

    @property
    def is_small(self) -> bool:
        return len(self.vectors) < ENOUGH

    @property
    def is_outdated(self) -> bool:
        return self.is_small and time.monotonic() - self.drawn >= REDRAW_SECONDS


_SAMPLES: weakref.WeakKeyDictionary[VectorStore, dict[str, _Sample]] = (
    weakref.WeakKeyDictionary()
)


def estimate_standards(
    store: VectorStore, queries: Mapping[str, Vectors]
) -> dict[str, Standard]:
    """Mean and standard deviation of each query's cosines with a sample of its kind of vectors.

    queries: kind -> (D,) unit vector. The sample is drawn once and kept while the store is open: it
    holds vectors alone, and a catalogue that changes day by day still looks much the same. A sample
    that is too small to give a spread is drawn again later; until then, its kind has the spread of
    all kinds around their means.
    """
    samples = _samples_of(store, list(queries))
    scores = {kind: samples[kind].vectors @ query for kind, query in queries.items()}
    means = {kind: _mean(of_kind) for kind, of_kind in scores.items()}
    pooled = np.concatenate([of_kind - means[kind] for kind, of_kind in scores.items()])

    standards = {}
    for kind, of_kind in scores.items():
        around = pooled if samples[kind].is_small else of_kind  # (S,)
        spread = float(around.std()) if len(around) else 0.0
        standards[kind] = Standard(means[kind], spread if spread > FLAT else 1.0)
    return standards


def best_of_kinds(
    lists: Iterable[Sequence[Hit]], standards: Mapping[str, Standard]
) -> list[RankedHit]:
    """One list of all items, each by the kind of vector that it scores highest with, best first.

    standards: to standardize scores by; empty: cosines are compared as they are. The result is
    complete down to the depth of the shallowest list.
    """
    best: dict[str, RankedHit] = {}
    for hits in lists:
        for hit in hits:
            score = _standardize(hit.score, standards.get(hit.vector))
            if hit.id not in best or score > best[hit.id].score:
                best[hit.id] = RankedHit(
                    hit.id, score, hit.vector, hit.fields, cosine=hit.score
                )
    return sorted(best.values(), key=best_first)


def fuse_by_rank(
    nearest: Sequence[RankedHit], by_text: Sequence[Hit], *, after: int = 0
) -> list[RankedHit]:
    """Reciprocal rank fusion: an item scores the sum of 1 / (60 + rank) over its lists.

    (Cormack et al., 2009, https://doi.org/10.1145/1571941.1572114.) after: how many ranks of each
    list went before.
    """
    fused = {hit.id: replace(hit, score=0.0) for hit in nearest}
    for hit in by_text:
        fused.setdefault(hit.id, RankedHit(hit.id, 0.0, "words", hit.fields))
    for hits in (nearest, by_text):
        for rank, hit in enumerate(hits, start=after + 1):
            score = fused[hit.id].score + 1 / (RRF_CONSTANT + rank)
            fused[hit.id] = replace(fused[hit.id], score=score)
    return sorted(fused.values(), key=best_first)


def _samples_of(store: VectorStore, kinds: Sequence[str]) -> dict[str, _Sample]:
    """The samples of a store; those that are missing or outdated are drawn."""
    samples = _SAMPLES.setdefault(store, {})
    missing = [
        kind for kind in kinds if kind not in samples or samples[kind].is_outdated
    ]
    if missing:
        drawn = time.monotonic()
        for kind, vectors in _draw(store, missing).items():
            samples[kind] = _Sample(vectors, drawn)
    return samples


def _draw(store: VectorStore, kinds: Sequence[str]) -> dict[str, Vectors]:
    """Vectors of each kind drawn at random from the first rows: kind -> (S, D)."""
    none = np.zeros((0, store.schema.dim), np.float32)
    blocks = {kind: [none] for kind in kinds}
    num_read = 0
    for batch in store.scan(columns=[vector_column(kind) for kind in kinds]):
        for kind in kinds:
            column = batch.column(vector_column(kind))
            vectors, valid = vectors_of(column, store.schema.dim)
            blocks[kind].append(vectors[valid])
        num_read += batch.num_rows
        if num_read >= ROWS_READ:
            break

    rng = np.random.default_rng(0)
    samples = {}
    for kind in kinds:
        vectors = np.concatenate(blocks[kind])
        drawn = rng.choice(len(vectors), min(SAMPLE, len(vectors)), replace=False)
        samples[kind] = vectors[np.sort(drawn)]  # (S, D)
    return samples


def _mean(scores: Vectors) -> float:
    return float(scores.mean()) if len(scores) else 0.0


def _standardize(score: float, standard: Standard | None) -> float:
    if standard is None:
        return score
    return (score - standard.mean) / standard.spread
