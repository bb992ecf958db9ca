"""Open or create the store at a URL; the one module that knows the engines, imported when used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .base import VectorStore
from .schema import Schema


def create_store(url: str, schema: Schema, *, overwrite: bool = False) -> VectorStore:
    """Create an empty store. Raises ValueError where a store is, unless it may be overwritten.

    url: `lance:///abs/dir`, `lance://rel/dir` or a bare path: LanceDB in a folder.
        `milvus:///path/to/file.db`: Milvus Lite. `milvus://host:port[/db][?collection=NAME]`: a
        Milvus cluster, with the token of $MILVUS_TOKEN.
    """
    engine, location = _engine(url)
    store: VectorStore = engine.create(location, schema, overwrite=overwrite)
    return store


def open_store(url: str) -> VectorStore:
    """Open a store that `create_store` made.

    Raises ValueError where there is none, and for the format of a newer version.
    """
    engine, location = _engine(url)
    store: VectorStore = engine.open(location)
    return store


def store_exists(url: str) -> bool:
    """Whether there is a store to open."""
    engine, location = _engine(url)
    return bool(engine.exists(location))


def check_store(url: str, schema: Schema) -> None:
    """Raise ValueError where the place or the engine does not fit a store of this schema."""
    engine, location = _engine(url)
    engine.check(location, schema)


def store_type(url: str) -> type[VectorStore]:
    """The class of the stores at such a URL, whether there is one or not."""
    engine, _ = _engine(url)
    store: type[VectorStore] = engine.STORE
    return store


def _engine(url: str) -> tuple[Any, str]:
    """The engine's module, and the location in its terms: a folder, or the whole URL."""
    scheme, separator, rest = url.partition("://")
    if scheme.partition("+")[0] == "milvus" and separator:
        return import_module(".milvus.store", __package__), url
    if separator and scheme != "lance":
        raise ValueError(
            f"store {url!r} has an unknown scheme; write lance:///dir, milvus://host:port or a "
            "path."
        )

    location = rest if separator else url
    if not location:
        raise ValueError(
            f"store {url!r} names no folder; write lance:///abs/dir, or a path."
        )
    if "://" in location:
        raise ValueError(
            f"store {url!r} names a bucket, and LanceDB works on local disks; write "
            "lance:///abs/dir."
        )
    return import_module(".lance", __package__), location
