"""A store on a Milvus cluster, and the same in a file with Milvus Lite.

    milvus://host:19530[/database][?collection=NAME]    a server; milvus+tls:// for an encrypted connection
    milvus:///path/to/file.db[?collection=NAME]         Milvus Lite

Lite is a rewrite in Python for development: a search costs time for every row (11 ms of CPU for
10,000 x 384, and 30 times that before `build` has taken the rows out of memory), so keep it to
about 20,000 items; and only one process may have the file open. Both are driven by the same calls;
`is_lite` marks what differs.

Consistency: a search sees what this process wrote before it ("Session"), and what others wrote
within moments; counts, scans and deletions see all that was acknowledged ("Strong", which may cost
a server hundreds of milliseconds). What `upsert` acknowledges lies in the server's write-ahead log,
or in Lite's, which outlives a killed process (Lite does not wait for the disk: it may lose the last
moments when the power fails).

n rows, Q queries, D dimensions, k hits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
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
from .connection import Place, connect, disconnect, parse_place
from .filter import expression, literal
from .rows import (
    CALL_SECONDS,
    MAX_LIST,
    MAX_STRING_BYTES,
    SPARSE_COLUMN,
    bytes_of,
    check_sizes,
    create_collection,
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

MAX_HITS = (
    16_384  # of one query, and rows of one page (https://milvus.io/docs/limitations.md)
)
MESSAGE_BYTES = 24 << 20  # of the 64 MB that one call may carry
BUILD_SECONDS = 3600.0  # to flush, to make an index of many rows, or to load it

EF = 100  # with 5 x k re-ranked by whole vectors: what gave recall 1.0 at 200,000 rows
REFINE = 5
FILTERED_EF = 5_000


def check(location: str, schema: Schema) -> None:
    """Raises ValueError for what a collection there could not keep."""
    place = parse_place(location)
    check_capabilities(
        place.engine, _capabilities(place), required_capabilities(schema)
    )


def create(location: str, schema: Schema, *, overwrite: bool = False) -> MilvusStore:
    """A new, empty collection. Raises ValueError where one is, unless it is one of ours and may be
    overwritten.
    """
    check(location, schema)
    place = parse_place(location)
    if place.is_lite:
        Path(place.uri).parent.mkdir(parents=True, exist_ok=True)
    client, is_there = connect(place)
    try:
        if is_there:
            if not overwrite:
                raise ValueError(
                    f"{location} holds a store already; open it, or overwrite it and "
                    "lose what is in it."
                )
            read_schema(client, place, location)  # what is not ours is not ours to drop
            client.drop_collection(place.collection, timeout=CALL_SECONDS)
        create_collection(client, place, schema)
        return MilvusStore(client, place, schema)
    except BaseException:
        disconnect(client, place)
        raise


def open(location: str) -> MilvusStore:
    """The store that `create` made there."""
    place = parse_place(location)
    nothing = ValueError(f"{location} holds no store; make one with `unimodal index`.")
    if place.is_lite and not Path(place.uri).exists():  # connecting would make the file
        raise nothing
    client, is_there = connect(place)
    try:
        if not is_there:
            raise nothing
        return MilvusStore(client, place, read_schema(client, place, location))
    except BaseException:
        disconnect(client, place)
        raise


def exists(location: str) -> bool:
    """Whether there is a collection of that name."""
    place = parse_place(location)
    if place.is_lite and not Path(place.uri).exists():
        return False
    client, is_there = connect(place)
    disconnect(client, place)
    return is_there


class MilvusStore(VectorStore):
    """A collection of Milvus."""

    max_text_bytes = MAX_STRING_BYTES
    max_strings = MAX_LIST

    def __init__(self, client: Any, place: Place, schema: Schema) -> None:
        self.name = place.engine
        self.schema = schema
        self.capabilities = _capabilities(place)
        self._client = client
        self._place = place
        self._collection = place.collection
        self._is_open = True
        # Only what has all its indexes can be loaded, and a process may have died before it made
        # them.
        made = set(
            client.list_indexes(self._collection, timeout=CALL_SECONDS)
        )  # Lite gives the columns' own names
        types = index_types(schema, is_lite=place.is_lite)
        self._make_indexes(
            {
                name: kind
                for name, kind in types.items()
                if not made & {name, index_name(name)}
            }
        )
        client.load_collection(self._collection, timeout=BUILD_SECONDS)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            disconnect(self._client, self._place)

    def place(self) -> str:
        if self._place.is_lite:
            return f"{Path(self._place.uri).resolve()} {self._collection}"
        described = self._client.describe_collection(
            self._collection, timeout=CALL_SECONDS
        )
        return f"{described['collection_id']}"  # a server has several addresses

    def _current_schema(self) -> Schema:
        return read_schema(
            self._client, self._place, f"what is in collection {self._collection!r} now"
        )

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
        num = self._count(where)  # a server's own answer is of how many ids it was told
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
        wanted: Any
        if column == binary_column(vector):
            wanted = [row.tobytes() for row in pack_signs(queries)]
        else:
            wanted = truncate(queries, float_columns(self.schema)[column])
            if k > MAX_HITS or (exact and self._index_type(column) != "FLAT"):
                return self._compared_with_all(
                    wanted, k, vector, column, condition, columns
                )
        step = max(1, min(1000, MESSAGE_BYTES // (k * bytes_of(self.schema, columns))))
        # Lite's graph passes by what the filter drops, one by one: .31 at 100 and 1.0 at 5,000, of
        # 20,000 rows.
        ef = FILTERED_EF if self._place.is_lite and where is not None else EF
        params = {"ef": max(ef, REFINE * k), "refine_k": REFINE}
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), step):
            found = self._search(
                column, wanted[start : start + step], k, condition, columns, params
            )
            hits += [
                [
                    self._hit(
                        one["id"], one["distance"], vector, one["entity"], columns
                    )
                    for one in of_query
                ]
                for of_query in found
            ]
        return hits

    def _compared_with_all(
        self,
        queries: Vectors,
        k: int,
        vector: str,
        column: str,
        condition: str,
        columns: list[str],
    ) -> list[list[Hit]]:
        """A search of every row in this process, since a graph visits only some and answers are
        short.

        queries: (Q, dimensions of column).
        """
        ids: NDArray[Any] = np.empty((len(queries), 0), dtype=object)  # (Q, up to k)
        scores: Vectors = np.empty((len(queries), 0), dtype=np.float32)  # (Q, up to k)
        for rows in self._pages(
            condition, ["id", column], bytes_of(self.schema, [column]), MAX_HITS
        ):
            vectors = np.asarray(
                [row[column] for row in rows], dtype=np.float32
            )  # (n, dimensions)
            names = np.array([row["id"] for row in rows], dtype=object)
            scores = np.concatenate([scores, queries @ vectors.T], axis=1)
            ids = np.concatenate(
                [ids, np.broadcast_to(names, (len(queries), len(names)))], axis=1
            )
            best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores = np.take_along_axis(scores, best, 1)
            ids = np.take_along_axis(ids, best, 1)
        stored = self._by_id(sorted(set(ids.reshape(-1))), columns)
        return [
            [
                self._hit(one, score, vector, stored[one], columns)
                for one, score in zip(*pair, strict=True)
                if one in stored
            ]
            for pair in zip(ids, scores, strict=True)
        ]

    def _full_text(
        self, query: str, k: int, where: Predicate | None, columns: list[str]
    ) -> list[Hit]:
        found = self._search(
            SPARSE_COLUMN, [query], k, self._expression(where), columns, {}
        )[0]
        # Lite's scores are negative.
        return [
            self._hit(one["id"], abs(one["distance"]), "words", one["entity"], columns)
            for one in found
        ]

    def _scan(
        self, where: Predicate | None, columns: list[str], batch: int
    ) -> Iterator[Any]:
        stored = stored_names(self.schema, columns)
        for rows in self._pages(
            self._expression(where), stored, bytes_of(self.schema, columns), batch
        ):
            yield record_batch(rows, columns, self.schema)

    def _build(self, spec: IndexSpec) -> None:
        """Milvus compacts by itself. A change of index takes the collection out of service while it
        is made.
        """
        self._client.flush(self._collection, timeout=BUILD_SECONDS)
        if self._place.is_lite:
            # Its 8-bit graph does not re-rank; and any graph costs minutes to save less than its
            # own work per row, so that only who asks for one gets it (20,000 x 256: 34 s to build;
            # 1.3 ms a query against 1.1 ms without).
            kind = "HNSW" if spec.kind == "hnsw" else "FLAT"
        else:
            kind = "HNSW_SQ" if spec.wants_hnsw(self._count(None)) else "FLAT"
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
                f"{self.name} gives at most {MAX_HITS} hits by words or signs, and {k} "
                "were asked for; ask for fewer."
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
        """Of all that was acknowledged: Strong is the collection's own level of consistency."""
        return self._client.query(
            self._collection,
            filter=condition,
            output_fields=names,
            timeout=CALL_SECONDS,
            **options,
        )

    def _by_id(self, ids: list[str], columns: list[str]) -> dict[str, Any]:
        """What the collection holds of these items."""
        stored: dict[str, Any] = {}
        for start in range(0, len(ids), 1000):
            listed = ", ".join(map(literal, ids[start : start + 1000]))
            rows = self._query(f"id in [{listed}]", stored_names(self.schema, columns))
            stored |= {row["id"]: row for row in rows}
        return stored

    def _pages(
        self, condition: str, names: list[str], row_bytes: int, batch: int
    ) -> Iterator[list[dict[str, Any]]]:
        """All rows that meet the condition, by id.

        As the client's own iterator does it, but that one takes an id for a part of its expression
        if it has quotes.
        """
        size = max(1, min(batch, MAX_HITS, MESSAGE_BYTES // row_bytes))
        rest = condition
        while True:
            rows = list(
                self._query(
                    rest,
                    names,
                    limit=size,
                    iterator="True",
                    reduce_stop_for_best="True",
                )
            )
            if rows:
                yield rows
            if len(rows) < size:
                return
            after = f"id > {literal(rows[-1]['id'])}"
            rest = f"({after}) and ({condition})" if condition else after

    def _make_indexes(self, types: dict[str, str]) -> None:
        if types:
            params = index_params(self._client, types)
            # Not waiting (sync): the client waits half a second for each; what has to wait for them
            # does so itself.
            self._client.create_index(
                self._collection, params, timeout=BUILD_SECONDS, sync=False
            )

    def _wait_for_index(self, column: str) -> None:
        """Until the rows that are there are indexed; Lite's are at once."""
        deadline = time.monotonic() + BUILD_SECONDS
        while True:
            index = self._index(column)
            if index["state"] not in ("Unissued", "InProgress", "Failed") or not int(
                index["pending_index_rows"]
            ):
                return
            if index["state"] == "Failed" or time.monotonic() > deadline:
                raise ValueError(
                    f"{self.name} has not indexed {index['pending_index_rows']} rows of {column} "
                    f"({index['state']}); see its logs, and build again (searches find them all "
                    "the same)."
                )
            time.sleep(1.0)

    def _index(self, column: str) -> dict[str, Any]:
        return dict(
            self._client.describe_index(
                self._collection, index_name(column), timeout=CALL_SECONDS
            )
        )

    def _index_type(self, column: str) -> str:
        return str(self._index(column)["index_type"])

    def _expression(self, where: Predicate | None, *more: str) -> str:
        parts = [
            *more,
            *([expression(where, self.schema.fields)] if where is not None else []),
        ]
        return (
            parts[0] if len(parts) == 1 else " and ".join(f"({part})" for part in parts)
        )

    def _hit(
        self, item: str, score: float, vector: str, stored: Any, columns: list[str]
    ) -> Hit:
        return Hit(
            item,
            float(score),
            vector,
            {name: value_of(stored, name, self.schema) for name in columns},
        )


def _capabilities(place: Place) -> frozenset[str]:
    return LITE_CAPABILITIES if place.is_lite else SERVER_CAPABILITIES


STORE = MilvusStore  # what it can is known before there is one
