"""The tree of a filter: comparisons of fields with values, joined by and, or and not.

An item without a value for a field matches none of its comparisons, and none of their negations
(SQL's rule); `IsNull` alone finds it. For a field that holds a list of strings, `=`, `in` and
`like` mean that the list has such an element, and `!=` that it has not. An empty `in` matches
nothing, and an empty `not in` every item with a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

# A larger tree is an attack or a mistake; engines parse deep nesting by recursion, on a stack of
# their own.
MAX_DEPTH = 20
MAX_LEAVES = 1000

Value: TypeAlias = str | int | float | bool
Operator = Literal["=", "!=", "<", "<=", ">", ">="]


@dataclass(frozen=True)
class Compare:
    """`price < 50`."""

    field: str
    operator: Operator
    value: Value


@dataclass(frozen=True)
class In:
    """`colour in ('Red', 'Blue')`."""

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class StartsWith:
    """`category like 'Gear/%'`."""

    field: str
    prefix: str


@dataclass(frozen=True)
class IsNull:
    """`price is null`."""

    field: str


@dataclass(frozen=True)
class Not:
    """`not colour = 'Red'`."""

    part: Predicate


@dataclass(frozen=True)
class And:
    """`price < 50 and colour = 'Red'`."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True)
class Or:
    """`price < 50 or colour = 'Red'`."""

    parts: tuple[Predicate, ...]


Leaf: TypeAlias = Compare | In | StartsWith | IsNull
Predicate: TypeAlias = Leaf | Not | And | Or
