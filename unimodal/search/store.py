"""What every vector store offers, whichever engine is behind it, and what is done once for all of them.

A row of a table that goes into a store, or comes out of it:

    id            string, the key: what is upserted under an id that is there replaces it
    vector_NAME   list of D float32, a unit vector, one column for each of `Schema.vectors`; null where an item has none
    words         string, what full-text search reads (if `Schema.words`); may be null
    thumbnail     binary, a small JPEG to show (if `Schema.thumbnails`); may be null
    FIELD         one column for each of `Schema.fields`; may be null

n rows, Q queries, D dimensions, k hits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .predicate import Predicate

FieldType = Literal["string", "int", "float", "bool", "strings"]
Vectors = NDArray[np.float32]


class UnsupportedError(ValueError):
    """An ability that a store lacks: it is never left out silently."""


@dataclass(frozen=True)
class Schema:
    """What the items of a store are; written into the store when it is created, and read when it is opened."""

    dim: int
    fingerprint: str  # of the model whose vectors these are (`Embedder.fingerprint()`); others are refused
    vectors: tuple[str, ...] = ("fused",)  # an item's vectors, e.g. text, image, fused
    fields: Mapping[str, FieldType] = field(default_factory=dict)  # what filters may name and hits carry
    words: bool = False
    thumbnails: bool = False
    prefix_dims: tuple[int, ...] = ()  # matryoshka: shorter copies of each vector, for a first pass that is re-ranked
    binary: bool = False  # one bit a dimension of each vector (its sign), for a first pass that is re-ranked
    about: Mapping[str, str] = field(default_factory=dict)  # model, calibrated, parent: what a reader has to know


@dataclass(frozen=True)
class IndexSpec:
    """How a store is made fast. `auto`: exact up to 50,000 rows, HNSW on 8-bit vectors with re-ranking above."""

    kind: Literal["auto", "exact", "hnsw"] = "auto"
    exact_up_to: int = 50_000


@dataclass(frozen=True)
class Hit:
    """One item that was found."""

    id: str
    score: float  # cosine similarity, or the fused score of a hybrid search: higher is better
    vector: str  # which of the item's vectors was nearest, or "words"
    fields: Mapping[str, Any]


class VectorStore(ABC):
    """A store of items, open for reading and writing. Made by `create_store` and `open_store`."""

    schema: Schema
    capabilities: frozenset[str]  # of: filter, words, prefix, binary, multiwriter, persistent

    @abstractmethod
    def upsert(self, rows: Any, *, fingerprint: str) -> int:
        """Put the rows of a pyarrow Table in, replacing those whose id is there; durable when it returns.

        Raises ValueError for vectors of another model (fingerprint) or that are not finite unit vectors of (n, D), an
        id that is empty or twice in the table, and columns that the schema has not.
        """

    @abstractmethod
    def delete(self, *, ids: Sequence[str] | None = None, where: Predicate | None = None) -> int:
        """Remove these items, or all that the filter keeps -> how many there were. One of the two must be given."""

    @abstractmethod
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
        """The k nearest items of each query by one of their vectors, best first.

        queries: (Q, D) unit vectors. vector: one of `schema.vectors`. fields: those the hits carry (None: all).
        coarse: "" searches the whole vector; "prefix:256" or "binary" takes `candidates` (0: 10 x k, at least 100) by
            the shorter copy, and re-ranks them by the whole vector. exact: compare with every row, whatever the index.
        """

    @abstractmethod
    def search_words(
        self, query: str, k: int, *, where: Predicate | None = None, fields: Sequence[str] | None = None
    ) -> list[Hit]:
        """The k best items by BM25 over `words`, best first; the score is BM25's."""

    @abstractmethod
    def scan(
        self, *, where: Predicate | None = None, columns: Sequence[str] | None = None, batch: int = 10_000
    ) -> Iterator[Any]:
        """All rows (or those the filter keeps) as pyarrow RecordBatches; columns: None is all of them."""

    @abstractmethod
    def build(self, spec: IndexSpec = IndexSpec()) -> None:
        """Index and compact what is there. Rows that come later are found all the same."""

    @abstractmethod
    def count(self, where: Predicate | None = None) -> int:
        """How many items there are, or how many the filter keeps."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""
