"""Rows on their way into a store: checked once for every engine, in the types of the schema, with
the shorter copies.

n rows, D dimensions.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unimodal.config import nearest
from unimodal.vectors import pack_signs, truncate

from .schema import Schema, binary_column, prefix_column, vector_column

LENGTH_TOLERANCE = (
    1e-3  # of a unit vector: float16 vectors are accepted, unnormalised ones are not
)


def arrow_schema(schema: Schema, *, copies: bool) -> Any:
    """The pyarrow schema of the rows; copies: with the prefix and binary columns that `with_copies`
    makes.
    """
    import pyarrow as pa

    optional = [("words", pa.string())] if schema.words else []
    optional += [("thumbnail", pa.binary())] if schema.thumbnails else []
    derived = []
    if copies:
        for name in schema.vectors:
            derived += [
                (prefix_column(name, dims), pa.list_(pa.float32(), dims))
                for dims in schema.prefix_dims
            ]
            derived += (
                [(binary_column(name), pa.list_(pa.uint8(), -(-schema.dim // 8)))]
                if schema.binary
                else []
            )
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            *(
                pa.field(vector_column(name), pa.list_(pa.float32(), schema.dim))
                for name in schema.vectors
            ),
            *(pa.field(name, kind) for name, kind in optional),
            *(
                pa.field(name, _field_type(kind))
                for name, kind in schema.fields.items()
            ),
            *(pa.field(name, kind) for name, kind in derived),
        ]
    )


def checked_rows(rows: Any, schema: Schema) -> Any:
    """A pyarrow Table (or RecordBatch) -> Table in exactly the columns and types of
    `arrow_schema(schema)`.

    A column that is left out is null, and so is a NaN of a float field. Raises ValueError for a
    column that the schema has not, an id that is empty or twice there, a value that does not fit
    its field, and vectors that are not finite unit vectors of (n, D).
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
    """Rows as `checked_rows` gives them, and the prefix and binary columns beside ->
    `arrow_schema(copies=True)`.
    """
    for name in schema.vectors:
        if schema.prefix_dims or schema.binary:
            vectors, valid = vectors_of(table[vector_column(name)], schema.dim)
        for dims in schema.prefix_dims:
            prefix = truncate(vectors, dims)
            # A prefix of zeros has no direction, and is no candidate.
            there = valid & (np.linalg.norm(prefix, axis=1) > 0.5)
            table = table.append_column(
                prefix_column(name, dims), fixed_size_list(prefix, there)
            )
        if schema.binary:
            table = table.append_column(
                binary_column(name), fixed_size_list(pack_signs(vectors), valid)
            )
    return table.cast(arrow_schema(schema, copies=True))


def vectors_of(column: Any, dim: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A column of lists of D -> (n, D) float32, zeros where there is none, and (n,) which are
    there.
    """
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
    """Raises ValueError unless all of (n, D) that are valid, (n,), are finite and of length 1."""
    norms = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(
        ~(np.abs(norms - 1) <= LENGTH_TOLERANCE) & valid
    )  # NaN and infinity are bad too
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
    lengths = pc.unique(pc.list_value_length(column).drop_null()).to_pylist()
    if any(length != dim for length in lengths):
        wrong = next(length for length in lengths if length != dim)
        raise ValueError(
            f"column {field.name!r} has a vector of {wrong} dimensions; the store's have {dim}."
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
        cast = pc.if_else(
            pc.is_nan(cast), pa.scalar(None, field.type), cast
        )  # pandas' sign of a missing value
    if pa.types.is_list(field.type) and pc.list_flatten(cast).null_count:
        raise ValueError(
            f"column {field.name!r} has a list with a null in it; leave the element out."
        )
    return cast


def _check_ids(ids: Any) -> None:
    import pyarrow.compute as pc

    if ids.null_count or pc.any(pc.equal(ids, "")).as_py():
        raise ValueError("an id is empty; every row needs one of its own.")
    counts = pc.value_counts(ids)
    if len(counts) < len(ids):
        twice = next(
            pair["values"] for pair in counts.to_pylist() if pair["counts"] > 1
        )
        raise ValueError(
            f"id {twice!r} is there twice; give every row an id of its own."
        )


def _field_type(kind: str) -> Any:
    import pyarrow as pa

    return {
        "string": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "strings": pa.list_(pa.string()),
    }[kind]
