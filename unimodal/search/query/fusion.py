"""Several ranked lists -> one: by scores that are made comparable, by ranks, or the best of each
group.

Cosines of two kinds of vectors are not comparable where a model leaves texts and images in
different cones (the modality gap, see `unimodal.calibration`): to a text, any text is nearer than
the image that it describes. So each kind's scores are standardised by what the query at hand
scores with a sample of that kind: (cosine - mean) / spread says how far a hit stands out among its
own.

S vectors of a sample, D embedding dimension.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..stores.base import Hit, VectorStore
from ..stores.columns import vectors_of
from ..stores.schema import vector_column
from .combine import Vector

SAMPLE = 2_000  # vectors of a kind: the mean is then known to 2 % of the spread
# from which they are drawn: the whole of a small store, the first rows of a large one
ROWS_READ = 20_000
ENOUGH = 100  # vectors that tell the spread of their kind, to 7 %
REDRAWN = 10.0  # seconds after which a sample of fewer is drawn again
# Cormack et al., 2009: what makes the first ranks of a list not outweigh all else
RRF_CONSTANT = 60
FLAT = 1e-6  # a spread that is none: all vectors of a kind are alike


@dataclass(frozen=True)
class Found(Hit):
    """A hit: `score` is what the list is ordered by, `cosine` the similarity with the vector that
    was nearest.

    The two are the same but where the score is standardised (several kinds of vectors of a model
    that is not calibrated) or fused from ranks (a hybrid search).
    """

    cosine: float | None = None  # None: only the words found it
    more: int = 0  # items of the same group beside it, that the filter keeps


@dataclass(frozen=True)
class Standard:
    """What a query scores with one kind of vectors, by and large."""

    mean: float
    spread: float


@dataclass(frozen=True)
class _Sample:
    vectors: NDArray[np.float32]  # (S, D)
    drawn: float  # when, by time.monotonic()

    @property
    def is_small(self) -> bool:
        return len(self.vectors) < ENOUGH


_SAMPLES: weakref.WeakKeyDictionary[VectorStore, dict[str, _Sample]] = (
    weakref.WeakKeyDictionary()
)


def standards_of(
    store: VectorStore, asked: Mapping[str, Vector]
) -> dict[str, Standard]:
    """Mean and standard deviation of each query's cosines with a sample of the kind of vectors that
    it asks.

    asked: kind -> (D,) unit vector. The sample is drawn once and kept while the store is open: it
    is made of vectors alone, and a catalogue that changes day by day still looks much the same. One
    that is too small to tell a spread is drawn again later, and has until then the spread of all
    kinds around their means.
    """
    samples = _SAMPLES.setdefault(store, {})
    now = time.monotonic()
    missing = [
        kind
        for kind in asked
        if kind not in samples
        or (samples[kind].is_small and now - samples[kind].drawn >= REDRAWN)
    ]
    if missing:
        samples.update(
            {
                kind: _Sample(vectors, now)
                for kind, vectors in _drawn(store, missing).items()
            }
        )
    scores = {
        kind: samples[kind].vectors @ vector for kind, vector in asked.items()
    }  # kind -> (S,)
    means = {
        kind: float(of_kind.mean()) if len(of_kind) else 0.0
        for kind, of_kind in scores.items()
    }
    pooled = np.concatenate([of_kind - means[kind] for kind, of_kind in scores.items()])
    standards = {}
    for kind, of_kind in scores.items():
        around = pooled if samples[kind].is_small else of_kind
        spread = float(around.std()) if len(around) else 0.0
        standards[kind] = Standard(means[kind], spread if spread > FLAT else 1.0)
    return standards


def _drawn(store: VectorStore, kinds: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    found: dict[str, list[NDArray[np.float32]]] = {kind: [] for kind in kinds}
    num_read = 0
    for batch in store.scan(columns=[vector_column(kind) for kind in kinds]):
        for kind in kinds:
            vectors, there = vectors_of(
                batch.column(vector_column(kind)), store.schema.dim
            )
            found[kind].append(vectors[there])
        num_read += batch.num_rows
        if num_read >= ROWS_READ:
            break
    rng = np.random.default_rng(0)
    samples = {}
    for kind, blocks in found.items():
        vectors = np.concatenate([np.zeros((0, store.schema.dim), np.float32), *blocks])
        drawn = rng.choice(len(vectors), min(SAMPLE, len(vectors)), replace=False)
        samples[kind] = vectors[np.sort(drawn)]  # (S, D)
    return samples


def best_of_kinds(
    lists: Iterable[Sequence[Hit]], standards: Mapping[str, Standard]
) -> list[Found]:
    """One list of all items, each by the kind of vector that it scores highest with, best first.

    standards: by which scores are standardised; empty: cosines are compared as they are.
    As deep as the shallowest list is, nothing can be missing from it.
    """
    best: dict[str, Found] = {}
    for hits in lists:
        for hit in hits:
            standard = standards.get(hit.vector)
            score = (
                hit.score
                if standard is None
                else (hit.score - standard.mean) / standard.spread
            )
            if hit.id not in best or score > best[hit.id].score:
                best[hit.id] = Found(
                    hit.id, score, hit.vector, hit.fields, cosine=hit.score
                )
    return sorted(best.values(), key=best_first)


def fused_by_rank(
    nearest: Sequence[Found], by_words: Sequence[Hit], *, after: int = 0
) -> list[Found]:
    """Reciprocal rank fusion: the score of an item is the sum of 1 / (60 + rank) over the lists
    that it is in.

    (Cormack et al., 2009, https://doi.org/10.1145/1571941.1572114.) after: how many ranks of each
    list went before.
    """
    fused = {hit.id: replace(hit, score=0.0) for hit in nearest}
    for hit in by_words:
        fused.setdefault(hit.id, Found(hit.id, 0.0, "words", hit.fields))
    for hits in (nearest, by_words):
        for rank, one in enumerate(hits, start=after + 1):
            fused[one.id] = replace(
                fused[one.id], score=fused[one.id].score + 1 / (RRF_CONSTANT + rank)
            )
    return sorted(fused.values(), key=best_first)


def best_of_groups(hits: Iterable[Found], field: str) -> list[Found]:
    """The best item of each value of the field, in the order of the hits; an item without a value
    is its own group.
    """
    groups: dict[Hashable, Found] = {}
    for hit in hits:
        value = hit.fields.get(field)
        groups.setdefault(("item", hit.id) if value is None else ("group", value), hit)
    return list(groups.values())


def best_first(hit: Hit) -> tuple[float, str]:
    """What a list of hits is sorted by."""
    return -hit.score, hit.id
