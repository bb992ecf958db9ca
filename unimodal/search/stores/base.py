"""What every vector store offers, whichever engine is behind it, and what is done once for all of
them.

A row of a table that goes into a store, or comes out of it:

    id            string, the key: what is upserted under an id that is there replaces it
    vector_NAME   list of D float32, a unit vector, one column for each of `Schema.vectors`; null where an item has none
    words         string, what full-text search reads (if `Schema.words`); may be null
    thumbnail     binary, a small JPEG to show (if `Schema.thumbnails`); may be null
    FIELD         one column for each of `Schema.fields`; may be null

n rows, Q queries, D dimensions, k hits.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unimodal.config import nearest
from unimodal.vectors import Vectors

from ...tables.types import FieldType
from ..filters.check import (
    And,
    In,
    Not,
    Or,
    Predicate,
    StartsWith,
    checked,
    push_not_down,
)
from .columns import check_unit, checked_rows, with_copies
from .schema import (
    ForeignModelError,
    Schema,
    binary_column,
    prefix_column,
    vector_column,
)

__all__ = [
    "FieldType",
    "Hit",
    "IndexSpec",
    "Schema",
    "UnsupportedError",
    "VectorStore",
    "Vectors",
    "best_first",
    "check_capabilities",
]


CAPABILITIES = {  # what a store may lack, and how that is said
    "filter": "filter its searches",
    "words": "search words",
    "prefix": "keep matryoshka prefixes",
    "binary": "keep binary copies",
    "multiwriter": "be written by several processes",
    "persistent": "keep its items",
}


class UnsupportedError(ValueError):
    """An ability that a store lacks: it is never left out silently."""


@dataclass(frozen=True)
class IndexSpec:
    """How a store is made fast. `auto`: exact up to 50,000 rows, HNSW on 8-bit vectors with
    re-ranking above.
    """

    kind: Literal["auto", "exact", "hnsw"] = "auto"
    exact_up_to: int = 50_000

    def wants_hnsw(self, num_rows: int) -> bool:
        """Whether so many rows get a graph."""
        return self.kind == "hnsw" or (
            self.kind == "auto" and num_rows > self.exact_up_to
        )


@dataclass(frozen=True)
class Hit:
    """One item that was found."""

    id: str
    score: float  # cosine similarity, or the fused score of a hybrid search: higher is better
    vector: str  # which of the item's vectors was nearest, or "words"
    fields: Mapping[str, Any]


def best_first(hit: Hit) -> tuple[float, str]:
    """The key that sorts hits: the highest score first, of equal scores by id."""
    return -hit.score, hit.id


class VectorStore(ABC):
    """A store of items, open for reading and writing. Made by `create_store` and `open_store`.

    The public methods check once for every engine; an engine's adapter sets `name`, `schema` and
    `capabilities`, and fills in the methods that begin with an underscore, which get what has been
    checked: tables in the types of `arrow_schema(schema, copies=True)`, filters without `Not` but
    directly above a leaf and naming `id` or fields only.
    """

    name: str  # of the engine, for messages
    schema: Schema
    capabilities: frozenset[str]  # of CAPABILITIES
    max_text_bytes: int | None = (
        None  # of an id, of words, of a string and of each in a list; None: as long as it likes
    )
    max_strings: int | None = None  # of a list

    def upsert(self, rows: Any, *, fingerprint: str) -> int:
        """Put the rows of a pyarrow Table in, replacing those whose id is there; durable when it
        returns.

        Raises ValueError for vectors of another model (fingerprint) or that are not finite unit
        vectors of (n, D), an id that is empty or twice in the table, and columns that the schema
        has not. A column left out is null.
        """
        self.schema = self._current_schema()
        self._refuse_foreign(fingerprint, "vectors")
        table = checked_rows(rows, self.schema)
        if table.num_rows:
            self._upsert(with_copies(table, self.schema))
        return int(table.num_rows)

    def delete(
        self, *, ids: Sequence[str] | None = None, where: Predicate | None = None
    ) -> int:
        """Remove these items, or all that the filter keeps -> how many there were. One of the two
        must be given.
        """
        if (ids is None) == (where is None):
            raise ValueError(
                "delete wants ids or where, one of the two; to empty a store, create it again."
            )
        if where is not None:
            return self._delete(self._filter(where))
        unique = tuple(dict.fromkeys(ids or ()))
        return sum(
            self._delete(In("id", unique[start : start + 1000]))
            for start in range(0, len(unique), 1000)
        )

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
        """The k nearest items of each query by one of their vectors, best first, those of equal
        score by id.

        queries: (Q, D) unit vectors. vector: one of `schema.vectors`. fields: those the hits carry
            (None: all of `schema.fields`; words and thumbnail, which are large, come when they are
            named).
        coarse: "" searches the whole vector; "prefix:256" or "binary" takes `candidates` (0: 10 x
            k, at least 100) by the shorter copy, and re-ranks them by the whole vector. exact:
            compare with every row, whatever the index.
        """
        self.schema = self._current_schema()
        self._refuse_foreign(fingerprint, "queries")
        queries = self._checked_queries(queries, k)
        if vector not in self.schema.vectors:
            raise ValueError(
                f"the store has no vector {vector!r}; {nearest(vector, self.schema.vectors)}"
            )
        where = self._filter(where) if where is not None else None
        columns = self._carried(fields)
        if not coarse:
            found = self._nearest(
                queries, k, vector, vector_column(vector), where, columns, exact
            )
            return [sorted(hits, key=best_first) for hits in found]
        column = self._coarse_column(coarse, vector)
        whole = vector_column(vector)
        num = max(k, candidates or max(10 * k, 100))
        found = self._nearest(
            queries, num, vector, column, where, [*columns, whole], exact
        )
        return [
            _re_ranked(query, hits, whole)[:k]
            for query, hits in zip(queries, found, strict=True)
        ]

    def search_words(
        self,
        query: str,
        k: int,
        *,
        where: Predicate | None = None,
        fields: Sequence[str] | None = None,
    ) -> list[Hit]:
        """The k best items by BM25 over `words`, best first; the score is BM25's. A query without a
        word finds none.
        """
        self._need("words")
        if not self.schema.words:
            raise ValueError(
                "the store keeps no words to search; index again with words."
            )
        if k < 1:
            raise ValueError(f"k {k} asks for no hits; ask for 1 or more.")
        where = self._filter(where) if where is not None else None
        columns = self._carried(fields)
        # Punctuation is syntax to some engines, and a word to none.
        words = " ".join(re.findall(r"\w+", query))
        return (
            sorted(self._by_words(words, k, where, columns), key=best_first)
            if words
            else []
        )

    def scan(
        self,
        *,
        where: Predicate | None = None,
        columns: Sequence[str] | None = None,
        batch: int = 10_000,
    ) -> Iterator[Any]:
        """All rows (or those the filter keeps) as pyarrow RecordBatches, in no order; columns: None
        is all of them.
        """
        for column in columns or ():
            if column not in self.schema.item_columns:
                raise ValueError(
                    f"the store has no column {column!r}; "
                    f"{nearest(column, self.schema.item_columns)}"
                )
        where = self._filter(where) if where is not None else None
        return self._scan(
            where, list(self.schema.item_columns if columns is None else columns), batch
        )

    def build(self, spec: IndexSpec = IndexSpec()) -> None:
        """Index and compact what is there. Rows that come later are found all the same."""
        self._build(spec)

    def count(self, where: Predicate | None = None) -> int:
        """How many items there are, or how many the filter keeps."""
        return self._count(self._filter(where) if where is not None else None)

    def refresh(self) -> Schema:
        """Read what the items are again, for another process may have made the store anew ->
        `schema`.
        """
        self.schema = self._current_schema()
        return self.schema

    def version(self) -> Hashable | None:
        """A value that is another one after every change of the items; None where the engine cannot
        tell cheaply.
        """
        return None

    def place(self) -> str:
        """Where the store is: the same however its URL was spelled."""
        return f"memory:{id(self)}"

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""

    def _current_schema(self) -> Schema:
        """What the items are now: another process may have made the store anew
        since it was opened.
        """
        return self.schema

    @abstractmethod
    def _upsert(self, table: Any) -> None:
        """Put these rows in; durable when it returns."""

    @abstractmethod
    def _delete(self, where: Predicate) -> int:
        """Remove what the filter keeps -> how many there were."""

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
        """The k nearest of each query; rows whose vector is null are never found, and the order is
        not asked for.

        queries: (Q, D). vector: what the hits say it was. column: `vector_...`, or the copy to
            search, for which the adapter cuts or packs the queries. columns: what `Hit.fields`
            carries; of a `vector_...`, (D,) float32.
        """

    @abstractmethod
    def _by_words(
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
        """How many rows there are, or the filter keeps."""

    def _refuse_foreign(self, fingerprint: str, what: str) -> None:
        if fingerprint != self.schema.fingerprint:
            model = self.schema.about.get("model", "another model")
            raise ForeignModelError(
                f"these {what} are of the model {fingerprint!r}, and the store holds vectors of "
                f"{model} ({self.schema.fingerprint!r}); use that model, or index again."
            )

    def _need(self, capability: str) -> None:
        check_capabilities(self.name, self.capabilities, [capability])

    def _filter(self, where: Predicate) -> Predicate:
        self._need("filter")
        return push_not_down(self._with_values(checked(where, self.schema)))

    def _with_values(self, part: Predicate) -> Predicate:
        """The same filter, but how an element of a list begins is said by all values that begin so.

        Engines compare whole elements only; to find the values, the field of all rows is read.
        """
        if isinstance(part, Not):
            return Not(self._with_values(part.part))
        if isinstance(part, (And, Or)):
            return type(part)(tuple(self._with_values(one) for one in part.parts))
        if (
            not isinstance(part, StartsWith)
            or self.schema.fields.get(part.field) != "strings"
        ):
            return part
        found: set[str] = set()
        for rows in self._scan(None, [part.field], 10_000):
            for values in rows.column(part.field).to_pylist():
                found.update(one for one in values or () if one.startswith(part.prefix))
        return In(part.field, tuple(sorted(found)))

    def _checked_queries(self, queries: Vectors, k: int) -> Vectors:
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.schema.dim:
            raise ValueError(
                f"queries of shape {queries.shape} are not (Q, {self.schema.dim}); give a row of "
                f"{self.schema.dim} numbers for each."
            )
        if k < 1:
            raise ValueError(f"k {k} asks for no hits; ask for 1 or more.")
        check_unit(queries, True, "query")
        return queries

    def _carried(self, fields: Sequence[str] | None) -> list[str]:
        if fields is None:
            return list(self.schema.fields)
        there = [
            name
            for name in self.schema.item_columns
            if name != "id" and not name.startswith("vector_")
        ]
        for name in fields:
            if name not in there:
                raise ValueError(
                    f"the store has no field {name!r}; {nearest(name, there)}"
                )
        return list(fields)

    def _coarse_column(self, coarse: str, vector: str) -> str:
        if coarse == "binary":
            self._need("binary")
            if not self.schema.binary:
                raise ValueError(
                    "coarse 'binary' is not kept in the store; index again with binary=true."
                )
            return binary_column(vector)
        dims = coarse.removeprefix("prefix:")
        if dims == coarse or not dims.isdecimal():
            raise ValueError(
                f"coarse {coarse!r} is neither 'binary' nor a prefix such as 'prefix:256'."
            )
        self._need("prefix")
        if int(dims) not in self.schema.prefix_dims:
            kept = ", ".join(map(str, self.schema.prefix_dims)) or "none"
            raise ValueError(
                f"coarse {coarse!r} is not kept in the store (prefix_dims: {kept}); "
                "index again with it."
            )
        return prefix_column(vector, int(dims))


def check_capabilities(
    name: str, capabilities: frozenset[str], wanted: Sequence[str]
) -> None:
    """Raises UnsupportedError for the first ability that is wanted and not there; name: the
    engine's.
    """
    for one in wanted:
        if one not in capabilities:
            raise UnsupportedError(
                f"{name} cannot {CAPABILITIES[one]}; do without it, or choose another store."
            )


def wanted_capabilities(schema: Schema) -> list[str]:
    """What a store needs for items of this schema; for `check_capabilities` when a store is
    created.
    """
    wishes = {
        "words": schema.words,
        "prefix": bool(schema.prefix_dims),
        "binary": schema.binary,
    }
    return [name for name, wanted in wishes.items() if wanted]


def _re_ranked(query: NDArray[np.float32], hits: list[Hit], whole: str) -> list[Hit]:
    """The candidates by their whole vectors; query: (D,)."""
    if not hits:
        return []
    vectors = np.stack([hit.fields[whole] for hit in hits])  # (n, D)
    scores = vectors @ query / np.linalg.norm(vectors, axis=1)
    ranked = [
        Hit(
            hit.id,
            float(score),
            hit.vector,
            {name: value for name, value in hit.fields.items() if name != whole},
        )
        for hit, score in zip(hits, scores, strict=True)
    ]
    return sorted(ranked, key=best_first)
