"""JSON as we read it: an object that has one key twice is refused, where Python would keep the last
one in silence.

What is nested deeper than anybody means is refused too: what reads it level by level would end in a
    RecursionError.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

MOST_LEVELS = 100  # of lists and objects in one another

# What a value is called in a message: in JSON's words, for a table's values come from JSON more
# often than not.
JSON_NAMES = {
    int: "number",
    float: "number",
    bool: "truth value",
    str: "text",
    list: "list",
    dict: "object",
    type(None): "null",
}


def name_kind(value: Any) -> str:
    """The kind of a value with its article: "an object", "a list"."""
    name = JSON_NAMES.get(type(value), "value")
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def shown(value: Any, length: int = 60) -> str:
    """A value as a message shows it: as JSON writes it, but texts in single quotes; cut to a
    length.
    """
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    is_json = isinstance(value, (list, dict, bool, int, float, type(None)))
    text = (
        json.dumps(value, ensure_ascii=False, default=str, skipkeys=True)
        if is_json
        else repr(value)
    )
    return text if len(text) <= length else f"{text[:length]}…"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises ValueError for what is not JSON, for an object that has a key twice, and for lists and
    objects that are nested too deeply; UnicodeDecodeError for bytes that are not UTF-8, UTF-16 or
    UTF-32.
    """
    too_deep = f"it is nested more than {MOST_LEVELS} levels deep"
    try:
        value = json.loads(text, object_pairs_hook=_as_dict)
    except RecursionError:
        raise ValueError(too_deep) from None

    if _is_too_deep(value):
        raise ValueError(too_deep)
    return value


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            child
            for one in level
            if isinstance(one, (dict, list))
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True


def _as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(
            f"the key {counts.most_common(1)[0][0]!r} is written twice in one object"
        )
    return values
