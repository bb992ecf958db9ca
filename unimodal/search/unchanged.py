"""Items whose text and picture are what they were: a price that changed costs no forward pass.

n items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from unimodal.rows import pyarrow_parquet

from .rows import vectors_of
from .schema import Schema, vector_column

CONTENT = "_content"  # the column of a unit's file; no field of a store begins with an underscore

Before: TypeAlias = Mapping[bytes, Mapping[str, NDArray[np.float32]]]


def content_of(text: str | None, pixels: bytes | None) -> bytes:
    """16 bytes for what the model sees of an item."""
    digest = xxhash.xxh3_128((text or "").encode(errors="surrogatepass"))
    digest.update(b"\0" if pixels is None else b"\1" + pixels)
    return digest.digest()


def vectors_before(file: Path, schema: Schema) -> Before:
    """What a unit's file has by now: an item's content -> its vectors (D,) by name, zeros for one that it lacks."""
    changed = file.stat().st_mtime_ns if file.is_file() else 0
    return _vectors(file, changed, schema.vectors, schema.dim) if changed else {}


@lru_cache(maxsize=2)
def _vectors(file: Path, changed: int, names: tuple[str, ...], dim: int) -> Before:
    """changed: the time of the file's last change."""
    try:
        table: Any = pyarrow_parquet().read_table(file, columns=[CONTENT, *map(vector_column, names)])
    except (OSError, ValueError):  # broken; pyarrow's ArrowInvalid is a ValueError
        return {}
    if table.num_columns != len(names) + 1:
        return {}
    columns = {name: vectors_of(table[vector_column(name)], dim)[0] for name in names}
    return {
        content: {name: column[row] for name, column in columns.items()}
        for row, content in enumerate(table[CONTENT].to_pylist())
    }
