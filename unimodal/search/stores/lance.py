"""The embedded store: LanceDB, a folder on a disk, with no process beside one's own.

One table `items`; its Arrow metadata holds the Schema, so that a store is created by one commit or
not at all. Several processes may read and write: every commit is atomic, readers see the latest,
and two writers of one id cannot both insert it, because `id` is the table's primary key (without
that mark LanceDB does insert twice: lancedb#2463).

Above 50,000 rows a graph on 8-bit vectors (IVF_HNSW_SQ) is searched, with 5 times as many
candidates as hits compared by their full vectors; filters are applied before the search. Below,
every row is compared, which is exact.
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
from ..filters.tree import And, In, IsNull, Not, Or, Predicate, StartsWith, Value
from .base import IndexSpec, VectorStore
from .columns import arrow_schema, vectors_of
from .hits import Hit
from .schema import Schema, schema_from_json, schema_to_json

CAPABILITIES = frozenset(
    {"filter", "full_text", "prefix", "binary", "multiwriter", "persistent"}
)
TABLE = "items"
# candidates that a walk through the graph keeps: recall .97 at 200k x 768, 1.0 with the re-ranking
EF = 100
REFINE = 5  # candidates a hit that are compared by their full vectors
# A reader that holds an old version, such as a long scan, goes on with it for so long after a
# build.
KEEP_VERSIONS = timedelta(hours=1)
ATTEMPTS = 8  # of a commit that other writers got ahead of; LanceDB itself makes several in each

_METADATA = b"unimodal.schema"
_PRIMARY_KEY = {"lance-schema:unenforced-primary-key": "true"}


def check(location: str, schema: Schema) -> None:
    """Raises ValueError where no folder could be; all that a schema may ask for is kept."""
    _refuse_file(location)


def create(location: str, schema: Schema, *, overwrite: bool) -> LanceStore:
    """A new store in a folder. Raises ValueError where one is, unless it is one of ours and may be
    overwritten.
    """
    import pyarrow as pa

    columns = [
        column.with_metadata(_PRIMARY_KEY) if column.name == "id" else column
        for column in arrow_schema(schema, copies=True)
    ]
    columns = pa.schema(columns, metadata={_METADATA: schema_to_json(schema).encode()})
    if overwrite and (before := _table(location)) is not None:
        _read_schema(before, location)  # what is not ours is not ours to drop
    mode = "overwrite" if overwrite else "create"
    try:
        table = run(_connect(location).create_table(TABLE, schema=columns, mode=mode))
    except ValueError as error:
        if "already exists" not in str(error):
            raise
        raise ValueError(
            f"{location} holds a store already; open it, choose another place or overwrite it."
        ) from None
    store = LanceStore(table, schema)
    store.index_fields()
    return store


def open(location: str) -> LanceStore:
    """The store in a folder."""
    table = _table(location)
    if table is None:
        raise ValueError(f"{location} holds no store; make one with `unimodal index`.")
    return LanceStore(table, _read_schema(table, location))


def exists(location: str) -> bool:
    """Whether there is a store in a folder, or another table in a store's place."""
    return _table(location) is not None


class LanceStore(VectorStore):
    """A store in a folder, open. Threads may share it.

    LanceDB's asynchronous table is driven, on the loop that its synchronous one has: that one
    crosses from thread to thread six times in a search (5.6 ms of CPU, against 3.2).
    """

    name = "LanceDB"
    capabilities = CAPABILITIES

    def __init__(self, table: Any, schema: Schema) -> None:
        self.schema = schema
        self.table = table

    def close(self) -> None:
        """Nothing is held: every write was committed when it returned."""

    def place(self) -> str:
        return str(Path(run(self.table.uri())).resolve())

    def version(self) -> Hashable:
        """The table's version, and when it was committed: a table that was made again counts from
        1.
        """
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
        # "null" is LanceDB's word for letting a vector that is missing be missing.
        _committed(lambda: merge.execute(table, on_bad_vectors="null"))

    def _delete(self, where: Predicate) -> int:
        return int(
            _committed(
                lambda: self.table.delete(to_sql(where, self.schema.fields))
            ).num_deleted_rows
        )

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
        binary = column.startswith("binary_")
        wanted = pack_signs(queries) if binary else _cut(queries, column)
        query = (
            self.table.query()
            .nearest_to(list(wanted) if len(wanted) > 1 else wanted[0])
            .column(column)
        )
        query = (
            query.distance_type("hamming" if binary else "cosine")
            .limit(k)
            .select(["id", *columns, "_distance"])
        )
        if where is not None:
            query = query.where(
                to_sql(where, self.schema.fields)
            )  # before the search, unless one says otherwise
        if exact:
            query = query.bypass_vector_index()
        elif not binary:
            refine = REFINE if k <= EF else 2
            query = query.ef(max(EF, refine * k)).refine_factor(refine)
        found = run(query.to_arrow())
        scores = 1 - np.asarray(found["_distance"], dtype=np.float64)
        numbers = (
            np.asarray(found["query_index"])
            if len(wanted) > 1
            else np.zeros(len(scores), dtype=int)
        )
        hits: list[list[Hit]] = [[] for _ in wanted]
        for number, hit in zip(
            numbers, _hits(found, scores, vector, columns, self.schema.dim), strict=True
        ):
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
        found = run(search.to_arrow())
        return list(
            _hits(
                found,
                np.asarray(found["_score"], dtype=np.float64),
                "words",
                columns,
                self.schema.dim,
            )
        )

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
        return int(
            run(
                self.table.count_rows(
                    to_sql(where, self.schema.fields) if where is not None else None
                )
            )
        )

    def _build(self, spec: IndexSpec) -> None:
        from lancedb.index import HnswSq

        # Compaction, and the rows that are new to the indexes.
        _committed(lambda: self.table.optimize(cleanup_older_than=KEEP_VERSIONS))
        self.index_fields()
        indexed = self.indexed()
        for column in arrow_schema(self.schema, copies=True).names:
            if not column.startswith(("vector_", "prefix_")):
                continue  # of bits, all are compared: 1 ms for 200,000
            if column in indexed:
                if spec.kind == "exact":
                    run(self.table.drop_index(indexed[column]))
            elif spec.wants_hnsw(num := self._num_vectors(column)) and num:
                self._index(column, HnswSq(distance_type="cosine"))

    def index_fields(self) -> None:
        """Index the id, which upserts look up, what filters name, and the words, which are searched
        by index only.
        """
        import lancedb.index as kinds

        wanted: dict[str, Any] = {"id": kinds.BTree()}
        for name, kind in self.schema.fields.items():
            wanted[name] = {"strings": kinds.LabelList, "bool": kinds.Bitmap}.get(
                kind, kinds.BTree
            )()
        if self.schema.words:  # as they stand, because nothing says in which language
            wanted["words"] = kinds.FTS(stem=False, remove_stop_words=False)
        indexed = self.indexed()
        for column, config in wanted.items():
            if column not in indexed:
                self._index(column, config)

    def indexed(self) -> dict[str, str]:
        """Column -> name of its index."""
        return {
            index.columns[0]: index.name for index in run(self.table.list_indices())
        }

    def _index(self, column: str, config: Any) -> None:
        _committed(lambda: self.table.create_index(column, config=config))

    def _num_vectors(self, column: str) -> int:
        return int(run(self.table.count_rows(f"{_quoted(column)} IS NOT NULL")))


def to_sql(predicate: Predicate, fields: Mapping[str, FieldType]) -> str:
    """A filter, checked before, as LanceDB's SQL; fields: the schema's, to know
    which hold lists.
    """
    if isinstance(predicate, (And, Or)):
        word = " AND " if isinstance(predicate, And) else " OR "
        return "(" + word.join(to_sql(part, fields) for part in predicate.parts) + ")"
    if isinstance(predicate, Not):
        # The optimiser makes "x NOT IN (1) OR x NOT IN (2)" true, which it is not where x is null.
        there = (
            f"{_quoted(predicate.part.field)} IS NOT NULL AND "
            if isinstance(predicate.part, In)
            else ""
        )
        return f"({there}NOT ({to_sql(predicate.part, fields)}))"
    field, is_list = _quoted(predicate.field), fields.get(predicate.field) == "strings"
    if isinstance(predicate, IsNull):
        return f"{field} IS NULL"
    if isinstance(predicate, StartsWith):
        return f"starts_with({field}, {_literal(predicate.prefix)})"
    if isinstance(predicate, In) and not predicate.values:
        return "false"
    if isinstance(predicate, In):
        values = ", ".join(map(_literal, predicate.values))
        return (
            f"array_has_any({field}, [{values}])"
            if is_list
            else f"{field} IN ({values})"
        )
    if is_list:
        return (
            f"{'NOT ' * (predicate.operator == '!=')}array_has({field}, "
            f"{_literal(predicate.value)})"
        )
    return f"{field} {predicate.operator} {_literal(predicate.value)}"


def _quoted(column: str) -> str:
    """In backticks, without which SQL folds its case; no name of a Schema has one in it."""
    return f"`{column}`"


def _literal(value: Value) -> str:
    return (
        "'" + value.replace("'", "''") + "'"
        if isinstance(value, str)
        else repr(value).lower()
    )


def _connect(location: str) -> Any:
    try:
        import lancedb
    except ImportError:
        raise ImportError(
            'a store in a folder needs LanceDB: pip install "unimodal[search]"'
        ) from None
    # 0: always what was committed last.
    return run(lancedb.connect_async(location, read_consistency_interval=timedelta(0)))


def _refuse_file(location: str) -> None:
    path = Path(location)
    if path.exists() and not path.is_dir():
        raise ValueError(
            f"{location} is a file, and a store is a folder; name another place for it."
        )


def _table(location: str) -> Any | None:
    """The table of items, if there is one."""
    _refuse_file(location)
    if not Path(location).is_dir():  # to connect makes a folder
        return None
    try:
        return run(_connect(location).open_table(TABLE))
    except ValueError as error:
        if "was not found" not in str(error):
            raise
        return None


def _read_schema(table: Any, place: str) -> Schema:
    """What a table was told to remember; raises ValueError if we did not make it."""
    return schema_from_json(
        (run(table.schema()).metadata or {}).get(_METADATA, b"").decode(), place
    )


def _cut(queries: Vectors, column: str) -> Vectors:
    """The queries (Q, D) as long as the vectors of a column."""
    return (
        truncate(queries, int(column.split("_")[1]))
        if column.startswith("prefix_")
        else queries
    )


def _hits(
    found: Any, scores: NDArray[np.float64], vector: str, columns: list[str], dim: int
) -> Iterator[Hit]:
    """A Hit for each row that was found."""
    values = [
        vectors_of(found[column], dim)[0]
        if column.startswith("vector_")
        else found[column].to_pylist()
        for column in columns
    ]
    for row, (key, score) in enumerate(
        zip(found["id"].to_pylist(), scores.tolist(), strict=True)
    ):
        yield Hit(
            key,
            score,
            vector,
            {column: value[row] for column, value in zip(columns, values, strict=True)},
        )


async def _next(reader: Any) -> Any:
    """The next batch, None at the end."""
    return await anext(reader, None)


def _committed(commit: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What a commit returns; it is made again, ever later, while other writers are ahead of it."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return run(commit())
        except RuntimeError as error:
            if "conflict" not in str(error).lower():
                raise
            time.sleep(0.05 * 2**attempt * (1 + random.random()))
    return run(commit())


def run(coroutine: Any) -> Any:
    """Its result, from LanceDB's own thread. Raises OSError where the disk is full or does not
    answer.
    """
    from lancedb.background_loop import LOOP

    try:
        return LOOP.run(coroutine)
    except RuntimeError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        reason = os.strerror(int(number[1]))
        raise OSError(
            f"LanceDB cannot use the store's folder: {reason}; nothing that was in it is lost: "
            "mend that, and run this again."
        ) from None


STORE = LanceStore  # what it can is known before there is one
