"""JSON as we read it: an object that has one key twice is refused, where Python would keep the last one in silence."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises ValueError for what is not JSON, and for an object that has a key twice; UnicodeDecodeError for bytes that
    are not UTF-8, UTF-16 or UTF-32.
    """
    return json.loads(text, object_pairs_hook=_as_dict)


def _as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0]!r} is written twice in one object")
    return values
