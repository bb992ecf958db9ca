"""Items whose text and image are what they were: a new price costs no forward pass, nor does a
row that moved.

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

CONTENT = "_content"  # the column of a partition's file; no field of a store begins with an underscore
# that are read for some items, and held: what else they have in common with the past is embedded
# again
MOST_FILES = 4

# The (D,) vectors of one item by name, zeros for a part that it does not have.
ItemVectors = Mapping[str, Vectors]


def content_of(text: str | None, pixels: bytes | None) -> bytes:
    """16 bytes for what the model sees of an item."""
    digest = xxhash.xxh3_128((text or "").encode(errors="surrogatepass"))
    digest.update(b"\0" if pixels is None else b"\1" + pixels)
    return digest.digest()


class KnownVectors:
    """The vectors that some files have by now, by what the model saw; 12 bytes an item are held."""

    def __init__(self, files: Sequence[Path], schema: Schema) -> None:
        """files: the first that has an item is read; those without all vectors of the schema are
        not used.
        """
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
        self._owners = np.repeat(
            np.arange(len(keys), dtype=np.uint32), [len(one) for one in keys]
        )[order]
        self._vectors = lru_cache(maxsize=MOST_FILES)(self._read)

    def vectors(self, contents: Sequence[bytes]) -> list[ItemVectors | None]:
        """Of each item, or None where no file has it."""
        asked = _keys(contents)
        found = np.searchsorted(self._keys, asked)
        found = found[np.isin(asked, self._keys)]
        known: dict[bytes, ItemVectors] = {}
        for number, _ in Counter(self._owners[found].tolist()).most_common(MOST_FILES):
            there = self._vectors(number)
            known |= {
                content: there[content] for content in contents if content in there
            }
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
        return {
            content: {name: array[row] for name, array in arrays.items()}
            for row, content in enumerate(table[CONTENT].to_pylist())
        }


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
    """A table of these columns; None where a file is broken, or has not all of them."""
    try:
        table = pyarrow_parquet().read_table(file, columns=names)
    except (OSError, ValueError):  # pyarrow's ArrowInvalid is a ValueError
        return None
    return table if table.num_columns == len(names) else None


def _keys(contents: Sequence[bytes]) -> NDArray[np.uint64]:
    """Half of each is enough to tell the file: in the file the whole is looked up."""
    return np.frombuffer(b"".join(contents), dtype=np.uint64)[::2]
