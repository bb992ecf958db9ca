"""How many bad rows of an input end a run, and how they are listed: the one rule of pack, index and
embed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

# bad items up to this number do not show that all are bad; training stops by the same rule
MIN_SKIPPED = 100


def too_many(skipped: int, rows: int, allowed: float) -> bool:
    """Whether this many bad rows out of `rows` end a run; allowed: the share that `max_skipped`
    allows.
    """
    return skipped > allowed * rows and (skipped > MIN_SKIPPED or not allowed)


def limit_of(allowed: float) -> str:
    """The limit in words, for the error of a run that ends."""
    return (
        f"over max_skipped {allowed:g}, and more than {MIN_SKIPPED}"
        if allowed
        else "and max_skipped is 0"
    )


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """JSON lines that any file can hold: half of a surrogate pair, as a bad row may have it,
    becomes an escape.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode(errors="backslashreplace").decode()
