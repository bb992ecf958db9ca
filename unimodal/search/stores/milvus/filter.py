"""Filters as Milvus's boolean expressions (https://milvus.io/docs/boolean.md).

Milvus Lite and the server need not agree about null (`not in` of Lite matches it). The expressions
here test for null, so that they mean the same in both: what `unimodal.search.filters.check.matches`
says.
"""

from __future__ import annotations

from collections.abc import Mapping

from ....tables.types import FieldType
from ...filters.tree import (
    And,
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

NOTHING = 'id == ""'  # matches nothing: no item has an empty id
EVERYTHING = 'id != ""'


def field_column(name: str) -> str:
    """The column of a field; prefixed, because its name may be a keyword such as `like`."""
    return "id" if name == "id" else f"field_{name}"


def expression(predicate: Predicate, fields: Mapping[str, FieldType]) -> str:
    """Render a filter that `check_filter` and `push_not_down` have prepared."""
    if isinstance(predicate, (And, Or)):
        word = " and " if isinstance(predicate, And) else " or "
        return word.join(f"({expression(part, fields)})" for part in predicate.parts)
    if isinstance(predicate, Not):
        # push_not_down leaves `Not` only directly above a leaf.
        assert not isinstance(predicate.part, (And, Or, Not))
        return _leaf(predicate.part, True, fields)
    return _leaf(predicate, False, fields)


def literal(value: Value) -> str:
    """Render a value; Lite and the server share only these escapes of a string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.translate(_ESCAPES) + '"'
    return repr(value)


_ESCAPES = str.maketrans(
    {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
)

_OPPOSITE: dict[Operator, Operator] = {
    "=": "!=",
    "!=": "=",
    "<": ">=",
    ">=": "<",
    ">": "<=",
    "<=": ">",
}


def _leaf(leaf: Leaf, negated: bool, fields: Mapping[str, FieldType]) -> str:
    column = field_column(leaf.field)
    is_id = leaf.field == "id"
    has_value = EVERYTHING if is_id else f"{column} is not null"
    if isinstance(leaf, IsNull):
        if negated:
            return has_value
        # An id is never null, and Milvus refuses the test.
        return NOTHING if is_id else f"{column} is null"
    if isinstance(leaf, StartsWith):
        return _begins(column, leaf.prefix, negated, has_value)

    is_list = fields.get(leaf.field) == "strings"
    if isinstance(leaf, In):
        return _among(column, leaf.values, negated, has_value, is_list)
    operator = _OPPOSITE[leaf.operator] if negated else leaf.operator
    if is_list:
        return _among(column, (leaf.value,), operator == "!=", has_value, True)
    value = literal(leaf.value)
    if operator == "=":
        return f"{column} == {value}"
    if operator == "!=":
        return f"({has_value}) and ({column} != {value})"
    return f"{column} {operator} {value}"


def _among(
    column: str, values: tuple[Value, ...], negated: bool, has_value: str, is_list: bool
) -> str:
    if not values:
        return has_value if negated else NOTHING
    listed = "[" + ", ".join(map(literal, values)) + "]"
    if is_list:
        contains = f"array_contains_any({column}, {listed})"
        return f"({has_value}) and (not ({contains}))" if negated else contains
    if negated:
        return f"({has_value}) and ({column} not in {listed})"
    return f"{column} in {listed}"


def _begins(column: str, prefix: str, negated: bool, has_value: str) -> str:
    """Render "begins with" as a range: from the prefix up to the next string of its length.

    `like` would need its wildcards escaped, which Lite and the server do differently.
    """
    if not prefix:
        return NOTHING if negated else has_value
    low = literal(prefix)
    stem = prefix.rstrip(chr(0x10FFFF))  # the last character, which has no next one
    if not stem:
        return f"{column} < {low}" if negated else f"{column} >= {low}"
    high = literal(stem[:-1] + _next_character(stem[-1]))
    if negated:
        return f"({column} < {low}) or ({column} >= {high})"
    return f"({column} >= {low}) and ({column} < {high})"


def _next_character(character: str) -> str:
    """The next code point that is a character; surrogates are not."""
    code = ord(character) + 1
    return chr(0xE000 if 0xD800 <= code < 0xE000 else code)
