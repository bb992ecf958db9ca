"""Filters: the tree that each store renders in its own language, what it means, and how it is
checked.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any

from unimodal.config import nearest

from ...tables.types import FieldType
from ..stores.schema import Schema
from .parser import parse_where
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

__all__ = [
    "And",
    "Compare",
    "In",
    "IsNull",
    "Leaf",
    "Not",
    "Operator",
    "Or",
    "Predicate",
    "StartsWith",
    "Value",
    "checked",
    "matches",
    "parse_where",
    "push_not_down",
]


def checked(predicate: Predicate, schema: Schema) -> Predicate:
    """The same filter with each value in its field's type; `id` may be named as a field may.

    Raises ValueError for a field that the schema has not (naming the nearest), a comparison that
    its type does not allow, a value of the wrong type, and a tree that is empty, too deep or too
    large.
    """
    fields: dict[str, FieldType] = {"id": "string", **schema.fields}
    num_leaves = 0

    def check(part: Predicate, depth: int) -> Predicate:
        nonlocal num_leaves
        if depth > MAX_DEPTH:
            raise ValueError(
                f"the filter is nested deeper than {MAX_DEPTH}; write it flatter."
            )
        if isinstance(part, Not):
            return Not(check(part.part, depth + 1))
        if isinstance(part, (And, Or)):
            if not part.parts:
                raise ValueError(
                    "the filter has an empty and/or; give it parts, or no filter at all."
                )
            return type(part)(tuple(check(one, depth + 1) for one in part.parts))
        num_leaves += 1
        if num_leaves > MAX_LEAVES:
            raise ValueError(
                f"the filter has more than {MAX_LEAVES} comparisons; join those of a "
                "field with in (...)."
            )
        if part.field not in fields:
            raise ValueError(
                f"the filter names {part.field!r}, which is no field; {nearest(part.field, fields)}"
            )
        return _checked_leaf(part, fields[part.field])

    return check(predicate, 1)


def push_not_down(predicate: Predicate) -> Predicate:
    """The same filter with no `Not` but directly above a leaf (De Morgan; it holds for SQL's null
    too).
    """
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
    """Whether the filter keeps a row: what each store's own language has to say too."""
    return _truth(predicate, row) is True


def _truth(predicate: Predicate, row: Mapping[str, Any]) -> bool | None:
    """True, False or unknown (None), as in SQL."""
    if isinstance(predicate, Not):
        truth = _truth(predicate.part, row)
        return None if truth is None else not truth
    if isinstance(predicate, And):
        truths = [_truth(part, row) for part in predicate.parts]
        return False if False in truths else (None if None in truths else True)
    if isinstance(predicate, Or):
        truths = [_truth(part, row) for part in predicate.parts]
        return True if True in truths else (None if None in truths else False)
    value = row.get(predicate.field)
    if isinstance(value, float) and math.isnan(value):
        value = None
    if isinstance(predicate, IsNull):
        return value is None
    if value is None:
        return None
    if isinstance(predicate, StartsWith):
        return any(
            one.startswith(predicate.prefix)
            for one in (value if isinstance(value, list) else [value])
        )
    if isinstance(predicate, In):
        return (
            any(one in predicate.values for one in value)
            if isinstance(value, list)
            else value in predicate.values
        )
    if isinstance(value, list):
        return (predicate.value in value) is (predicate.operator == "=")
    return bool(_OPERATORS[predicate.operator](value, predicate.value))


_OPERATORS: dict[Operator, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_EXAMPLES = {
    "string": "a text such as 'Red'",
    "strings": "a text such as 'Red'",
    "int": "a whole number such as 50",
    "float": "a number such as 9.5",
    "bool": "true or false",
}


def _checked_leaf(leaf: Leaf, kind: FieldType) -> Predicate:
    if isinstance(leaf, IsNull):
        return leaf
    if isinstance(leaf, StartsWith):
        if kind not in ("string", "strings"):
            raise ValueError(
                f"the filter asks how {leaf.field!r} begins, but it holds {kind}; "
                "compare it with =."
            )
        return StartsWith(
            leaf.field, str(_checked_value(leaf.prefix, leaf.field, kind))
        )
    if isinstance(leaf, In):
        return In(
            leaf.field,
            tuple(_checked_value(value, leaf.field, kind) for value in leaf.values),
        )
    if leaf.operator not in _OPERATORS:
        raise ValueError(
            f"the filter compares {leaf.field!r} by {leaf.operator!r}; "
            f"{nearest(leaf.operator, list(_OPERATORS))}"
        )
    if kind in ("bool", "strings") and leaf.operator not in ("=", "!="):
        raise ValueError(
            f"the filter compares {leaf.field!r} by {leaf.operator}, but it holds "
            f"{kind}; use = or !=."
        )
    if (
        kind == "int"
        and isinstance(leaf.value, float)
        and math.isfinite(leaf.value)
        and leaf.operator[0] in "<>"
    ):
        # The nearest whole number says the same: n < 5.5 is n <= 5.
        below = leaf.operator[0] == "<"
        whole = math.floor(leaf.value) if below else math.ceil(leaf.value)
        sharp = leaf.operator if whole == leaf.value else ("<=" if below else ">=")
        return Compare(leaf.field, sharp, _checked_value(whole, leaf.field, kind))
    return Compare(
        leaf.field, leaf.operator, _checked_value(leaf.value, leaf.field, kind)
    )


def _checked_value(value: Value, field: str, kind: FieldType) -> Value:
    """The value in the type of its field."""
    if kind in ("string", "strings") and isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"the filter's value {value!r} for {field!r} is no text; repair its encoding."
            ) from None
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if (
        kind in ("int", "float")
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    ):
        if not abs(value) <= sys.float_info.max or (
            kind == "int" and abs(value) >= 2**63
        ):
            raise ValueError(
                f"the filter's value {value!r:.40} for {field!r} is out of range; give "
                "one of 64 bits."
            )
        if kind == "float":
            return float(value)
        if value == int(value):
            return int(value)
    way_out = f"compare it with {_EXAMPLES[kind]}"
    if (
        kind == "string"
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    ):
        way_out += f", or index it as a number: fields=[{field}:float]"
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    raise ValueError(
        f"the filter's value {shown} does not fit {field!r}, which holds {kind}; {way_out}."
    )
