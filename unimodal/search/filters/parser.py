"""The text form of a filter: `price < 50 and category in ('Bags', 'Shoes') and not colour = 'Red'`.

comparison   FIELD = VALUE   (!= <> < <= > >=)
             FIELD in (VALUE, ...)   (FIELD in () matches nothing)
             FIELD between LOW and HIGH
             FIELD like 'Gear/%'   (begins with; % at the end only, \\% is a percent sign)
             FIELD is null
with         not in, not between, not like, is not null, `and`, `or`, `not`, parentheses
value        50   -1.5e3   'text, it''s quoted by two'   true   false
"""

from __future__ import annotations

import re
from typing import NoReturn

from .tree import (
    MAX_DEPTH,
    And,
    Compare,
    In,
    IsNull,
    Not,
    Operator,
    Or,
    Predicate,
    StartsWith,
    Value,
)

# kind, text, position
Token = tuple[str, str, int]

OPERATORS: dict[str, Operator] = {
    "=": "=",
    "!=": "!=",
    "<>": "!=",
    "<": "<",
    "<=": "<=",
    ">": ">",
    ">=": ">=",
}
KEYWORDS = ("and", "or", "not", "in", "between", "like", "is", "null", "true", "false")

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^']|'')*')
      | (?P<quoted>"[^"]*")
      | (?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<name>[^\W\d][\w.]*)
      | (?P<operator>!=|<>|<=|>=|=|<|>)
      | (?P<mark>[(),])
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)


def parse_where(text: str) -> Predicate:
    """Parse the text form of a filter; raises ValueError with the position of a syntax error.

    A field named like a keyword is written in double quotes. Whether the fields exist is checked by
    `check_filter`, which knows the store's fields.
    """
    parser = _Parser(text)
    predicate = parser.disjunction()
    parser.expect("end", "and, or or the end")
    return predicate


class _Parser:
    """A recursive-descent parser: one method per rule of the grammar."""

    def __init__(self, text: str) -> None:
        self.tokens = iter(_tokens(text))
        self.next = next(self.tokens)
        self.depth = 0

    def disjunction(self) -> Predicate:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            _fail(f"no more than {MAX_DEPTH} levels of parentheses", self.next)
        parts = [self.conjunction()]
        while self.take("or"):
            parts.append(self.conjunction())
        self.depth -= 1
        return Or(tuple(parts)) if len(parts) > 1 else parts[0]

    def conjunction(self) -> Predicate:
        parts = [self.negation()]
        while self.take("and"):
            parts.append(self.negation())
        return And(tuple(parts)) if len(parts) > 1 else parts[0]

    def negation(self) -> Predicate:
        num_nots = 0
        while self.take("not"):
            num_nots += 1
        if self.take("("):
            part = self.disjunction()
            self.expect(")", "and, or or )")
        else:
            part = self.comparison()
        for _ in range(num_nots):
            part = Not(part)
        return part

    def comparison(self) -> Predicate:
        if self.next[0] not in ("name", "quoted"):
            _fail("a field's name", self.next)
        field = self.read()[1].strip('"')
        if self.take("is"):
            negated = self.take("not")
            self.expect("null", "null")
            return Not(IsNull(field)) if negated else IsNull(field)
        if self.next[0] == "operator":
            return Compare(field, OPERATORS[self.read()[1]], self.value())
        if self.take("not"):
            return Not(self.range(field))
        return self.range(field)

    def range(self, field: str) -> Predicate:
        if self.take("in"):
            self.expect("(", "(")
            return In(field, self.values())
        if self.take("between"):
            low = self.value()
            self.expect("and", "and")
            return And((Compare(field, ">=", low), Compare(field, "<=", self.value())))
        if self.take("like"):
            return StartsWith(
                field, _prefix(self.expect("text", "a text in single quotes"))
            )
        _fail("a comparison such as = or in", self.next)

    def values(self) -> tuple[Value, ...]:
        if self.take(")"):
            return ()
        values = [self.value()]
        while self.take(","):
            values.append(self.value())
        self.expect(")", ", or )")
        return tuple(values)

    def value(self) -> Value:
        token = self.next
        kind, text, position = token
        if kind in ("name", "quoted"):
            _fail(
                "a value",
                token,
                f"write a text in single quotes: '{text.strip(chr(34))}'.",
            )
        if kind not in ("text", "number", "true", "false"):
            _fail("a value", token)
        self.read()
        if kind == "text":
            return text[1:-1].replace("''", "'")
        if kind == "number":
            # No field holds such a number, and int() would take long.
            if len(text) > 40:
                _fail(
                    "a value",
                    ("long", f"a number of {len(text)} digits", position),
                    "shorten it.",
                )
            is_whole = text.lstrip("+-").isdecimal()
            return int(text) if is_whole else float(text)
        return kind == "true"

    def take(self, kind: str) -> bool:
        """Read the next token if it is of this kind, and say whether it was."""
        if self.next[0] != kind:
            return False
        self.read()
        return True

    def expect(self, kind: str, what: str) -> Token:
        if self.next[0] != kind:
            _fail(what, self.next)
        return self.read()

    def read(self) -> Token:
        """Read the next token; the last one can be read again."""
        token = self.next
        self.next = next(self.tokens, token)
        return token


def _tokens(text: str) -> list[Token]:
    """Split into tokens; the last is `end`, and keywords and marks are kinds of their own."""
    tokens: list[Token] = []
    position = 0
    while not tokens or tokens[-1][0] != "end":
        match = _TOKEN.match(text, position)
        if match is None:
            position += len(text[position:]) - len(text[position:].lstrip())
            if text[position] in "'\"":
                raise ValueError(
                    f"where: the quote at character {position + 1} is not closed; close it."
                )
            _fail(
                "a field, a comparison or a value", ("other", text[position], position)
            )
        kind = str(match.lastgroup)
        word = match[kind]
        start = match.start(kind)
        if kind == "mark" or (kind == "name" and word.lower() in KEYWORDS):
            kind = word.lower()
        tokens.append((kind, word, start))
        position = match.end()
    return tokens


def _prefix(token: Token) -> str:
    """The prefix of a pattern: the text before the % at its end."""
    pattern = token[1][1:-1].replace("''", "'")
    match = re.fullmatch(r"((?:[^%\\]|\\[%\\])*)%", pattern, re.DOTALL)
    if match is None:
        _fail(
            "a pattern with % at its end and nowhere else",
            token,
            r"for = write =, for a percent sign \%.",
        )
    return re.sub(r"\\(.)", r"\1", match[1])


def _fail(expected: str, token: Token, way_out: str = "") -> NoReturn:
    kind, text, position = token
    found = {"end": "the end", "long": text}.get(kind, repr(text[:40]))
    way_out = way_out or "write for example price < 50 and category = 'Bags'."
    raise ValueError(
        f"where: expected {expected} at character {position + 1}, found {found}; {way_out}"
    )
