"""JSON, read strictly: an object that has a key twice is refused, as is deep nesting.

Python keeps the last value of a key silently, and ends in a RecursionError on deep nesting.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

MOST_LEVELS = 100  # of nested lists and objects

# What a message calls a value: by JSON's names, because most values of tables come from JSON.
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


def show_value(value: Any, length: int = 60) -> str:
    """A value for a message: as JSON writes it, but texts in single quotes; cut to a length."""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    is_json = isinstance(value, (list, dict, bool, int, float, type(None)))
    text = repr(value)
    if is_json:
        text = json.dumps(value, ensure_ascii=False, default=str, skipkeys=True)
    return text if len(text) <= length else f"{text[:length]}…"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises ValueError for other text, for an object that has a key twice, and for lists and objects
    that are nested too deeply; UnicodeDecodeError for bytes that are not UTF-8, UTF-16 or UTF-32.
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
        level = _nested_in(level)
        if not level:
            return False
    return True


def _nested_in(level: list[Any]) -> list[Any]:
    """The lists and objects in the values of one level."""
    nested: list[Any] = []
    for value in level:
        if isinstance(value, dict):
            nested += [
                child for child in value.values() if isinstance(child, (dict, list))
            ]
        elif isinstance(value, list):
            nested += [child for child in value if isinstance(child, (dict, list))]
    return nested


def _as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise ValueError(f"the key {twice!r} is written twice in one object")
    return values
