"""The rows of a store as pyarrow tables: their types, their check, and the shorter copies.

n rows, D dimensions.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unimodal.config import nearest
from unimodal.tables.types import FieldType
from unimodal.vectors import pack_signs, truncate

from .schema import Schema, binary_column, prefix_column, vector_column

# Of the length of a unit vector: float16 vectors are accepted, others than unit vectors are not.
LENGTH_TOLERANCE = 1e-3


def arrow_schema(schema: Schema, *, copies: bool) -> Any:
    """The pyarrow schema of the rows; copies: with the columns that `with_copies` adds."""
    import pyarrow as pa

    columns = [pa.field("id", pa.string(), nullable=False)]
    for name in schema.vectors:
        columns.append(
            pa.field(vector_column(name), pa.list_(pa.float32(), schema.dim))
        )
    if schema.words:
        columns.append(pa.field("words", pa.string()))
    if schema.thumbnails:
        columns.append(pa.field("thumbnail", pa.binary()))
    for name, kind in schema.fields.items():
        columns.append(pa.field(name, _arrow_type(kind)))
    if copies:
        for name in schema.vectors:
            columns += _copy_columns(schema, name)
    return pa.schema(columns)


def _copy_columns(schema: Schema, vector: str) -> list[Any]:
    import pyarrow as pa

    columns = [
        pa.field(prefix_column(vector, dims), pa.list_(pa.float32(), dims))
        for dims in schema.prefix_dims
    ]
    if schema.binary:
        num_bytes = -(-schema.dim // 8)
        columns.append(pa.field(binary_column(vector), pa.list_(pa.uint8(), num_bytes)))
    return columns


def checked_rows(rows: Any, schema: Schema) -> Any:
    """Check a pyarrow Table or RecordBatch -> Table with the columns and types of `arrow_schema`.

    A column that is left out is null, and so is a NaN of a float field.

    Raises ValueError for a column that the schema does not have, an id that is empty or repeated, a
    value that does not fit its field, and vectors that are not finite unit vectors of (n, D).
    """
    import pyarrow as pa

    table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
    for name in table.column_names:
        if name not in schema.item_columns:
            raise ValueError(
                f"column {name!r} is not in the store's schema; "
                f"{nearest(name, schema.item_columns)}"
            )
    columns = []
    for column in arrow_schema(schema, copies=False):
        if column.name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, column.type))
        elif column.name.startswith("vector_"):
            columns.append(_vectors(table[column.name], column, schema.dim))
        else:
            columns.append(_cast(table[column.name], column))
    checked = pa.table(dict(zip(schema.item_columns, columns, strict=True)))
    _check_ids(checked["id"])
    return checked.cast(arrow_schema(schema, copies=False))


def with_copies(table: Any, schema: Schema) -> Any:
    """Add the prefix and binary columns to checked rows -> `arrow_schema(copies=True)`."""
    for name in schema.vectors:
        if not schema.coarse_copies:
            break
        vectors, valid = vectors_of(table[vector_column(name)], schema.dim)
        for dims in schema.prefix_dims:
            prefix = truncate(vectors, dims)
            # A prefix of zeros has no direction, and is never a candidate.
            has_direction = valid & (np.linalg.norm(prefix, axis=1) > 0.5)
            lists = fixed_size_list(prefix, has_direction)
            table = table.append_column(prefix_column(name, dims), lists)
        if schema.binary:
            lists = fixed_size_list(pack_signs(vectors), valid)
            table = table.append_column(binary_column(name), lists)
    return table.cast(arrow_schema(schema, copies=True))


def vectors_of(column: Any, dim: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A column of lists of D -> (n, D) float32, zeros where null, and (n,) which are not null."""
    array = column.combine_chunks() if hasattr(column, "combine_chunks") else column
    valid = np.asarray(array.is_valid())
    flat = array.flatten().to_numpy(zero_copy_only=False)  # without those of the nulls
    if valid.all():
        return np.asarray(flat, dtype=np.float32).reshape(-1, dim), valid
    vectors = np.zeros((len(valid), dim), dtype=np.float32)
    vectors[valid] = flat.reshape(-1, dim)
    return vectors, valid


def fixed_size_list(values: NDArray[Any], valid: NDArray[np.bool_]) -> Any:
    """(n, width) and (n,) -> pyarrow array of lists, null where not valid."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    mask = None if valid.all() else pa.array(~valid)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1], mask=mask)


def check_unit(
    vectors: NDArray[np.float32], valid: NDArray[np.bool_] | Literal[True], what: str
) -> None:
    """Raise ValueError unless all valid vectors are finite and of length 1.

    vectors: (n, D). valid: (n,). what: names a vector in the message.
    """
    norms = np.linalg.norm(vectors, axis=1)
    is_unit = np.abs(norms - 1) <= LENGTH_TOLERANCE  # false for NaN and infinity
    bad = np.flatnonzero(~is_unit & valid)
    if bad.size:
        raise ValueError(
            f"{what} {bad[0]} has length {norms[bad[0]]:.4g}, not 1; give what Embedder.encode "
            "returns, or divide by the length."
        )


def _vectors(column: Any, field: Any, dim: int) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_null(kind):
        return pa.nulls(len(column), field.type)
    if not (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
    ):
        raise ValueError(
            f"column {field.name!r} is of type {kind}; give a list of {dim} numbers for each row."
        )
    for length in pc.unique(pc.list_value_length(column).drop_null()).to_pylist():
        if length != dim:
            raise ValueError(
                f"column {field.name!r} has a vector of {length} dimensions; the store's have "
                f"{dim}."
            )
    vectors, valid = vectors_of(column, dim)
    check_unit(vectors, valid, f"the vector of {field.name!r} in row")
    return fixed_size_list(vectors, valid)


def _cast(column: Any, field: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        cast = column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"column {field.name!r} of type {column.type} does not fit {field.type} "
            f"({reason}); give {field.type}."
        ) from None
    if pa.types.is_floating(field.type):
        # NaN is pandas' missing value.
        cast = pc.if_else(pc.is_nan(cast), pa.scalar(None, field.type), cast)
    if pa.types.is_list(field.type) and pc.list_flatten(cast).null_count:
        raise ValueError(
            f"column {field.name!r} has a list with a null in it; leave that element out."
        )
    return cast


def _check_ids(ids: Any) -> None:
    import pyarrow.compute as pc

    if ids.null_count or pc.any(pc.equal(ids, "")).as_py():
        raise ValueError("an id is empty; give every row an id of its own.")
    counts = pc.value_counts(ids)
    if len(counts) == len(ids):
        return
    for pair in counts.to_pylist():
        if pair["counts"] > 1:
            raise ValueError(
                f"id {pair['values']!r} is in the table twice; give every row an id of its own."
            )


def _arrow_type(kind: FieldType) -> Any:
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "strings": pa.list_(pa.string()),
    }
    return types[kind]
