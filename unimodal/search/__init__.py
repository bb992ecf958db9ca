"""Find vectors again: an index of items in an embedded or a distributed store, and its queries.

    from unimodal.search import Query, open_store, parse_where, search

Names are imported when first used, so that `import unimodal.search` needs neither torch nor an
engine of a store.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .filters.parser import parse_where
    from .query.duplicates import near_duplicates
    from .query.fusion import RankedHit
    from .query.query import Query
    from .query.search import search, search_many
    from .stores.base import IndexSpec, VectorStore
    from .stores.capabilities import UnsupportedError
    from .stores.copy import copy_store
    from .stores.hits import Hit
    from .stores.open import create_store, open_store
    from .stores.schema import ForeignModelError, Schema

__all__ = [
    "ForeignModelError",
    "Hit",
    "IndexSpec",
    "Query",
    "RankedHit",
    "Schema",
    "UnsupportedError",
    "VectorStore",
    "copy_store",
    "create_store",
    "near_duplicates",
    "open_store",
    "parse_where",
    "search",
    "search_many",
]

_MODULES = {
    "ForeignModelError": ".stores.schema",
    "Hit": ".stores.hits",
    "IndexSpec": ".stores.base",
    "Query": ".query.query",
    "RankedHit": ".query.fusion",
    "Schema": ".stores.schema",
    "UnsupportedError": ".stores.capabilities",
    "VectorStore": ".stores.base",
    "copy_store": ".stores.copy",
    "create_store": ".stores.open",
    "near_duplicates": ".query.duplicates",
    "open_store": ".stores.open",
    "parse_where": ".filters.parser",
    "search": ".query.search",
    "search_many": ".query.search",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
