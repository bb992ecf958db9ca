"""The embedded store: LanceDB, in a folder and in this process.

One table `items`; its Arrow metadata holds the Schema, so that one commit creates a store. Several
processes may read and write: every commit is atomic, readers see the latest, and two writers cannot
both insert an id, because `id` is the table's primary key (without that mark LanceDB does insert
twice: lancedb#2463).

Above 50,000 rows a search uses a graph on 8-bit vectors (IVF_HNSW_SQ) and re-ranks 5 candidates per
hit by their full vectors; filters are applied before the search. Below, it compares every row.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Coroutine, Hashable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unimodal.vectors import Vectors, pack_signs, truncate

from ...tables.types import FieldType
from ..filters.tree import (
    And,
    In,
    IsNull,
    Leaf,
    Not,
    Or,
    Predicate,
    StartsWith,
    Value,
)
from .base import IndexSpec, VectorStore
from .columns import arrow_schema, vectors_of
from .hits import Hit
from .schema import Schema, schema_from_json, schema_to_json

CAPABILITIES = frozenset(
    {"filter", "full_text", "prefix", "binary", "multiwriter", "persistent"}
)
TABLE = "items"
# Candidates that a walk through the graph keeps: recall .97 at 200k x 768, 1.0 with the re-ranking.
EF = 100
REFINE = 5  # candidates per hit that are compared by their full vectors
# For this long after a build, a reader such as a long scan can use the version that it began with.
KEEP_VERSIONS = timedelta(hours=1)
ATTEMPTS = (
    8  # of a commit that conflicts with others; LanceDB itself retries within each
)

_METADATA = b"unimodal.schema"
_PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}


def check(location: str, schema: Schema) -> None:
    """Raise ValueError where there is a file; LanceDB keeps whatever a schema has."""
    _refuse_file(location)


def create(location: str, schema: Schema, *, overwrite: bool) -> LanceStore:
    """Create a store in a folder.

    Raises ValueError where a store is, unless it is a unimodal store and may be overwritten.
    """
    if overwrite:
        _refuse_foreign_table(location)
    connection = _connect(location)
    mode = "overwrite" if overwrite else "create"
    try:
        table = run(
            connection.create_table(TABLE, schema=_table_schema(schema), mode=mode)
        )
    except ValueError as error:
        if "already exists" not in str(error):
            raise
        raise ValueError(
            f"{location} already holds a store; open it, choose another place or overwrite it."
        ) from None
    store = LanceStore(table, schema)
    store.index_fields()
    return store


def open(location: str) -> LanceStore:
    """Open the store in a folder."""
    table = _table(location)
    if table is None:
        raise ValueError(f"{location} holds no store; make one with `unimodal index`.")
    return LanceStore(table, _read_schema(table, location))


def exists(location: str) -> bool:
    """Whether a folder holds a table `items`, a store's or another."""
    return _table(location) is not None


class LanceStore(VectorStore):
    """A store in a folder, open. Threads may share it.

    It uses LanceDB's asynchronous table, on the event loop of the synchronous one, which switches
    threads six times in a search (5.6 ms of CPU, against 3.2).
    """

    name = "LanceDB"
    capabilities = CAPABILITIES

    def __init__(self, table: Any, schema: Schema) -> None:
        self.schema = schema
        self.table = table

    def close(self) -> None:
        """Do nothing: every write was committed when it returned."""

    def place(self) -> str:
        return str(Path(run(self.table.uri())).resolve())

    def version(self) -> Hashable:
        """The table's version and its time: a table that was created again counts from 1."""
        version = int(run(self.table.version()))
        commits = Path(run(self.table.uri())) / "_versions"
        return version, commits.stat().st_mtime_ns

    def _current_schema(self) -> Schema:
        return _read_schema(self.table, "what is in the store's folder now")

    def _upsert(self, table: Any) -> None:
        merge = (
            self.table.merge_insert("id")
            .when_matched_update_all()
            .when_not_matched_insert_all()
        )
        # "null": a missing vector stays missing.
        _commit(lambda: merge.execute(table, on_bad_vectors="null"))

    def _delete(self, where: Predicate) -> int:
        condition = to_sql(where, self.schema.fields)
        result = _commit(lambda: self.table.delete(condition))
        return int(result.num_deleted_rows)

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
        is_binary = column.startswith("binary_")
        wanted = pack_signs(queries) if is_binary else _truncate_to(queries, column)
        query = self.table.query()
        query = query.nearest_to(list(wanted) if len(wanted) > 1 else wanted[0])
        query = query.column(column)
        query = query.distance_type("hamming" if is_binary else "cosine")
        query = query.limit(k).select(["id", *columns, "_distance"])
        if where is not None:
            # LanceDB filters before the search, unless it is configured not to.
            query = query.where(to_sql(where, self.schema.fields))
        if exact:
            query = query.bypass_vector_index()
        elif not is_binary:
            refine = REFINE if k <= EF else 2
            query = query.ef(max(EF, refine * k)).refine_factor(refine)
        rows = run(query.to_arrow())

        scores = 1 - np.asarray(rows["_distance"], dtype=np.float64)
        numbers = np.zeros(len(scores), dtype=int)
        if len(wanted) > 1:
            numbers = np.asarray(rows["query_index"])
        hits: list[list[Hit]] = [[] for _ in wanted]
        all_hits = _hits(rows, scores, vector, columns, self.schema.dim)
        for number, hit in zip(numbers, all_hits, strict=True):
            hits[number].append(hit)
        return hits

    def _full_text(
        self, query: str, k: int, where: Predicate | None, columns: list[str]
    ) -> list[Hit]:
        from lancedb.query import MatchQuery

        search = self.table.query().nearest_to_text(MatchQuery(query, "words")).limit(k)
        search = search.select(["id", *columns, "_score"])
        if where is not None:
            search = search.where(to_sql(where, self.schema.fields))
        rows = run(search.to_arrow())
        scores = np.asarray(rows["_score"], dtype=np.float64)
        return list(_hits(rows, scores, "words", columns, self.schema.dim))

    def _scan(
        self, where: Predicate | None, columns: list[str], batch: int
    ) -> Iterator[Any]:
        query = self.table.query().select(columns)
        if where is not None:
            query = query.where(to_sql(where, self.schema.fields))
        reader = run(query.to_batches(max_batch_length=batch))
        while (rows := run(_next(reader))) is not None:
            yield rows

    def _count(self, where: Predicate | None) -> int:
        condition = None if where is None else to_sql(where, self.schema.fields)
        return int(run(self.table.count_rows(condition)))

    def _build(self, spec: IndexSpec) -> None:
        from lancedb.index import HnswSq

        # Compact, and add new rows to the indexes.
        _commit(lambda: self.table.optimize(cleanup_older_than=KEEP_VERSIONS))
        self.index_fields()
        indexed = self.indexed()
        for column in arrow_schema(self.schema, copies=True).names:
            if not column.startswith(("vector_", "prefix_")):
                continue  # signs are compared one by one: 1 ms for 200,000 rows
            if column in indexed:
                if spec.kind == "exact":
                    run(self.table.drop_index(indexed[column]))
                continue
            num = self._num_vectors(column)
            if num and spec.wants_hnsw(num):
                self._index(column, HnswSq(distance_type="cosine"))

    def index_fields(self) -> None:
        """Index the id (for upserts), the fields (for filters) and the words (for full text)."""
        import lancedb.index as kinds

        kind_of = {"strings": kinds.LabelList, "bool": kinds.Bitmap}
        wanted: dict[str, Any] = {"id": kinds.BTree()}
        for name, kind in self.schema.fields.items():
            wanted[name] = kind_of.get(kind, kinds.BTree)()
        if self.schema.words:  # unstemmed: their language is not known
            wanted["words"] = kinds.FTS(stem=False, remove_stop_words=False)
        indexed = self.indexed()
        for column, config in wanted.items():
            if column not in indexed:
                self._index(column, config)

    def indexed(self) -> dict[str, str]:
        """Column -> name of its index."""
        indexes = run(self.table.list_indices())
        return {index.columns[0]: index.name for index in indexes}

    def _index(self, column: str, config: Any) -> None:
        _commit(lambda: self.table.create_index(column, config=config))

    def _num_vectors(self, column: str) -> int:
        return int(run(self.table.count_rows(f"{_quote(column)} IS NOT NULL")))


def to_sql(predicate: Predicate, fields: Mapping[str, FieldType]) -> str:
    """Render a checked filter in LanceDB's SQL; fields: the schema's, for which hold lists."""
    if isinstance(predicate, (And, Or)):
        word = " AND " if isinstance(predicate, And) else " OR "
        return "(" + word.join(to_sql(part, fields) for part in predicate.parts) + ")"
    if isinstance(predicate, Not):
        condition = f"NOT ({to_sql(predicate.part, fields)})"
        # The optimiser makes "x NOT IN (1) OR x NOT IN (2)" true, which is wrong where x is null.
        if isinstance(predicate.part, In):
            condition = f"{_quote(predicate.part.field)} IS NOT NULL AND {condition}"
        return f"({condition})"
    return _leaf_to_sql(predicate, fields.get(predicate.field) == "strings")


def _leaf_to_sql(leaf: Leaf, is_list: bool) -> str:
    field = _quote(leaf.field)
    if isinstance(leaf, IsNull):
        return f"{field} IS NULL"
    if isinstance(leaf, StartsWith):
        return f"starts_with({field}, {_literal(leaf.prefix)})"
    if isinstance(leaf, In):
        values = ", ".join(map(_literal, leaf.values))
        if not leaf.values:
            return "false"
        if is_list:
            return f"array_has_any({field}, [{values}])"
        return f"{field} IN ({values})"
    value = _literal(leaf.value)
    if not is_list:
        return f"{field} {leaf.operator} {value}"
    has = f"array_has({field}, {value})"
    return f"NOT {has}" if leaf.operator == "!=" else has


def _quote(column: str) -> str:
    """Put a column in backticks, without which SQL folds its case; no name of a Schema has one."""
    return f"`{column}`"


def _literal(value: Value) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value).lower()


def _table_schema(schema: Schema) -> Any:
    """The pyarrow schema of the table, with the primary key and our schema in its metadata."""
    import pyarrow as pa

    columns = [
        column.with_metadata(_PRIMARY_KEY) if column.name == "id" else column
        for column in arrow_schema(schema, copies=True)
    ]
    return pa.schema(columns, metadata={_METADATA: schema_to_json(schema).encode()})


def _connect(location: str) -> Any:
    try:
        import lancedb
    except ImportError:
        raise ImportError(
            'a store in a folder needs LanceDB: pip install "unimodal[search]"'
        ) from None
    # 0: always read the latest commit.
    return run(lancedb.connect_async(location, read_consistency_interval=timedelta(0)))


def _refuse_file(location: str) -> None:
    path = Path(location)
    if path.exists() and not path.is_dir():
        raise ValueError(
            f"{location} is a file, and a store is a folder; name another place for it."
        )


def _refuse_foreign_table(location: str) -> None:
    """Raise ValueError for a table that unimodal did not make."""
    table = _table(location)
    if table is not None:
        _read_schema(table, location)


def _table(location: str) -> Any | None:
    """Open the table `items`, if there is one."""
    _refuse_file(location)
    if not Path(location).is_dir():  # connecting would create the folder
        return None
    try:
        return run(_connect(location).open_table(TABLE))
    except ValueError as error:
        if "was not found" not in str(error):
            raise
        return None


def _read_schema(table: Any, place: str) -> Schema:
    """Read the Schema of a table; raises ValueError for one that unimodal did not make."""
    metadata = run(table.schema()).metadata or {}
    return schema_from_json(metadata.get(_METADATA, b"").decode(), place)


def _truncate_to(queries: Vectors, column: str) -> Vectors:
    """Truncate the queries, (Q, D), to the length of a column's vectors."""
    if not column.startswith("prefix_"):
        return queries
    return truncate(queries, int(column.split("_")[1]))


def _hits(
    rows: Any, scores: NDArray[np.float64], vector: str, columns: list[str], dim: int
) -> Iterator[Hit]:
    """One Hit per row of a result."""
    values: dict[str, Any] = {}
    for column in columns:
        if column.startswith("vector_"):
            values[column], _ = vectors_of(rows[column], dim)
        else:
            values[column] = rows[column].to_pylist()
    ids = rows["id"].to_pylist()
    for row, (item, score) in enumerate(zip(ids, scores.tolist(), strict=True)):
        fields = {column: values[column][row] for column in columns}
        yield Hit(item, score, vector, fields)


async def _next(reader: Any) -> Any:
    """The next batch; None at the end."""
    return await anext(reader, None)


def _commit(commit: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a commit, and retry with growing pauses while it conflicts with other writers."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return run(commit())
        except RuntimeError as error:
            if "conflict" not in str(error).lower():
                raise
            time.sleep(0.05 * 2**attempt * (1 + random.random()))
    return run(commit())


def run(coroutine: Any) -> Any:
    """Run a coroutine on LanceDB's event loop; raises OSError where the disk is full or fails."""
    from lancedb.background_loop import LOOP

    try:
        return LOOP.run(coroutine)
    except RuntimeError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        reason = os.strerror(int(number[1]))
        raise OSError(
            f"LanceDB cannot use the store's folder: {reason}; nothing that was in it is lost: fix "
            "that, and run this again."
        ) from None


STORE = LanceStore  # its class attributes are known before there is a store
