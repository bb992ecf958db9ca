"""Near-duplicates: which vectors, or which items of a store, hang together by a cosine over a
threshold.

n vectors, D embedding dimension.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unimodal.config import nearest
from unimodal.progress import progress_bar
from unimodal.vectors import Vectors

from ..filters.tree import Predicate
from ..stores.base import VectorStore
from ..stores.columns import vectors_of
from ..stores.schema import vector_column

Positions = NDArray[np.int64]

DUPLICATE = 0.95  # cosine from which on two items are called near-duplicates
BLOCK_SCORES = (
    1 << 22
)  # cosines held at a time, 16 MB: they are compared while they are in the cache
ROUNDING = 1e-6  # of a cosine in float32: two equal vectors may have one of 0.9999999


def near_duplicates(
    store: VectorStore,
    *,
    vector: str,
    threshold: float = DUPLICATE,
    where: Predicate | None = None,
    show_progress: bool | None = None,
) -> list[list[str]]:
    """Groups of ids whose vectors of one kind hang together, the largest group first; items alone
    are left out.

    Every pair is compared, whatever the index: for 100,000 items of 768 dimensions 0.3 GB and a
        minute and a half.
    show_progress: on stderr, as by `progress_bar`; False: nothing.
    """
    if vector not in store.schema.vectors:
        raise ValueError(
            f"the store has no vector {vector!r}; {nearest(vector, store.schema.vectors)}"
        )
    if not -1 <= threshold <= 1:
        raise ValueError(
            f"threshold {threshold} is not a cosine; give one from -1 to 1, such as {DUPLICATE}."
        )
    ids: list[str] = []
    blocks = [np.zeros((0, store.schema.dim), dtype=np.float32)]
    for batch in store.scan(where=where, columns=["id", vector_column(vector)]):
        vectors, there = vectors_of(
            batch.column(vector_column(vector)), store.schema.dim
        )
        blocks.append(vectors[there])
        ids += [
            one
            for one, has in zip(batch.column("id").to_pylist(), there, strict=True)
            if has
        ]
    order = (
        np.argsort(np.array(ids, dtype=object), kind="stable")
        if ids
        else np.zeros(0, dtype=np.int64)
    )
    found = groups_of_near(
        np.concatenate(blocks)[order], threshold, show_progress=show_progress
    )
    return [[ids[order[one]] for one in group] for group in found]


def groups_of_near(
    vectors: Vectors,
    threshold: float = DUPLICATE,
    *,
    show_progress: bool | None = False,
) -> list[list[int]]:
    """Groups of rows that hang together by cosines of at least the threshold, the largest first;
    others are left out.

    vectors: (n, D) unit vectors. Cosines are made in blocks, and groups joined by union-find: two
    members of a group may be less alike, if a chain of others lies between them.
    """
    parents = np.arange(len(vectors))
    step = max(1, BLOCK_SCORES // max(1, len(vectors)))
    with progress_bar("comparing", len(vectors), show_progress) as advance:
        for start in range(0, len(vectors), step):
            close = (
                vectors[start : start + step] @ vectors[start:].T
                >= threshold - ROUNDING
            )
            for row in np.flatnonzero(np.count_nonzero(close, axis=1) > 1):
                one = start + int(row)
                later = start + row + 1 + np.flatnonzero(close[row, row + 1 :])
                for other in np.unique(
                    parents[later]
                ):  # a parent is of its child's group; equal ones are joined once
                    left = _root(parents, one)
                    right = _root(parents, int(other))
                    parents[max(left, right)] = min(left, right)
            advance(min(start + step, len(vectors)))
    groups: dict[int, list[int]] = {}
    for one in range(len(vectors)):
        groups.setdefault(_root(parents, one), []).append(one)
    return sorted(
        (group for group in groups.values() if len(group) > 1),
        key=lambda group: (-len(group), group),
    )


def _root(parents: Positions, one: int) -> int:
    while parents[one] != one:
        parents[one] = parents[parents[one]]  # half the way for the next one who asks
        one = int(parents[one])
    return one
