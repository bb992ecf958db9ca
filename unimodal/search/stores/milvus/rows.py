"""How a Milvus collection holds our rows: its fields, indexes and properties, and the conversions.

Where an item has no vector NAME, `vector_NAME` and its copies are zeros and `has_NAME` is false;
every search filters by it (null vectors are new in Milvus 3.0). The field F of an item is the
column `field_F`, a thumbnail is base64, and missing words are an empty text.

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
from .connection import Address
from .filter import field_column

PROPERTY = (
    "unimodal.schema"  # the property of the collection that holds our schema as JSON
)
SPARSE_COLUMN = "words_bm25"  # the sparse vector that Milvus computes of `words`

# Milvus's own limits (https://milvus.io/docs/limitations.md).
MAX_STRING_BYTES = 65_535
MAX_LIST = 4_096
CALL_SECONDS = (
    60.0  # without a timeout the client retries an unreachable server for minutes
)


def has_column(vector: str) -> str:
    """The column that says whether an item has the vector."""
    return f"has_{vector}"


def float_columns(schema: Schema) -> dict[str, int]:
    """The columns of whole and truncated vectors -> their dimensions."""
    columns = {vector_column(name): schema.dim for name in schema.vectors}
    for name in schema.vectors:
        for dims in schema.prefix_dims:
            columns[prefix_column(name, dims)] = dims
    return columns


def index_types(schema: Schema, *, is_lite: bool) -> dict[str, str]:
    """The index type of each column of a new collection; FLAT compares every vector."""
    types = dict.fromkeys(float_columns(schema), "FLAT")
    if schema.binary:
        types |= {binary_column(name): "BIN_FLAT" for name in schema.vectors}
    if schema.words:
        types[SPARSE_COLUMN] = "SPARSE_INVERTED_INDEX"
    for name, kind in schema.fields.items():
        if not (is_lite and kind == "strings"):  # Lite cannot index lists
            types[field_column(name)] = "INVERTED"
    return types


def index_name(column: str) -> str:
    """The name of a column's index; Lite drops the indexes of all columns if they have no names."""
    return f"{column}_idx"


# Index type -> its metric and its parameters.
_METRICS = {"BIN_FLAT": "HAMMING", "SPARSE_INVERTED_INDEX": "BM25", "INVERTED": ""}
_INDEX_OPTIONS: dict[str, dict[str, Any]] = {
    "HNSW": {"M": 16, "efConstruction": 100},
    # It keeps whole vectors beside the 8-bit ones, for re-ranking.
    "HNSW_SQ": {
        "M": 16,
        "efConstruction": 200,
        "sq_type": "SQ8",
        "refine": True,
        "refine_type": "FP32",
    },
}


def index_params(client: Any, types: Mapping[str, str]) -> Any:
    """The client's IndexParams for some columns; types: column -> index type."""
    params = client.prepare_index_params()
    for column, kind in types.items():
        metric = _METRICS.get(kind, "IP")
        options = {"metric_type": metric} if metric else {}
        params.add_index(
            column,
            index_type=kind,
            index_name=index_name(column),
            params=dict(_INDEX_OPTIONS.get(kind, {})),
            **options,
        )
    return params


def collection_schema(client: Any, schema: Schema) -> Any:
    """The client's CollectionSchema for items of this schema."""
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
    num_bits = -(-schema.dim // 8) * 8
    for name in schema.vectors:
        columns.add_field(has_column(name), DataType.BOOL)
        if schema.binary:
            columns.add_field(binary_column(name), DataType.BINARY_VECTOR, dim=num_bits)
    if schema.words:
        columns.add_field("words", enable_analyzer=True, **string)
        columns.add_field(SPARSE_COLUMN, DataType.SPARSE_FLOAT_VECTOR)
        bm25 = Function("bm25", FunctionType.BM25, ["words"], [SPARSE_COLUMN])
        columns.add_function(bm25)
    if schema.thumbnails:
        columns.add_field("thumbnail", nullable=True, **string)
    for name, kind in schema.fields.items():
        columns.add_field(field_column(name), nullable=True, **kinds[kind])
    return columns


def create_collection(client: Any, address: Address, schema: Schema) -> None:
    """Create an empty collection without indexes; raises ValueError with the server's reason."""
    from pymilvus import MilvusException

    try:
        client.create_collection(
            address.collection,
            schema=collection_schema(client, schema),
            properties={PROPERTY: schema_to_json(schema)},
            consistency_level="Strong",
            timeout=CALL_SECONDS,
        )
    except MilvusException as error:
        raise ValueError(
            f"{address.engine} refuses a collection {address.collection!r} for these items "
            f"({error.message}); for more than four vectors per item, with copies and words, raise "
            "proxy.maxVectorFieldNum (deploy/milvus)."
        ) from None


def read_schema(client: Any, address: Address, location: str) -> Schema:
    """Read the Schema of a collection; raises ValueError for one that unimodal did not make."""
    described = client.describe_collection(address.collection, timeout=CALL_SECONDS)
    return schema_from_json(described["properties"].get(PROPERTY, ""), location)


def stored_names(schema: Schema, columns: Sequence[str]) -> list[str]:
    """The collection's columns that hold these columns of a row."""
    names = ["id"]
    for name in schema.vectors:
        if vector_column(name) in columns:
            names.append(has_column(name))
    for column in columns:
        names.append(field_column(column) if column in schema.fields else column)
    return list(dict.fromkeys(names))


def estimate_bytes(schema: Schema, columns: Sequence[str]) -> int:
    """Roughly the bytes of these columns of one row on the wire."""
    sizes = {name: 4 * dims for name, dims in float_columns(schema).items()}
    sizes |= {"thumbnail": 20_000, "words": 4_000}
    return 500 + sum(sizes.get(column, 100) for column in columns)


def check_sizes(table: Any) -> None:
    """Raise ValueError for a string or a list that is longer than Milvus keeps."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in table.column_names:
        column = table[name]
        kind = table.schema.field(name).type
        if pa.types.is_string(kind):
            sizes = pc.binary_length(column)
            _check_longest(table, name, sizes, MAX_STRING_BYTES, "bytes")
        elif pa.types.is_binary(kind):
            as_base64 = MAX_STRING_BYTES // 4 * 3
            sizes = pc.binary_length(column)
            _check_longest(table, name, sizes, as_base64, "bytes")
        elif pa.types.is_list(kind):
            longest = pc.max(pc.binary_length(pc.list_flatten(column))).as_py() or 0
            if longest > MAX_STRING_BYTES:
                raise ValueError(
                    f"a string of {name!r} has {longest} bytes; Milvus keeps {MAX_STRING_BYTES}."
                )
            sizes = pc.list_value_length(column)
            _check_longest(table, name, sizes, MAX_LIST, "strings")


def _check_longest(table: Any, name: str, sizes: Any, limit: int, unit: str) -> None:
    import pyarrow.compute as pc

    longest = pc.max(sizes).as_py() or 0
    if longest > limit:
        item = table["id"][pc.index(sizes, longest).as_py()].as_py()
        raise ValueError(
            f"{name} of item {item[:100]!r} has {longest} {unit}, and Milvus keeps {limit}; "
            "shorten it, or use a store in a folder (lance://)."
        )


def to_stored(table: Any, schema: Schema) -> Iterator[dict[str, Any]]:
    """Yield rows of `arrow_schema(copies=True)` as the collection holds them."""
    columns: dict[str, Sequence[Any]] = {"id": table["id"].to_pylist()}
    for column, dims in float_columns(schema).items():
        vectors, valid = vectors_of(table[column], dims)
        columns[column] = list(vectors)
        if column.startswith("vector_"):
            columns[has_column(column.removeprefix("vector_"))] = valid.tolist()
    if schema.binary:
        for name in schema.vectors:
            column = binary_column(name)
            packed, _ = vectors_of(table[column], -(-schema.dim // 8))
            columns[column] = [row.tobytes() for row in packed.astype(np.uint8)]
    if schema.words:
        columns["words"] = [words or "" for words in table["words"].to_pylist()]
    if schema.thumbnails:
        thumbnails = table["thumbnail"].to_pylist()
        columns["thumbnail"] = [_to_base64(content) for content in thumbnails]
    for name in schema.fields:
        columns[field_column(name)] = table[name].to_pylist()
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def num_bytes(stored: Mapping[str, Any]) -> int:
    """The bytes of one stored row on the wire."""
    return sum(_size(value) for value in stored.values())


def value_of(stored: Mapping[str, Any], column: str, schema: Schema) -> Any:
    """The value of a row's column from a stored row: (D,) float32 for a vector."""
    if column in schema.fields:
        return stored[field_column(column)]
    value = stored[column]
    if column.startswith("vector_"):
        return np.asarray(value, dtype=np.float32)
    if column == "thumbnail":
        return None if value is None else base64.b64decode(value)
    if column == "words":
        return value or None
    return value


def record_batch(
    stored: Sequence[Mapping[str, Any]], columns: Sequence[str], schema: Schema
) -> Any:
    """Some columns of stored rows, as a pyarrow RecordBatch."""
    import pyarrow as pa

    row_schema = arrow_schema(schema, copies=False)
    kinds = [row_schema.field(column) for column in columns]
    arrays = []
    for kind in kinds:
        values = [value_of(row, kind.name, schema) for row in stored]
        if kind.name.startswith("vector_"):
            has = has_column(kind.name.removeprefix("vector_"))
            valid = np.array([row[has] for row in stored], dtype=bool)
            arrays.append(fixed_size_list(np.stack(values), valid))
        else:
            arrays.append(pa.array(values, kind.type))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(kinds))


def _to_base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, str):
        return 4 * len(value) + 8
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, list):
        return sum(map(_size, value))
    return 8
