"""The smallest vector store: a pyarrow table in memory, exact, for what is asked of any store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from unimodal.bm25 import bm25_scores
from unimodal.search.filters.check import matches
from unimodal.search.filters.tree import Predicate
from unimodal.search.stores.base import IndexSpec, VectorStore
from unimodal.search.stores.columns import arrow_schema, vectors_of
from unimodal.search.stores.hits import Hit
from unimodal.search.stores.schema import Schema
from unimodal.vectors import Vectors


class ExactStore(VectorStore):
    """All queries are answered by comparing with every row. `depths` says how many hits each search
    was asked for.
    """

    name = "the exact store"
    capabilities = frozenset({"filter", "full_text", "prefix", "binary"})

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.table = arrow_schema(schema, copies=True).empty_table()
        self.depths: list[int] = []

    def close(self) -> None:
        pass

    def _upsert(self, table: Any) -> None:
        new = set(table["id"].to_pylist())
        old = self.table.filter(
            pa.array(
                [one not in new for one in self.table["id"].to_pylist()], pa.bool_()
            )
        )
        self.table = pa.concat_tables([old, table]).combine_chunks()

    def _delete(self, where: Predicate) -> int:
        before = len(self.table)
        kept = pa.array(
            [not matches(where, row) for row in self.table.to_pylist()], pa.bool_()
        )
        self.table = self.table.filter(kept)
        return before - len(self.table)

    def _nearest(
        self,
        queries: Vectors,
        k: int,
        vector: str,
        column: str,
        where: Predicate | None,
        columns: list[str],
        exact: bool,
    ) -> list[list[Hit]]:
        self.depths.append(k)
        kept = self._kept(where)
        width = kept.schema.field(column).type.list_size
        stored, there = vectors_of(kept[column], width)
        asked = queries[:, :width] / np.linalg.norm(
            queries[:, :width], axis=1, keepdims=True
        )
        if column.startswith("binary"):
            stored = (
                np.unpackbits(stored.astype(np.uint8), axis=1)[:, : self.schema.dim]
                * 2.0
                - 1
            )
            asked = np.where(queries > 0, 1.0, -1.0) / self.schema.dim
        return [
            self._best(np.where(there, row, -np.inf), k, vector, kept, columns)
            for row in asked @ stored.T
        ]

    def _full_text(
        self, query: str, k: int, where: Predicate | None, columns: list[str]
    ) -> list[Hit]:
        kept = self._kept(where)
        texts = [text or "" for text in kept["words"].to_pylist()]
        scores = bm25_scores([" ".join(re.findall(r"\w+", query))], texts)[0]
        return self._best(
            np.where(scores > 0, scores, -np.inf), k, "words", kept, columns
        )

    def _best(
        self, scores: Any, k: int, vector: str, kept: Any, columns: list[str]
    ) -> list[Hit]:
        best = [
            int(row)
            for row in np.argsort(-scores, kind="stable")[:k]
            if np.isfinite(scores[row])
        ]
        rows = (
            kept.select(["id", *columns]).take(pa.array(best, pa.int64())).to_pylist()
        )
        return [
            Hit(row.pop("id"), float(scores[at]), vector, row)
            for at, row in zip(best, rows, strict=True)
        ]

    def _scan(
        self, where: Predicate | None, columns: list[str], batch: int
    ) -> Iterator[Any]:
        yield from self._kept(where).select(columns).to_batches(max_chunksize=batch)

    def _build(self, spec: IndexSpec) -> None:
        pass

    def _count(self, where: Predicate | None) -> int:
        return len(self._kept(where))

    def _kept(self, where: Predicate | None) -> Any:
        if where is None:
            return self.table
        names = ["id", *self.schema.fields]
        rows = self.table.select(names).to_pylist()
        return self.table.filter(
            pa.array([matches(where, row) for row in rows], pa.bool_())
        ).combine_chunks()
