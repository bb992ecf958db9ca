"""The distributed store: a Milvus cluster, or a file with Milvus Lite.

    milvus://host:19530[/database][?collection=NAME]    a server; milvus+tls:// for TLS
    milvus:///path/to/file.db[?collection=NAME]         Milvus Lite

Lite is a rewrite in Python for development: a search compares every row (11 ms of CPU for 10,000 x
384, and 30 times that before `build` has flushed the rows), so keep it to about 20,000 items; and
only one process may have the file open. The calls are the same for both; `is_lite` marks what
differs.

Consistency: a search sees what this process wrote ("Session"), and what others wrote within
moments; counts, scans and deletions see all acknowledged writes ("Strong", which may cost a server
hundreds of milliseconds). Acknowledged rows are in the write-ahead log of the server or of Lite,
which survives a killed process (Lite does not sync it to the disk: a power failure may lose the
last moments).

n rows, Q queries, D dimensions, k hits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.vectors import Vectors, pack_signs, truncate

from ...filters.tree import Predicate
from ..base import IndexSpec, VectorStore
from ..capabilities import check_capabilities, required_capabilities
from ..hits import Hit
from ..schema import Schema, binary_column
from .connection import Address, connect, disconnect, parse_address
from .filter import expression, literal
from .rows import (
    CALL_SECONDS,
    MAX_LIST,
    MAX_STRING_BYTES,
    SPARSE_COLUMN,
    check_sizes,
    create_collection,
    estimate_bytes,
    float_columns,
    has_column,
    index_name,
    index_params,
    index_types,
    num_bytes,
    read_schema,
    record_batch,
    stored_names,
    to_stored,
    value_of,
)

LITE_CAPABILITIES = frozenset({"filter", "full_text", "prefix", "persistent"})
SERVER_CAPABILITIES = LITE_CAPABILITIES | {"binary", "multiwriter"}

# Of one query, and rows of one page (https://milvus.io/docs/limitations.md).
MAX_HITS = 16_384
MESSAGE_BYTES = 24 << 20  # of the 64 MB that one call may carry
BUILD_SECONDS = (
    3600.0  # timeout to flush, to build an index of many rows, or to load it
)

# With 5 x k re-ranked by whole vectors: recall 1.0 at 200,000 rows.
EF = 100
REFINE = 5
# Lite's graph skips what the filter drops one by one: recall .31 at 100 and 1.0 at 5,000, of 20,000
# rows.
FILTERED_EF = 5_000


def check(location: str, schema: Schema) -> None:
    """Raise ValueError for what a collection there could not keep."""
    address = parse_address(location)
    required = required_capabilities(schema)
    check_capabilities(address.engine, _capabilities(address), required)


def create(location: str, schema: Schema, *, overwrite: bool = False) -> MilvusStore:
    """Create an empty collection.

    Raises ValueError where one is, unless it is a unimodal store and may be overwritten.
    """
    check(location, schema)
    address = parse_address(location)
    if address.is_lite:
        Path(address.uri).parent.mkdir(parents=True, exist_ok=True)
    client, exists_already = connect(address)
    try:
        if exists_already:
            if not overwrite:
                raise ValueError(
                    f"{location} already holds a store; open it, or overwrite it and lose its "
                    "items."
                )
            read_schema(client, address, location)  # do not drop what is not a store
            client.drop_collection(address.collection, timeout=CALL_SECONDS)
        create_collection(client, address, schema)
        return MilvusStore(client, address, schema)
    except BaseException:
        disconnect(client, address)
        raise


def open(location: str) -> MilvusStore:
    """Open the store that `create` made."""
    address = parse_address(location)
    missing = ValueError(f"{location} holds no store; make one with `unimodal index`.")
    if _lacks_file(address):
        raise missing
    client, has_collection = connect(address)
    try:
        if not has_collection:
            raise missing
        schema = read_schema(client, address, location)
        return MilvusStore(client, address, schema)
    except BaseException:
        disconnect(client, address)
        raise


def exists(location: str) -> bool:
    """Whether there is a collection of that name."""
    address = parse_address(location)
    if _lacks_file(address):
        return False
    client, has_collection = connect(address)
    disconnect(client, address)
    return has_collection


def _lacks_file(address: Address) -> bool:
    """Whether Milvus Lite's file is missing; connecting would create it."""
    return address.is_lite and not Path(address.uri).exists()


class MilvusStore(VectorStore):
    """A collection of Milvus."""

    max_text_bytes = MAX_STRING_BYTES
    max_strings = MAX_LIST

    def __init__(self, client: Any, address: Address, schema: Schema) -> None:
        self.name = address.engine
        self.schema = schema
        self.capabilities = _capabilities(address)
        self._client = client
        self._address = address
        self._collection = address.collection
        self._is_open = True
        # A collection can be loaded only with all its indexes, and a process may have died before
        # it had made them.
        self._make_indexes(self._missing_indexes())
        client.load_collection(self._collection, timeout=BUILD_SECONDS)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            disconnect(self._client, self._address)

    def place(self) -> str:
        if self._address.is_lite:
            return f"{Path(self._address.uri).resolve()} {self._collection}"
        described = self._client.describe_collection(
            self._collection, timeout=CALL_SECONDS
        )
        return str(described["collection_id"])  # a server has several addresses

    def _current_schema(self) -> Schema:
        what = f"what is in collection {self._collection!r} now"
        return read_schema(self._client, self._address, what)

    def _upsert(self, table: Any) -> None:
        check_sizes(table)
        batch: list[dict[str, Any]] = []
        batch_bytes = 0
        for row in to_stored(table, self.schema):
            size = num_bytes(row)
            if batch and batch_bytes + size > MESSAGE_BYTES:
                self._client.upsert(self._collection, batch, timeout=CALL_SECONDS)
                batch = []
                batch_bytes = 0
            batch.append(row)
            batch_bytes += size
        self._client.upsert(self._collection, batch, timeout=CALL_SECONDS)

    def _delete(self, where: Predicate) -> int:
        num = self._count(
            where
        )  # a server's own answer counts the ids that it was given
        if num:
            self._client.delete(
                self._collection, filter=self._expression(where), timeout=CALL_SECONDS
            )
        return num

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
        condition = self._expression(where, f"{has_column(vector)} == true")
        data: Any
        if column == binary_column(vector):
            data = [row.tobytes() for row in pack_signs(queries)]
        else:
            data = truncate(queries, float_columns(self.schema)[column])
            if k > MAX_HITS or (exact and self._index_type(column) != "FLAT"):
                return self._compare_with_all(
                    data, k, vector, column, condition, columns
                )
        result_bytes = k * estimate_bytes(self.schema, columns)
        step = max(1, min(1000, MESSAGE_BYTES // result_bytes))
        ef = FILTERED_EF if self._address.is_lite and where is not None else EF
        params = {"ef": max(ef, REFINE * k), "refine_k": REFINE}
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), step):
            block = data[start : start + step]
            for rows in self._search(column, block, k, condition, columns, params):
                hits.append([self._hit(row, vector, columns) for row in rows])
        return hits

    def _compare_with_all(
        self,
        queries: Vectors,
        k: int,
        vector: str,
        column: str,
        condition: str,
        columns: list[str],
    ) -> list[list[Hit]]:
        """Compare with every row in this process: a graph visits only some, and answers are short.

        queries: (Q, dimensions of column).
        """
        ids: NDArray[Any] = np.empty((len(queries), 0), dtype=object)  # (Q, up to k)
        scores: Vectors = np.empty((len(queries), 0), dtype=np.float32)  # (Q, up to k)
        row_bytes = estimate_bytes(self.schema, [column])
        for rows in self._pages(condition, ["id", column], row_bytes, MAX_HITS):
            listed = [row[column] for row in rows]
            vectors = np.asarray(listed, dtype=np.float32)  # (n, dimensions)
            names = np.array([row["id"] for row in rows], dtype=object)
            every = np.broadcast_to(names, (len(queries), len(names)))
            scores = np.concatenate([scores, queries @ vectors.T], axis=1)
            ids = np.concatenate([ids, every], axis=1)
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores = np.take_along_axis(scores, best, 1)
            ids = np.take_along_axis(ids, best, 1)

        stored = self._read_items(sorted(set(ids.reshape(-1))), columns)
        results = []
        for of_query, its_scores in zip(ids, scores, strict=True):
            hits = []
            for item, score in zip(of_query, its_scores, strict=True):
                if item in stored:
                    row = {"id": item, "distance": score, "entity": stored[item]}
                    hits.append(self._hit(row, vector, columns))
            results.append(hits)
        return results

    def _full_text(
        self, query: str, k: int, where: Predicate | None, columns: list[str]
    ) -> list[Hit]:
        condition = self._expression(where)
        (rows,) = self._search(SPARSE_COLUMN, [query], k, condition, columns, {})
        hits = [self._hit(row, "words", columns) for row in rows]
        # Lite's scores are negative.
        return [replace(hit, score=abs(hit.score)) for hit in hits]

    def _scan(
        self, where: Predicate | None, columns: list[str], batch: int
    ) -> Iterator[Any]:
        stored = stored_names(self.schema, columns)
        row_bytes = estimate_bytes(self.schema, columns)
        for rows in self._pages(self._expression(where), stored, row_bytes, batch):
            yield record_batch(rows, columns, self.schema)

    def _build(self, spec: IndexSpec) -> None:
        """Flush and index; Milvus compacts automatically.

        While the index type changes, the collection is released and cannot be searched.
        """
        self._client.flush(self._collection, timeout=BUILD_SECONDS)
        kind = self._wanted_index(spec)
        changed = {
            column: kind
            for column in float_columns(self.schema)
            if self._index_type(column) != kind
        }
        if changed:
            self._client.release_collection(self._collection, timeout=CALL_SECONDS)
            for column in changed:
                self._client.drop_index(
                    self._collection, index_name(column), timeout=CALL_SECONDS
                )
            self._make_indexes(changed)
            self._client.load_collection(self._collection, timeout=BUILD_SECONDS)
        for column in float_columns(self.schema):
            self._wait_for_index(column)

    def _count(self, where: Predicate | None) -> int:
        return int(self._query(self._expression(where), ["count(*)"])[0]["count(*)"])

    def _search(
        self,
        column: str,
        queries: Any,
        k: int,
        condition: str,
        columns: list[str],
        params: dict[str, int],
    ) -> Any:
        if k > MAX_HITS:
            raise ValueError(
                f"k {k} is more than {MAX_HITS}, the most hits that {self.name} returns by words "
                "or signs; lower it."
            )
        return self._client.search(
            self._collection,
            data=list(queries),
            anns_field=column,
            limit=k,
            filter=condition,
            output_fields=stored_names(self.schema, columns),
            search_params={"params": params},
            consistency_level="Session",
            timeout=CALL_SECONDS,
        )

    def _query(self, condition: str, names: list[str], **options: Any) -> Any:
        """Query all acknowledged rows: Strong is the collection's own consistency level."""
        return self._client.query(
            self._collection,
            filter=condition,
            output_fields=names,
            timeout=CALL_SECONDS,
            **options,
        )

    def _read_items(self, ids: list[str], columns: list[str]) -> dict[str, Any]:
        """The stored rows of these items: id -> row."""
        names = stored_names(self.schema, columns)
        stored: dict[str, Any] = {}
        for start in range(0, len(ids), 1000):
            listed = ", ".join(map(literal, ids[start : start + 1000]))
            rows = self._query(f"id in [{listed}]", names)
            stored |= {row["id"]: row for row in rows}
        return stored

    def _pages(
        self, condition: str, names: list[str], row_bytes: int, batch: int
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield all rows that match the condition, by id.

        It works like the client's own iterator, which does not escape the quotes of an id.
        """
        size = max(1, min(batch, MAX_HITS, MESSAGE_BYTES // row_bytes))
        rest = condition
        while True:
            page = {"iterator": "True", "reduce_stop_for_best": "True"}
            rows = list(self._query(rest, names, limit=size, **page))
            if rows:
                yield rows
            if len(rows) < size:
                return
            after = f"id > {literal(rows[-1]['id'])}"
            rest = f"({after}) and ({condition})" if condition else after

    def _make_indexes(self, types: dict[str, str]) -> None:
        if types:
            params = index_params(self._client, types)
            # sync=False: the client would wait half a second for each; callers wait where needed.
            self._client.create_index(
                self._collection, params, timeout=BUILD_SECONDS, sync=False
            )

    def _wait_for_index(self, column: str) -> None:
        """Wait until all present rows are indexed; Lite indexes them at once."""
        deadline = time.monotonic() + BUILD_SECONDS
        while True:
            index = self._index(column)
            state = index["state"]
            num_pending = int(index["pending_index_rows"])
            if state not in ("Unissued", "InProgress", "Failed") or not num_pending:
                return
            if state == "Failed" or time.monotonic() > deadline:
                raise ValueError(
                    f"{self.name} has not indexed {num_pending} rows of {column} ({state}); see "
                    "its logs, and build again (searches still find these rows)."
                )
            time.sleep(1.0)

    def _missing_indexes(self) -> dict[str, str]:
        """Columns that should have an index and have none -> its type."""
        indexes = self._client.list_indexes(self._collection, timeout=CALL_SECONDS)
        types = index_types(self.schema, is_lite=self._address.is_lite)
        # Lite lists the names of columns instead of those of indexes.
        return {
            column: kind
            for column, kind in types.items()
            if not {column, index_name(column)} & set(indexes)
        }

    def _wanted_index(self, spec: IndexSpec) -> str:
        """The index type of the vectors."""
        if not self._address.is_lite:
            return "HNSW_SQ" if spec.wants_hnsw(self._count(None)) else "FLAT"
        # Lite's 8-bit graph does not re-rank, and any graph takes minutes to build and saves less
        # than its own work per row, so that `auto` never builds one (20,000 x 256: 34 s to build;
        # 1.3 ms per query against 1.1 ms without).
        return "HNSW" if spec.kind == "hnsw" else "FLAT"

    def _index(self, column: str) -> dict[str, Any]:
        return dict(
            self._client.describe_index(
                self._collection, index_name(column), timeout=CALL_SECONDS
            )
        )

    def _index_type(self, column: str) -> str:
        return str(self._index(column)["index_type"])

    def _expression(self, where: Predicate | None, *more: str) -> str:
        parts = list(more)
        if where is not None:
            parts.append(expression(where, self.schema.fields))
        if len(parts) == 1:
            return parts[0]
        return " and ".join(f"({part})" for part in parts)

    def _hit(self, row: Mapping[str, Any], vector: str, columns: list[str]) -> Hit:
        """A hit of a row of the client's result, with the keys id, distance and entity."""
        stored = row["entity"]
        fields = {name: value_of(stored, name, self.schema) for name in columns}
        return Hit(row["id"], float(row["distance"]), vector, fields)


def _capabilities(address: Address) -> frozenset[str]:
    return LITE_CAPABILITIES if address.is_lite else SERVER_CAPABILITIES


STORE = MilvusStore  # its class attributes are known before there is a store
