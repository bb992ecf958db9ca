"""Hits: what a search returns, and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unimodal.vectors import Vectors


@dataclass(frozen=True)
class Hit:
    """One item of a result."""

    id: str
    # Cosine similarity, BM25 of a full-text search, or a fused score: higher is better.
    score: float
    vector: (
        str  # which of the item's vectors was nearest, or "words" for a full-text hit
    )
    fields: Mapping[str, Any]


def best_first(hit: Hit) -> tuple[float, str]:
    """The key that sorts hits: the highest score first, equal scores by id."""
    return -hit.score, hit.id


def rerank(query: Vectors, hits: Sequence[Hit], column: str) -> list[Hit]:
    """Score candidates again by their whole vectors, best first.

    query: (D,) unit vector. column: the field of the hits that holds the whole vector, (D,); the
        result does not carry it.
    """
    if not hits:
        return []
    vectors = np.stack([hit.fields[column] for hit in hits])  # (n, D)
    scores = vectors @ query / np.linalg.norm(vectors, axis=1)

    reranked = []
    for hit, score in zip(hits, scores, strict=True):
        fields = {name: value for name, value in hit.fields.items() if name != column}
        reranked.append(Hit(hit.id, float(score), hit.vector, fields))
    return sorted(reranked, key=best_first)
