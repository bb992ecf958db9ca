"""How many bad rows of an input end a run, and how they are listed: one rule for all commands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

# Up to this number, bad rows do not show that the input is bad.
MIN_SKIPPED = 100


def is_over_limit(skipped: int, rows: int, allowed: float) -> bool:
    """Whether this many bad rows out of `rows` end a run.

    allowed: the share that `max_skipped` allows.
    """
    return skipped > allowed * rows and (skipped > MIN_SKIPPED or not allowed)


def describe_limit(allowed: float) -> str:
    """The limit in words, for the message of a run that ends."""
    if not allowed:
        return "and max_skipped is 0"
    return f"over max_skipped {allowed:g}, and more than {MIN_SKIPPED}"


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as JSON lines that any file can hold.

    Half of a surrogate pair, as a bad row may have it, becomes an escape.
    """
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode(errors="backslashreplace").decode()
