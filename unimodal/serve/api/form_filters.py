"""The `filters` of a search: fields with their wanted values, or with a range of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...search.filters.tree import And, Compare, In, Predicate, Value
from .body_faults import describe_value

MAX_FILTERS = 100
MAX_VALUES = 1_000  # per field
MAX_NAME = 1_000  # characters

FILTERS_SCHEMA = {  # what `read_filters` accepts, for OpenAPI
    "type": "object",
    "additionalProperties": {
        "anyOf": [
            {"type": "array", "items": {"type": ["string", "number", "boolean"]}},
            {
                "type": "object",
                "properties": {"low": {"type": "number"}, "high": {"type": "number"}},
            },
        ]
    },
}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; either may be missing."""

    low: float | None = None
    high: float | None = None


FieldFilter: TypeAlias = "tuple[Value, ...] | Range"


def read_filters(filters: Any) -> dict[str, FieldFilter]:
    """Read a body's `filters`: field -> the wanted values, or a range; null is absent.

    Read by hand, because pydantic refuses a value of several types in the names of all of them.

    Raises ValueError with the field's name for the first that is neither.
    """
    if not isinstance(filters, Mapping):
        raise ValueError(
            "it is not an object; send {FIELD: [VALUE, ...]} or {FIELD: {low, high}}."
        )
    if len(filters) > MAX_FILTERS:  # counted before they are read
        raise ValueError(
            f"it has {len(filters)} fields, and {MAX_FILTERS} are allowed; leave some out."
        )
    return {
        _read_name(field): _read_filter(field, value)
        for field, value in filters.items()
        if value is not None
    }


def _read_name(field: str) -> str:
    if len(field) > MAX_NAME:
        raise ValueError(
            f"{field[:60]!r}… is longer than {MAX_NAME} characters, so it is not a field; "
            "shorten it."
        )
    return field


def _read_filter(field: str, value: Any) -> FieldFilter:
    if isinstance(value, Mapping):
        return _read_range(field, value)
    wanted = value if isinstance(value, list) else [value]
    if len(wanted) > MAX_VALUES:
        raise ValueError(
            f"{field[:60]!r} has {len(wanted)} values, and {MAX_VALUES} are allowed; "
            "leave some out."
        )
    for item in wanted:
        if not isinstance(item, (str, int, float, bool)):
            raise ValueError(
                f"{field[:60]!r} has the value {describe_value(item)}; send a list of texts, "
                'numbers or booleans, or a range {"low": 5, "high": 20}.'
            )
    return tuple(wanted)


def _read_range(field: str, ends: Mapping[str, Any]) -> Range:
    for end, value in ends.items():
        if end not in ("low", "high"):
            raise ValueError(
                f'{field[:60]!r} has {end[:60]!r}; a range is {{"low": 5, "high": 20}}, '
                "both included."
            )
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not is_number:
            raise ValueError(
                f"{field[:60]!r} has a range whose {end} is {describe_value(value)}; "
                "send a number."
            )
    return Range(ends.get("low"), ends.get("high"))


def join_filters(
    where: Predicate | None, filters: Mapping[str, FieldFilter]
) -> Predicate | None:
    """One filter that requires both.

    An empty list of values keeps nothing, and a range without ends keeps everything.
    """
    parts = [] if where is None else [where]
    for field, wanted in filters.items():
        parts.extend(_predicates(field, wanted))
    if len(parts) > 1:
        return And(tuple(parts))
    return parts[0] if parts else None


def _predicates(field: str, wanted: FieldFilter) -> Iterator[Predicate]:
    if not isinstance(wanted, Range):
        yield In(field, wanted)
        return
    if wanted.low is not None:
        yield Compare(field, ">=", wanted.low)
    if wanted.high is not None:
        yield Compare(field, "<=", wanted.high)
