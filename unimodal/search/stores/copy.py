"""From one store into another, whichever engines they are on: `lance:///dir` ->
`milvus://host:port`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from unimodal.progress import progress_bar

from .base import VectorStore
from .columns import vectors_of
from .open import create_store, open_store, store_exists
from .schema import MADE, vector_column

BATCH = 1000  # rows; with their thumbnails some 20 MB
NUM_QUERIES = 32
K = 10
LEAST_RECALL = 0.95


def copy_store(
    source: VectorStore,
    target_url: str,
    *,
    overwrite: bool = False,
    show_progress: bool | None = None,
) -> int:
    """All items into a new store, which is then built -> how many. Nobody may write to the source
    meanwhile.

    show_progress: on stderr, as by `progress_bar`; False: nothing. Raises ValueError where a store
    is at the target already, or the source itself; UnsupportedError where its engine lacks an
    ability that the source's schema asks for; and ValueError if in the end it has not all items or
    does not find them again.
    """
    num_rows = source.count()
    if overwrite and store_exists(target_url):
        there = open_store(target_url)
        is_source = there.place() == source.place()
        there.close()
        if is_source:
            raise ValueError(
                f"{target_url} is the store that is copied; choose another place."
            )
    about = {name: value for name, value in source.schema.about.items() if name != MADE}
    target = create_store(
        target_url, replace(source.schema, about=about), overwrite=overwrite
    )
    try:
        sample = _Sample(source.schema.vectors, every=max(1, num_rows // NUM_QUERIES))
        done = 0
        with progress_bar("copying", num_rows, show_progress) as advance:
            for rows in source.scan(batch=BATCH):
                done += target.upsert(rows, fingerprint=source.schema.fingerprint)
                sample.add(rows, source.schema.dim)
                advance(done)
            advance(done, "indexing")
            target.build()
        if not target.count() == done == source.count() == num_rows:
            raise ValueError(
                f"{target_url} has {target.count()} items, where the source had {num_rows} and "
                f"now has {source.count()}; let nobody write to the source, and copy again with "
                "overwrite."
            )
        for vector in source.schema.vectors:
            recall = _recall(source, target, vector, sample.vectors[vector])
            if recall < LEAST_RECALL:
                raise ValueError(
                    f"{target_url} finds {recall:.0%} of what an exact search of {vector!r} "
                    "finds in the source; build it again."
                )
    finally:
        target.close()
    return done


class _Sample:
    """Some vectors of each name, picked evenly from the rows that go by."""

    def __init__(self, vectors: Sequence[str], every: int) -> None:
        self.vectors: dict[str, list[Any]] = {name: [] for name in vectors}
        self._every = every
        self._seen = 0

    def add(self, rows: Any, dim: int) -> None:
        picked = np.arange(-self._seen % self._every, len(rows), self._every)
        self._seen += len(rows)
        for name, kept in self.vectors.items():
            vectors, valid = vectors_of(rows[vector_column(name)], dim)
            kept.extend(vectors[picked][valid[picked]])


def _recall(
    source: VectorStore, target: VectorStore, vector: str, queries: list[Any]
) -> float:
    """The share of the source's exact hits that the target finds; queries: each (D,)."""
    if not queries:
        return 1.0
    fingerprint = source.schema.fingerprint
    stacked = np.stack(queries)  # (Q, D)
    wanted = source.search(
        stacked, K, fingerprint=fingerprint, vector=vector, fields=(), exact=True
    )
    found = target.search(stacked, K, fingerprint=fingerprint, vector=vector, fields=())
    num_found = 0
    for exact, hits in zip(wanted, found, strict=True):
        # Of equal items either may come in at the end of the list.
        last = exact[-1].score - 1e-5
        ids = {hit.id for hit in exact}
        num_found += sum(hit.id in ids or hit.score >= last for hit in hits)
    return num_found / sum(map(len, wanted))
