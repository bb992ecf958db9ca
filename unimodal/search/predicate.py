"""Filters: a small tree of comparisons, which each store renders in its own language, and its text form.

An item that has no value for a field satisfies none of its comparisons, and none of their negations (SQL's rule);
`IsNull` alone finds it. Of a field that holds a list of strings, `=` and `in` mean that the list has such an element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

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


Predicate: TypeAlias = Compare | In | StartsWith | IsNull | Not | And | Or
