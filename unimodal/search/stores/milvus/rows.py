"""A collection of Milvus for our rows: its columns, its indexes, what it remembers, and each row on
its way in and out.

`vector_NAME` and its copies are zeros where an item has no such vector, and `has_NAME` is false,
which every search asks for (null vectors are new in Milvus 3.0); a field F is the column `field_F`;
a thumbnail is base64; words that are missing are empty.

n rows, D dimensions.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..columns import arrow_schema, fixed_size_list, vectors_of
from ..schema import (
    Schema,
    binary_column,
    prefix_column,
    schema_from_json,
    schema_to_json,
    vector_column,
)
from .connection import Place
from .filter import field_column

PROPERTY = "unimodal.schema"  # of the collection: our schema as JSON
SPARSE_COLUMN = "words_bm25"  # what Milvus makes of `words`

# Milvus's own limits (https://milvus.io/docs/limitations.md).
MAX_STRING_BYTES = 65_535
MAX_LIST = 4_096
CALL_SECONDS = (
    60.0  # without a limit the client asks an unreachable server again for minutes
)


def has_column(vector: str) -> str:
    """Whether an item has the vector."""
    return f"has_{vector}"


def float_columns(schema: Schema) -> dict[str, int]:
    """The columns of whole and shortened vectors, and how many dimensions each has."""
    columns = {vector_column(name): schema.dim for name in schema.vectors}
    return columns | {
        prefix_column(name, dims): dims
        for name in schema.vectors
        for dims in schema.prefix_dims
    }


def index_types(schema: Schema, *, is_lite: bool) -> dict[str, str]:
    """The index of each column of a new collection: every vector compared, and fields that filters
    need not read.
    """
    types = dict.fromkeys(float_columns(schema), "FLAT")
    if schema.binary:
        types |= {binary_column(name): "BIN_FLAT" for name in schema.vectors}
    if schema.words:
        types[SPARSE_COLUMN] = "SPARSE_INVERTED_INDEX"
    # Lite indexes no lists.
    indexed = [
        name
        for name, kind in schema.fields.items()
        if not (is_lite and kind == "strings")
    ]
    return types | {field_column(name): "INVERTED" for name in indexed}


def index_name(column: str) -> str:
    """The name of a column's index; Lite drops the indexes of all columns unless
    one is named so.
    """
    return f"{column}_idx"


def index_params(client: Any, types: Mapping[str, str]) -> Any:
    """The indexes of some columns, as the client takes them."""
    params = client.prepare_index_params()
    for column, kind in types.items():
        metric = {
            "BIN_FLAT": "HAMMING",
            "SPARSE_INVERTED_INDEX": "BM25",
            "INVERTED": None,
        }.get(kind, "IP")
        options: dict[str, Any] = (
            {"M": 16, "efConstruction": 100} if kind == "HNSW" else {}
        )
        if kind == "HNSW_SQ":  # whole vectors beside the 8-bit ones, for re-ranking
            options = {
                "M": 16,
                "efConstruction": 200,
                "sq_type": "SQ8",
                "refine": True,
                "refine_type": "FP32",
            }
        named = {"metric_type": metric} if metric else {}
        params.add_index(
            column,
            index_type=kind,
            index_name=index_name(column),
            params=options,
            **named,
        )
    return params


def collection_schema(client: Any, schema: Schema) -> Any:
    """The columns of the collection, as the client takes them."""
    from pymilvus import DataType, Function, FunctionType

    string = {"datatype": DataType.VARCHAR, "max_length": MAX_STRING_BYTES}
    kinds: dict[str, dict[str, Any]] = {
        "string": string,
        "int": {"datatype": DataType.INT64},
        "float": {"datatype": DataType.DOUBLE},
        "bool": {"datatype": DataType.BOOL},
        "strings": {
            "datatype": DataType.ARRAY,
            "element_type": DataType.VARCHAR,
            "max_capacity": MAX_LIST,
            "max_length": MAX_STRING_BYTES,
        },
    }
    columns = client.create_schema(auto_id=False, enable_dynamic_field=False)
    columns.add_field("id", is_primary=True, **string)
    for column, dims in float_columns(schema).items():
        columns.add_field(column, DataType.FLOAT_VECTOR, dim=dims)
    for name in schema.vectors:
        columns.add_field(has_column(name), DataType.BOOL)
        if schema.binary:
            columns.add_field(
                binary_column(name), DataType.BINARY_VECTOR, dim=-(-schema.dim // 8) * 8
            )
    if schema.words:
        columns.add_field("words", enable_analyzer=True, **string)
        columns.add_field(SPARSE_COLUMN, DataType.SPARSE_FLOAT_VECTOR)
        columns.add_function(
            Function("bm25", FunctionType.BM25, ["words"], [SPARSE_COLUMN])
        )
    if schema.thumbnails:
        columns.add_field("thumbnail", nullable=True, **string)
    for name, kind in schema.fields.items():
        columns.add_field(field_column(name), nullable=True, **kinds[kind])
    return columns


def create_collection(client: Any, place: Place, schema: Schema) -> None:
    """An empty collection, without indexes; raises ValueError with the server's reason for what it
    refuses.
    """
    from pymilvus import MilvusException

    try:
        client.create_collection(
            place.collection,
            schema=collection_schema(client, schema),
            properties={PROPERTY: schema_to_json(schema)},
            consistency_level="Strong",
            timeout=CALL_SECONDS,
        )
    except MilvusException as error:
        raise ValueError(
            f"{place.engine} refuses a collection {place.collection!r} for these items "
            f"({error.message}); with more than four vectors an item, copies and words counted, "
            "it wants proxy.maxVectorFieldNum (deploy/milvus)."
        ) from None


def read_schema(client: Any, place: Place, location: str) -> Schema:
    """What the collection was told to remember; raises ValueError if we did not make it."""
    described = client.describe_collection(place.collection, timeout=CALL_SECONDS)
    return schema_from_json(described["properties"].get(PROPERTY, ""), location)


def stored_names(schema: Schema, columns: Sequence[str]) -> list[str]:
    """The collection's columns that hold these of a row."""
    has = [
        has_column(name) for name in schema.vectors if vector_column(name) in columns
    ]
    return list(
        dict.fromkeys(
            [
                "id",
                *has,
                *(field_column(c) if c in schema.fields else c for c in columns),
            ]
        )
    )


def bytes_of(schema: Schema, columns: Sequence[str]) -> int:
    """Of these columns of one row on the wire, roughly."""
    sizes = {name: 4 * dims for name, dims in float_columns(schema).items()} | {
        "thumbnail": 20_000,
        "words": 4_000,
    }
    return 500 + sum(sizes.get(column, 100) for column in columns)


def check_sizes(table: Any) -> None:
    """Raises ValueError for a string or a list of the rows that is longer than Milvus keeps."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in table.column_names:
        column = table[name]
        kind = table.schema.field(name).type
        limit = MAX_STRING_BYTES
        what = "bytes"
        if pa.types.is_string(kind):
            sizes = pc.binary_length(column)
        elif pa.types.is_binary(kind):
            sizes = pc.binary_length(column)
            limit = MAX_STRING_BYTES // 4 * 3  # as base64
        elif pa.types.is_list(kind):
            strings = pc.max(pc.binary_length(pc.list_flatten(column))).as_py() or 0
            if strings > MAX_STRING_BYTES:
                raise ValueError(
                    f"a string of {name!r} has {strings} bytes; Milvus keeps {MAX_STRING_BYTES}."
                )
            sizes = pc.list_value_length(column)
            limit = MAX_LIST
            what = "strings"
        else:
            continue
        longest = pc.max(sizes).as_py() or 0
        if longest > limit:
            item = table["id"][pc.index(sizes, longest).as_py()].as_py()
            raise ValueError(
                f"{name} of item {item[:100]!r} has {longest} {what}, and Milvus keeps {limit}; "
                "shorten it, or take a store in a folder (lance://)."
            )


def to_stored(table: Any, schema: Schema) -> Iterator[dict[str, Any]]:
    """Rows of `arrow_schema(copies=True)` as the collection holds them."""
    columns: dict[str, Sequence[Any]] = {"id": table["id"].to_pylist()}
    for column, dims in float_columns(schema).items():
        vectors, valid = vectors_of(table[column], dims)
        columns[column] = list(vectors)
        if column.startswith("vector_"):
            columns[has_column(column.removeprefix("vector_"))] = valid.tolist()
    for column in (binary_column(name) for name in schema.vectors if schema.binary):
        packed, _ = vectors_of(table[column], -(-schema.dim // 8))
        columns[column] = [row.tobytes() for row in packed.astype(np.uint8)]
    if schema.words:
        columns["words"] = [words or "" for words in table["words"].to_pylist()]
    if schema.thumbnails:
        images = table["thumbnail"].to_pylist()
        columns["thumbnail"] = [
            None if one is None else base64.b64encode(one).decode() for one in images
        ]
    for name in schema.fields:
        columns[field_column(name)] = table[name].to_pylist()
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def num_bytes(stored: Mapping[str, Any]) -> int:
    """Of one row on its way in."""
    return sum(_size(value) for value in stored.values())


def value_of(stored: Mapping[str, Any], column: str, schema: Schema) -> Any:
    """A row's value out of what the collection holds: (D,) float32 for a vector."""
    if column in schema.fields:
        return stored[field_column(column)]
    value = stored[column]
    if column.startswith("vector_"):
        return np.asarray(value, dtype=np.float32)
    if column == "thumbnail":
        return None if value is None else base64.b64decode(value)
    return value or None if column == "words" else value


def record_batch(
    stored: Sequence[Mapping[str, Any]], columns: Sequence[str], schema: Schema
) -> Any:
    """Some columns of rows that the collection holds, as a pyarrow RecordBatch."""
    import pyarrow as pa

    kinds = [arrow_schema(schema, copies=False).field(column) for column in columns]
    arrays = []
    for kind in kinds:
        values = [value_of(row, kind.name, schema) for row in stored]
        if kind.name.startswith("vector_"):
            valid = np.array(
                [row[has_column(kind.name.removeprefix("vector_"))] for row in stored],
                dtype=bool,
            )
            arrays.append(fixed_size_list(np.stack(values), valid))
        else:
            arrays.append(pa.array(values, kind.type))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(kinds))


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, str):
        return 4 * len(value) + 8
    if isinstance(value, bytes):
        return len(value)
    return sum(map(_size, value)) if isinstance(value, list) else 8
