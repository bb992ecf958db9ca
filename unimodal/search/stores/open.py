"""Which engine a store's URL names, and opening or creating a store there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .base import VectorStore
from .schema import Schema


def create_store(url: str, schema: Schema, *, overwrite: bool = False) -> VectorStore:
    """A new, empty store. Raises ValueError where one is already, unless it may be overwritten.

    url: `lance:///abs/dir`, `lance://rel/dir` or a bare path: LanceDB in a folder.
    `milvus:///path/to/file.db`: Milvus Lite. `milvus://host:port[/db][?collection=NAME]`: a Milvus
    cluster, with the token of $MILVUS_TOKEN.
    """
    engine, location = _engine(url)
    store: VectorStore = engine.create(location, schema, overwrite=overwrite)
    return store


def open_store(url: str) -> VectorStore:
    """The store that `create_store` made there. Raises ValueError for what is none, or is of a
    newer format.
    """
    engine, location = _engine(url)
    store: VectorStore = engine.open(location)
    return store


def store_exists(url: str) -> bool:
    """Whether there is a store to open."""
    engine, location = _engine(url)
    return bool(engine.exists(location))


def check_store(url: str, schema: Schema) -> None:
    """Raises ValueError where no store for such items could be made: the place or an ability does
    not fit.
    """
    engine, location = _engine(url)
    engine.check(location, schema)


def store_type(url: str) -> type[VectorStore]:
    """Of the stores at such a URL, whether there is one or not."""
    engine, _ = _engine(url)
    store: type[VectorStore] = engine.STORE
    return store


def _engine(url: str) -> tuple[Any, str]:
    """The module of the engine, which is imported only now, and what it calls the place: a folder,
    or a whole URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "lance":
        location = rest if separator else url
        if not location:
            raise ValueError(
                f"store {url!r} names no folder; write lance:///abs/dir, or a path."
            )
        if "://" in location:
            raise ValueError(
                f"store {url!r} names a bucket, and LanceDB is used on disks; write "
                "lance:///abs/dir."
            )
        return import_module(".lance", __package__), location
    if scheme.partition("+")[0] == "milvus":
        return import_module(".milvus.store", __package__), url
    raise ValueError(
        f"store {url!r} has a scheme that is not known; write lance:///dir, "
        "milvus://host:port or a path."
    )
