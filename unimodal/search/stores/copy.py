"""Copy a store to another place, whichever engines are behind both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from unimodal.progress import progress_bar
from unimodal.vectors import Vectors

from .base import VectorStore
from .columns import vectors_of
from .hits import Hit
from .open import create_store, open_store, store_exists
from .schema import MADE, Schema, vector_column

BATCH = 1000  # rows; about 20 MB with their thumbnails
NUM_QUERIES = 32  # of the check at the end
K = 10
MIN_RECALL = 0.95


def copy_store(
    source: VectorStore,
    target_url: str,
    *,
    overwrite: bool = False,
    show_progress: bool | None = None,
) -> int:
    """Copy all items into a new store, and build its index -> how many.

    No process may write to the source meanwhile. show_progress: on stderr, as by `progress_bar`;
    False: nothing.

    Raises ValueError where a store is at the target, unless it may be overwritten and is not the
    source; UnsupportedError where the target's engine lacks an ability that the schema needs; and
    ValueError if the copy does not have all items, or does not find them.
    """
    num_rows = source.count()
    if overwrite and store_exists(target_url):
        _refuse_source(source, target_url)
    target = create_store(target_url, _copied_schema(source), overwrite=overwrite)
    try:
        sample = _Sample(source.schema, every=max(1, num_rows // NUM_QUERIES))
        done = 0
        with progress_bar("copying", num_rows, show_progress) as advance:
            for rows in source.scan(batch=BATCH):
                done += target.upsert(rows, fingerprint=source.schema.fingerprint)
                sample.add(rows)
                advance(done)
            advance(done, "indexing")
            target.build()
        if not target.count() == done == source.count() == num_rows:
            raise ValueError(
                f"{target_url} has {target.count()} items, the source had {num_rows} and now has "
                f"{source.count()}; let no process write to the source, and copy again with "
                "overwrite."
            )
        for vector, queries in sample.vectors.items():
            _check_recall(source, target, target_url, vector, queries)
    finally:
        target.close()
    return done


def _refuse_source(source: VectorStore, target_url: str) -> None:
    target = open_store(target_url)
    is_source = target.place() == source.place()
    target.close()
    if is_source:
        raise ValueError(
            f"{target_url} is the store that is copied; choose another place."
        )


def _copied_schema(source: VectorStore) -> Schema:
    """The schema of a copy, which no folder of embeddings fills."""
    about = {name: value for name, value in source.schema.about.items() if name != MADE}
    return replace(source.schema, about=about)


class _Sample:
    """Some vectors of each kind, picked evenly from the rows that pass."""

    def __init__(self, schema: Schema, every: int) -> None:
        self.vectors: dict[str, list[Vectors]] = {name: [] for name in schema.vectors}
        self._dim = schema.dim
        self._every = every
        self._num_rows = 0

    def add(self, rows: Any) -> None:
        picked = np.arange(-self._num_rows % self._every, len(rows), self._every)
        self._num_rows += len(rows)
        for name, kept in self.vectors.items():
            vectors, valid = vectors_of(rows[vector_column(name)], self._dim)
            kept.extend(vectors[picked][valid[picked]])


def _check_recall(
    source: VectorStore,
    target: VectorStore,
    target_url: str,
    vector: str,
    queries: Sequence[Vectors],
) -> None:
    """Raise ValueError unless the target finds the source's exact hits; queries: each (D,)."""
    if not queries:
        return
    recall = _recall(source, target, vector, np.stack(queries))
    if recall < MIN_RECALL:
        raise ValueError(
            f"{target_url} finds {recall:.0%} of what an exact search of {vector!r} finds in the "
            "source; build it again."
        )


def _recall(
    source: VectorStore, target: VectorStore, vector: str, queries: Vectors
) -> float:
    """The share of the source's exact hits that the target finds; queries: (Q, D)."""
    model = source.schema.fingerprint
    expected = source.search(
        queries, K, fingerprint=model, vector=vector, fields=(), exact=True
    )
    actual = target.search(queries, K, fingerprint=model, vector=vector, fields=())
    num_found = 0
    for exact, hits in zip(expected, actual, strict=True):
        num_found += _num_expected(exact, hits)
    return num_found / sum(map(len, expected))


def _num_expected(exact: Sequence[Hit], hits: Sequence[Hit]) -> int:
    """How many hits are among the exact ones; of equal items either may end the list."""
    last = exact[-1].score - 1e-5
    ids = {hit.id for hit in exact}
    return sum(hit.id in ids or hit.score >= last for hit in hits)
