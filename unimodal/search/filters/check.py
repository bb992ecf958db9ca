"""Filters: their check against a store's fields, and what they mean.

Each store renders the checked tree in its own language; `matches` says what all of them must mean.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from unimodal.config import nearest
from unimodal.tables.types import FieldType

from .tree import (
    MAX_DEPTH,
    MAX_LEAVES,
    And,
    Compare,
    In,
    IsNull,
    Leaf,
    Not,
    Operator,
    Or,
    Predicate,
    StartsWith,
    Value,
)

_OPERATORS: dict[Operator, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_EXAMPLES: dict[FieldType, str] = {
    "string": "a text such as 'Red'",
    "strings": "a text such as 'Red'",
    "int": "a whole number such as 50",
    "float": "a number such as 9.5",
    "bool": "true or false",
}


def check_filter(predicate: Predicate, fields: Mapping[str, FieldType]) -> Predicate:
    """The same filter, with each value in the type of its field.

    fields: those of the store; a filter may also name `id`.

    Raises ValueError for a field that is not there (naming the nearest), a comparison that its type
    does not allow, a value of the wrong type, and a tree that is empty, too deep or too large.
    """
    _check_size(predicate)
    return _typed(predicate, {"id": "string", **fields})


def push_not_down(predicate: Predicate) -> Predicate:
    """The same filter with `Not` only directly above a leaf (De Morgan; it holds for null too)."""
    if isinstance(predicate, (And, Or)):
        return type(predicate)(tuple(push_not_down(part) for part in predicate.parts))
    if not isinstance(predicate, Not):
        return predicate
    inner = predicate.part
    if isinstance(inner, Not):
        return push_not_down(inner.part)
    if isinstance(inner, And):
        return Or(tuple(push_not_down(Not(part)) for part in inner.parts))
    if isinstance(inner, Or):
        return And(tuple(push_not_down(Not(part)) for part in inner.parts))
    return predicate


def matches(predicate: Predicate, row: Mapping[str, Any]) -> bool:
    """Whether a row matches the filter; the language of each store must agree with it."""
    return _truth(predicate, row) is True


def _truth(predicate: Predicate, row: Mapping[str, Any]) -> bool | None:
    """True, False or unknown (None), as in SQL."""
    if isinstance(predicate, Not):
        truth = _truth(predicate.part, row)
        return None if truth is None else not truth
    if isinstance(predicate, And):
        return _decide([_truth(part, row) for part in predicate.parts], False)
    if isinstance(predicate, Or):
        return _decide([_truth(part, row) for part in predicate.parts], True)

    value = row.get(predicate.field)
    if isinstance(value, float) and math.isnan(value):
        value = None
    if isinstance(predicate, IsNull):
        return value is None
    if value is None:
        return None
    if isinstance(value, list):
        return _list_matches(predicate, value)
    if isinstance(predicate, StartsWith):
        return bool(value.startswith(predicate.prefix))
    if isinstance(predicate, In):
        return value in predicate.values
    return bool(_OPERATORS[predicate.operator](value, predicate.value))


def _decide(truths: Sequence[bool | None], decisive: bool) -> bool | None:
    """One decisive truth decides; without it, one unknown makes the whole unknown."""
    if decisive in truths:
        return decisive
    return None if None in truths else not decisive


def _list_matches(leaf: Compare | In | StartsWith, elements: list[Any]) -> bool:
    if isinstance(leaf, StartsWith):
        return any(element.startswith(leaf.prefix) for element in elements)
    if isinstance(leaf, In):
        return any(element in leaf.values for element in elements)
    return (leaf.value in elements) is (leaf.operator == "=")


def _check_size(predicate: Predicate) -> None:
    """Raise ValueError for a tree that is empty somewhere, too deep or too large."""
    num_leaves = 0
    pending = [(predicate, 1)]
    while pending:
        part, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ValueError(
                f"the filter is nested deeper than {MAX_DEPTH}; write it flatter."
            )
        if isinstance(part, Not):
            pending.append((part.part, depth + 1))
        elif isinstance(part, (And, Or)):
            if not part.parts:
                raise ValueError(
                    "the filter has an empty and/or; give it parts, or leave the filter out."
                )
            pending.extend((inner, depth + 1) for inner in part.parts)
        else:
            num_leaves += 1
            if num_leaves > MAX_LEAVES:
                raise ValueError(
                    f"the filter has more than {MAX_LEAVES} comparisons; join those of a field "
                    "with in (...)."
                )


def _typed(part: Predicate, fields: Mapping[str, FieldType]) -> Predicate:
    if isinstance(part, Not):
        return Not(_typed(part.part, fields))
    if isinstance(part, (And, Or)):
        return type(part)(tuple(_typed(inner, fields) for inner in part.parts))
    if part.field not in fields:
        raise ValueError(
            f"the filter names {part.field!r}, which is not a field; {nearest(part.field, fields)}"
        )
    return _typed_leaf(part, fields[part.field])


def _typed_leaf(leaf: Leaf, kind: FieldType) -> Predicate:
    if isinstance(leaf, IsNull):
        return leaf
    if isinstance(leaf, StartsWith):
        if kind not in ("string", "strings"):
            raise ValueError(
                f"the filter compares the beginning of {leaf.field!r}, but it holds {kind}; "
                "compare it with =."
            )
        return StartsWith(leaf.field, str(_typed_value(leaf.prefix, leaf.field, kind)))
    if isinstance(leaf, In):
        values = [_typed_value(value, leaf.field, kind) for value in leaf.values]
        return In(leaf.field, tuple(values))
    return _typed_comparison(leaf, kind)


def _typed_comparison(leaf: Compare, kind: FieldType) -> Compare:
    if leaf.operator not in _OPERATORS:
        raise ValueError(
            f"the filter compares {leaf.field!r} by {leaf.operator!r}; "
            f"{nearest(leaf.operator, list(_OPERATORS))}"
        )
    is_ordering = leaf.operator not in ("=", "!=")
    if is_ordering and kind in ("bool", "strings"):
        raise ValueError(
            f"the filter compares {leaf.field!r} by {leaf.operator}, but it holds {kind}; use = or "
            "!=."
        )
    value = leaf.value
    if (
        kind == "int"
        and is_ordering
        and isinstance(value, float)
        and math.isfinite(value)
    ):
        return _whole_comparison(leaf, value)
    return Compare(leaf.field, leaf.operator, _typed_value(value, leaf.field, kind))


def _whole_comparison(leaf: Compare, value: float) -> Compare:
    """An int field compared with a float, as the nearest whole number: n < 5.5 is n <= 5."""
    is_below = leaf.operator.startswith("<")
    whole = math.floor(value) if is_below else math.ceil(value)
    rounded: Operator = "<=" if is_below else ">="
    return Compare(
        leaf.field,
        leaf.operator if whole == value else rounded,
        _typed_value(whole, leaf.field, "int"),
    )


def _typed_value(value: Value, field: str, kind: FieldType) -> Value:
    """The value in the type of its field."""
    number = _number(value)
    if kind in ("string", "strings") and isinstance(value, str):
        _check_encoding(value, field)
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind in ("int", "float") and number is not None:
        _check_range(number, field, kind)
        if kind == "float":
            return float(number)
        if number == int(number):
            return int(number)

    way_out = f"compare it with {_EXAMPLES[kind]}"
    if kind == "string" and number is not None:
        way_out += f", or index it as a number: fields=[{field}:float]"
    written = str(value).lower() if isinstance(value, bool) else repr(value)
    raise ValueError(
        f"the filter's value {written} does not fit {field!r}, which holds {kind}; {way_out}."
    )


def _number(value: Value) -> int | float | None:
    """The value if it is a number; a bool is not."""
    if isinstance(value, (bool, str)):
        return None
    return value


def _check_encoding(value: str, field: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the filter's value {value!r} for {field!r} is not valid Unicode; repair its encoding."
        ) from None


def _check_range(value: int | float, field: str, kind: FieldType) -> None:
    # NaN compares as not less, and so is out of range too.
    fits = abs(value) <= sys.float_info.max
    if kind == "int" and abs(value) >= 2**63:
        fits = False
    if not fits:
        raise ValueError(
            f"the filter's value {value!r:.40} for {field!r} is out of range; give one of 64 bits."
        )
