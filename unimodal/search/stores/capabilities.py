"""What an engine can do, and the error where it cannot: an ability is never left out silently."""

from __future__ import annotations

from collections.abc import Iterable

from .schema import Schema

# What a store may lack -> how a message says it.
CAPABILITIES = {
    "filter": "filter its searches",
    "full_text": "search full text",
    "prefix": "keep matryoshka prefixes",
    "binary": "keep binary copies",
    "multiwriter": "be written by several processes",
    "persistent": "keep its items",
}


class UnsupportedError(ValueError):
    """The store's engine lacks an ability."""


def check_capabilities(
    engine: str, capabilities: frozenset[str], required: Iterable[str]
) -> None:
    """Raise UnsupportedError for the first required ability that the engine lacks.

    engine: its name, for the message.
    """
    for name in required:
        if name not in capabilities:
            raise UnsupportedError(
                f"{engine} cannot {CAPABILITIES[name]}; do without it, or choose another store."
            )


def required_capabilities(schema: Schema) -> list[str]:
    """The abilities that a store needs for items of this schema."""
    uses = {
        "full_text": schema.words,
        "prefix": bool(schema.prefix_dims),
        "binary": schema.binary,
    }
    return [name for name, is_used in uses.items() if is_used]
