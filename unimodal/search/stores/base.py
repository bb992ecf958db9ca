"""The abstract store: what every vector store offers, whichever engine is behind it.

A row of a table that goes into a store, or comes out of it:

    id            string, the key: an upsert replaces the row that has this id
    vector_NAME   list of D float32, a unit vector, one column for each of `Schema.vectors`; null
                  where an item has none
    words         string, the text of full-text search (if `Schema.words`); may be null
    thumbnail     binary, a small JPEG to show (if `Schema.thumbnails`); may be null
    FIELD         one column for each of `Schema.fields`; may be null

n rows, Q queries, D dimensions, k hits.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from unimodal.config import nearest
from unimodal.vectors import Vectors

from ..filters.check import check_filter, push_not_down
from ..filters.tree import And, In, Not, Or, Predicate, StartsWith
from .capabilities import check_capabilities
from .columns import check_unit, checked_rows, with_copies
from .hits import Hit, best_first, rerank
from .schema import (
    Schema,
    check_coarse,
    check_full_text,
    check_model,
    check_vector,
    coarse_column,
    fields_to_show,
    vector_column,
)

DELETE_BATCH = 1000  # ids in one call of an engine


@dataclass(frozen=True)
class IndexSpec:
    """How to index a store: compare every row (`exact`), or search a graph (`hnsw`).

    `auto`: exact up to `exact_up_to` rows; above, HNSW on 8-bit vectors with re-ranking.
    """

    kind: Literal["auto", "exact", "hnsw"] = "auto"
    exact_up_to: int = 50_000

    def wants_hnsw(self, num_rows: int) -> bool:
        """Whether a store of this many rows gets a graph."""
        if self.kind == "auto":
            return num_rows > self.exact_up_to
        return self.kind == "hnsw"


class VectorStore(ABC):
    """A store of items, open for reading and writing. Made by `create_store` and `open_store`.

    The public methods check their arguments once for every engine. An engine's adapter sets `name`,
    `schema` and `capabilities`, and implements the methods that begin with an underscore. These get
    checked arguments: tables in the types of `arrow_schema(schema, copies=True)`, and filters that
    name `id` or fields only and have `Not` only directly above a leaf.
    """

    name: str  # of the engine, for messages
    schema: Schema
    capabilities: frozenset[str]  # of CAPABILITIES
    # The longest id, words, string of a field and string of a list; None: no limit.
    max_text_bytes: int | None = None
    max_strings: int | None = None  # the longest list

    def upsert(self, rows: Any, *, fingerprint: str) -> int:
        """Put the rows of a pyarrow Table in, replacing those with the same id -> how many.

        They are durable when it returns. A column left out is null. fingerprint: of the model that
        made the vectors.

        Raises ValueError for vectors of another model, or that are not finite unit vectors of
        (n, D), for an id that is empty or twice in the table, and for a column that the schema does
        not have.
        """
        self.schema = self._current_schema()
        check_model(self.schema, fingerprint, "these vectors")
        table = checked_rows(rows, self.schema)
        if table.num_rows:
            self._upsert(with_copies(table, self.schema))
        return int(table.num_rows)

    def delete(
        self, *, ids: Sequence[str] | None = None, where: Predicate | None = None
    ) -> int:
        """Delete these items, or all that match the filter -> how many there were.

        Exactly one of the two must be given.
        """
        if (ids is None) == (where is None):
            raise ValueError(
                "delete takes ids or where, one of the two; to empty a store, create it again."
            )
        if where is not None:
            return self._delete(self._checked_filter(where))
        unique = tuple(dict.fromkeys(ids or ()))
        num_deleted = 0
        for start in range(0, len(unique), DELETE_BATCH):
            num_deleted += self._delete(In("id", unique[start : start + DELETE_BATCH]))
        return num_deleted

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        fingerprint: str,
        vector: str,
        where: Predicate | None = None,
        fields: Sequence[str] | None = None,
        coarse: str = "",
        candidates: int = 0,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """The k nearest items of each query by one of their vectors, best first, ties by id.

        queries: (Q, D) unit vectors. fingerprint: of the model that made them. vector: one of
            `schema.vectors`.
        fields: those that hits carry (None: all of `schema.fields`; words and thumbnail are large,
            and come when they are named).
        coarse: "" searches the whole vector. "prefix:256" or "binary" takes `candidates` (0: 10 x
            k, at least 100) by the shorter copy, and re-ranks them by the whole vector.
        exact: compare with every row, whatever the index.
        """
        self.schema = self._current_schema()
        check_model(self.schema, fingerprint, "these queries")
        queries = self._checked_queries(queries, k)
        check_vector(self.schema, vector)
        where = self._optional_filter(where)
        columns = fields_to_show(self.schema, fields)
        whole = vector_column(vector)
        if not coarse:
            found = self._nearest(queries, k, vector, whole, where, columns, exact)
            return [sorted(hits, key=best_first) for hits in found]

        check_coarse(self.schema, coarse)
        self._require(coarse.partition(":")[0])
        column = coarse_column(coarse, vector)
        num = max(k, candidates or max(10 * k, 100))
        found = self._nearest(
            queries, num, vector, column, where, [*columns, whole], exact
        )
        return [
            rerank(query, hits, whole)[:k]
            for query, hits in zip(queries, found, strict=True)
        ]

    def search_full_text(
        self,
        query: str,
        k: int,
        *,
        where: Predicate | None = None,
        fields: Sequence[str] | None = None,
    ) -> list[Hit]:
        """The k best items by BM25 over `words`, best first; the score is BM25's.

        A query without a letter or digit has no hits.
        """
        self._require("full_text")
        check_full_text(self.schema)
        _check_k(k)
        where = self._optional_filter(where)
        columns = fields_to_show(self.schema, fields)
        # Punctuation is syntax to some engines, and a word to none.
        words = " ".join(re.findall(r"\w+", query))
        if not words:
            return []
        return sorted(self._full_text(words, k, where, columns), key=best_first)

    def scan(
        self,
        *,
        where: Predicate | None = None,
        columns: Sequence[str] | None = None,
        batch: int = 10_000,
    ) -> Iterator[Any]:
        """Yield all rows, or those that match the filter, as pyarrow RecordBatches in no order.

        columns: of `schema.item_columns`; None: all.
        """
        known = self.schema.item_columns
        for column in columns or ():
            if column not in known:
                raise ValueError(
                    f"the store has no column {column!r}; {nearest(column, known)}"
                )
        where = self._optional_filter(where)
        return self._scan(where, list(known if columns is None else columns), batch)

    def build(self, spec: IndexSpec = IndexSpec()) -> None:
        """Index and compact the rows. Searches also find rows that come later."""
        self._build(spec)

    def count(self, where: Predicate | None = None) -> int:
        """Count the items, or those that match the filter."""
        return self._count(self._optional_filter(where))

    def refresh(self) -> Schema:
        """Read the schema again, for another process may have created the store again."""
        self.schema = self._current_schema()
        return self.schema

    def version(self) -> Hashable | None:
        """A value that changes with every change of the items; None where that is not cheap."""
        return None

    def place(self) -> str:
        """Where the store is: the same however its URL was spelled."""
        return f"memory:{id(self)}"

    @abstractmethod
    def close(self) -> None:
        """Release files and connections."""

    def _current_schema(self) -> Schema:
        """The schema now: another process may have created the store again since it was opened."""
        return self.schema

    @abstractmethod
    def _upsert(self, table: Any) -> None:
        """Put these rows in; they are durable when it returns."""

    @abstractmethod
    def _delete(self, where: Predicate) -> int:
        """Delete what matches the filter -> how many there were."""

    @abstractmethod
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
        """The k nearest of each query, in any order, without rows whose vector is null.

        queries: (Q, D). vector: `Hit.vector` of the hits. column: `vector_...`, or the copy to
            search, for which the adapter truncates or packs the queries. columns: what `Hit.fields`
            carries; of a `vector_...`, (D,) float32.
        """

    @abstractmethod
    def _full_text(
        self, query: str, k: int, where: Predicate | None, columns: list[str]
    ) -> list[Hit]:
        """The k best by BM25; query: one or more words of letters, digits and underscores."""

    @abstractmethod
    def _scan(
        self, where: Predicate | None, columns: list[str], batch: int
    ) -> Iterator[Any]:
        """RecordBatches of at most `batch` rows, of these columns."""

    @abstractmethod
    def _build(self, spec: IndexSpec) -> None:
        """Index and compact."""

    @abstractmethod
    def _count(self, where: Predicate | None) -> int:
        """Count the rows, or those that match the filter."""

    def _require(self, capability: str) -> None:
        check_capabilities(self.name, self.capabilities, [capability])

    def _optional_filter(self, where: Predicate | None) -> Predicate | None:
        return None if where is None else self._checked_filter(where)

    def _checked_filter(self, where: Predicate) -> Predicate:
        """The filter as engines get it."""
        self._require("filter")
        typed = check_filter(where, self.schema.fields)
        return push_not_down(self._expand_list_prefixes(typed))

    def _expand_list_prefixes(self, part: Predicate) -> Predicate:
        """The same filter; a prefix of a list's elements becomes the values that begin with it.

        Engines compare whole elements only. To find the values, the field of all rows is read.
        """
        if isinstance(part, Not):
            return Not(self._expand_list_prefixes(part.part))
        if isinstance(part, (And, Or)):
            parts = [self._expand_list_prefixes(inner) for inner in part.parts]
            return type(part)(tuple(parts))
        if not isinstance(part, StartsWith):
            return part
        if self.schema.fields.get(part.field) != "strings":
            return part
        return In(part.field, self._values_that_begin(part.field, part.prefix))

    def _values_that_begin(self, field: str, prefix: str) -> tuple[str, ...]:
        """The elements of a list field, over all rows, that begin with the prefix."""
        values: set[str] = set()
        for rows in self._scan(None, [field], 10_000):
            for elements in rows.column(field).to_pylist():
                values.update(
                    value for value in elements or () if value.startswith(prefix)
                )
        return tuple(sorted(values))

    def _checked_queries(self, queries: Vectors, k: int) -> Vectors:
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.schema.dim:
            raise ValueError(
                f"queries of shape {queries.shape} are not (Q, {self.schema.dim}); give one row of "
                f"{self.schema.dim} numbers per query."
            )
        _check_k(k)
        check_unit(queries, True, "query")
        return queries


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k {k} gives no hits; give 1 or more.")
