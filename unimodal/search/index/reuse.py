"""The vectors of items whose text and image did not change: a new price costs no forward pass.

n items, D dimensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from unimodal.tables.readers import pyarrow_parquet
from unimodal.vectors import Vectors

from ..stores.columns import vectors_of
from ..stores.schema import Schema, vector_column

CONTENT = "_content"  # a column of a partition's file; fields of a store do not begin with "_"
# Files that are read for some items, and held; items of further files are embedded again.
MOST_FILES = 4

# The (D,) vectors of one item by name, zeros for a part that it does not have.
ItemVectors = Mapping[str, Vectors]


def content_of(text: str | None, pixels: bytes | None) -> bytes:
    """A checksum, 16 bytes, of what the model sees of an item."""
    digest = xxhash.xxh3_128((text or "").encode(errors="surrogatepass"))
    digest.update(b"\0" if pixels is None else b"\1" + pixels)
    return digest.digest()


class KnownVectors:
    """The vectors of some files, by what the model saw; 12 bytes per item are held."""

    def __init__(self, files: Sequence[Path], schema: Schema) -> None:
        """files: the first that has an item is read; files without all vectors are not used."""
        self._schema = schema
        self._vector_columns = {name: vector_column(name) for name in schema.vectors}
        self._files = [
            file
            for file in files
            if set(self._vector_columns.values()) <= set(_names(file))
        ]
        keys = [_keys(_contents(file)) for file in self._files]
        every = np.concatenate([*keys, np.zeros(0, np.uint64)])
        order = np.argsort(every, kind="stable")
        self._keys = every[order]
        numbers = np.arange(len(keys), dtype=np.uint32)
        sizes = [len(of_file) for of_file in keys]
        self._owners = np.repeat(numbers, sizes)[order]
        self._vectors = lru_cache(maxsize=MOST_FILES)(self._read)

    def vectors(self, contents: Sequence[bytes]) -> list[ItemVectors | None]:
        """The vectors of each item; None where no file has it."""
        wanted = _keys(contents)
        positions = np.searchsorted(self._keys, wanted)
        positions = positions[np.isin(wanted, self._keys)]
        known: dict[bytes, ItemVectors] = {}
        for number, _ in Counter(self._owners[positions].tolist()).most_common(
            MOST_FILES
        ):
            of_file = self._vectors(number)
            for content in contents:
                if content in of_file:
                    known[content] = of_file[content]
        return [known.get(content) for content in contents]

    def _read(self, number: int) -> Mapping[bytes, ItemVectors]:
        columns = self._vector_columns
        table = _columns(self._files[number], [CONTENT, *columns.values()])
        if table is None:
            return {}
        arrays = {
            name: vectors_of(table[column], self._schema.dim)[0]
            for name, column in columns.items()
        }
        vectors: dict[bytes, ItemVectors] = {}
        for row, content in enumerate(table[CONTENT].to_pylist()):
            vectors[content] = {name: array[row] for name, array in arrays.items()}
        return vectors


def read_columns(file: Path) -> dict[str, Any]:
    """The columns of a store's rows that a file has -> their Arrow types."""
    schema = pyarrow_parquet().read_schema(file)
    return {column.name: column.type for column in schema if column.name != CONTENT}


def _names(file: Path) -> list[str]:
    """The columns of a file; none where it is broken."""
    try:
        return list(pyarrow_parquet().read_schema(file).names)
    except (OSError, ValueError):  # pyarrow's ArrowInvalid is a ValueError
        return []


def _contents(file: Path) -> list[bytes]:
    table = _columns(file, [CONTENT])
    return [] if table is None else list(table[CONTENT].to_pylist())


def _columns(file: Path, names: list[str]) -> Any:
    """A table of these columns; None where a file is broken or lacks one of them."""
    try:
        table = pyarrow_parquet().read_table(file, columns=names)
    except (OSError, ValueError):  # pyarrow's ArrowInvalid is a ValueError
        return None
    return table if table.num_columns == len(names) else None


def _keys(contents: Sequence[bytes]) -> NDArray[np.uint64]:
    """The first half of each: enough to find the file, in which the whole is looked up."""
    return np.frombuffer(b"".join(contents), dtype=np.uint64)[::2]
