"""A filter's tree in the language of Milvus's boolean expressions
(https://milvus.io/docs/boolean.md).

Milvus Lite and the server need not agree about null (`not in` of Lite keeps it); what is written
here asks for it, so that it means the same in both, and what `predicate.matches` says.
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

NOTHING = 'id == ""'  # no item has an empty id


def field_column(name: str) -> str:
    """The column of a field; with a prefix, because its own name may be a word of the language,
    such as `like`.
    """
    return "id" if name == "id" else f"field_{name}"


def expression(predicate: Predicate, fields: Mapping[str, FieldType]) -> str:
    """A filter that `checked` and `push_not_down` have seen, as Milvus writes it."""
    if isinstance(predicate, (And, Or)):
        joint = " and " if isinstance(predicate, And) else " or "
        return joint.join(f"({expression(part, fields)})" for part in predicate.parts)
    if isinstance(predicate, Not):
        assert not isinstance(predicate.part, (And, Or, Not)), (
            "push_not_down was forgotten"
        )
        return _leaf(predicate.part, True, fields)
    return _leaf(predicate, False, fields)


def literal(value: Value) -> str:
    """A value as Milvus writes it; of a string's escapes Lite and the server share only these."""
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
    there = (
        NOTHING.replace("==", "!=") if leaf.field == "id" else f"{column} is not null"
    )
    if isinstance(leaf, IsNull):
        if leaf.field == "id":  # never null, and Milvus refuses the question
            return there if negated else NOTHING
        return there if negated else f"{column} is null"
    if isinstance(leaf, StartsWith):
        return _begins(column, leaf.prefix, negated, there)
    if isinstance(leaf, In):
        return _among(
            column, leaf.values, negated, there, fields.get(leaf.field) == "strings"
        )
    operator = _OPPOSITE[leaf.operator] if negated else leaf.operator
    if fields.get(leaf.field) == "strings":
        return _among(column, (leaf.value,), operator == "!=", there, True)
    comparison = (
        f"{column} {'==' if operator == '=' else operator} {literal(leaf.value)}"
    )
    return f"({there}) and ({comparison})" if operator == "!=" else comparison


def _among(
    column: str, values: tuple[Value, ...], negated: bool, there: str, is_list: bool
) -> str:
    if not values:
        return there if negated else NOTHING
    listed = "[" + ", ".join(map(literal, values)) + "]"
    if is_list:
        contains = f"array_contains_any({column}, {listed})"
        return f"({there}) and (not ({contains}))" if negated else contains
    return (
        f"({there}) and ({column} not in {listed})"
        if negated
        else f"{column} in {listed}"
    )


def _begins(column: str, prefix: str, negated: bool, there: str) -> str:
    """As a range of strings: what begins so lies from the prefix up to the next one of its length.

    `like` would need its own signs escaped, which Lite and the server do differently.
    """
    stem = prefix.rstrip(chr(0x10FFFF))  # that has no next
    if not prefix:
        return NOTHING if negated else there
    low = literal(prefix)
    if not stem:
        return f"{column} < {low}" if negated else f"{column} >= {low}"
    code = ord(stem[-1]) + 1
    high = literal(
        stem[:-1] + chr(0xE000 if 0xD800 <= code < 0xE000 else code)
    )  # surrogates are no characters
    return (
        f"({column} < {low}) or ({column} >= {high})"
        if negated
        else f"({column} >= {low}) and ({column} < {high})"
    )
