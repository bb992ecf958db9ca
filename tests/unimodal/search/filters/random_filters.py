"""Random filters and rows, for the parser, the check and every store."""

from __future__ import annotations

import random
from typing import Any

from unimodal.search.filters.tree import (
    And,
    Compare,
    In,
    IsNull,
    Not,
    Operator,
    Or,
    Predicate,
    StartsWith,
)
from unimodal.tables.types import FieldType

FIELDS: dict[str, FieldType] = {
    "price": "float",
    "stock": "int",
    "colour": "string",
    "Made_In": "string",
    "sale": "bool",
    "tags": "strings",
}
STRINGS = [
    "Red",
    "it's",
    "",
    "50% \\ off",
    'say "no"',
    "Grün",
    "鞋",
    "red",
    "Gear/Bags",
    "null",
    "a\nb",
    "; drop",
    "🎈",
]
VALUES: dict[FieldType, list[Any]] = {
    "float": [0.0, -1.5, 9.99, 1e-7, 2.5e22, 50.0],
    "int": [0, -3, 7, 2**62, -(2**63) + 1],
    "string": STRINGS,
    "bool": [True, False],
    "strings": STRINGS,
}


def random_tree(rng: random.Random, depth: int = 3) -> Predicate:
    """Any tree that the text form can write."""
    if depth and rng.random() < 0.6:
        if rng.random() < 0.3:
            return Not(random_tree(rng, depth - 1))
        parts = tuple(random_tree(rng, depth - 1) for _ in range(rng.randint(2, 3)))
        return And(parts) if rng.random() < 0.5 else Or(parts)
    field = rng.choice(list(FIELDS))
    kind = FIELDS[field]
    draw = rng.random()
    if draw < 0.15:
        return IsNull(field)
    if draw < 0.4:
        return In(field, tuple(rng.sample(VALUES[kind], rng.randint(0, 2))))
    if draw < 0.6 and kind in ("string", "strings"):
        return StartsWith(field, rng.choice(STRINGS)[: rng.randint(0, 4)])
    operators: list[Operator] = ["=", "!="]
    if kind not in ("bool", "strings"):
        operators += ["<", "<=", ">", ">="]
    return Compare(field, rng.choice(operators), rng.choice(VALUES[kind]))


def random_row(rng: random.Random) -> dict[str, Any]:
    """A value or none for each field."""
    row: dict[str, Any] = {
        name: rng.choice([None, *VALUES[kind]]) for name, kind in FIELDS.items()
    }
    row["tags"] = rng.choice([None, [], rng.sample(STRINGS, 1), rng.sample(STRINGS, 3)])
    return row
