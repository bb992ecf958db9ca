"""Filters: the text form reads back, errors name the place and the way out, and a tree means what
SQL says.
"""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from tests.unimodal.search.filters.random_filters import (
    FIELDS,
    random_row,
    random_tree,
)
from unimodal.search.filters.check import check_filter, matches, push_not_down
from unimodal.search.filters.parser import parse_where
from unimodal.search.filters.tree import (
    And,
    Compare,
    In,
    IsNull,
    Not,
    Or,
    Predicate,
    StartsWith,
)


def text_of(predicate: Predicate) -> str:
    """The text form, with parentheses around whatever has parts."""
    if isinstance(predicate, (And, Or)):
        word = " and " if isinstance(predicate, And) else " or "
        return "(" + word.join(text_of(part) for part in predicate.parts) + ")"
    if isinstance(predicate, Not):
        return f"not {text_of(predicate.part)}"
    if isinstance(predicate, IsNull):
        return f"{predicate.field} is null"
    if isinstance(predicate, In):
        return f"{predicate.field} in ({', '.join(map(value_text, predicate.values))})"
    if isinstance(predicate, StartsWith):
        escaped = predicate.prefix.replace("\\", "\\\\").replace("%", "\\%")
        return f"{predicate.field} like {value_text(escaped + '%')}"
    return f"{predicate.field} {predicate.operator} {value_text(predicate.value)}"


def value_text(value: Any) -> str:
    return (
        "'" + value.replace("'", "''") + "'"
        if isinstance(value, str)
        else str(value).lower()
    )


def test_a_tree_written_as_text_reads_back_as_the_same_tree() -> None:
    rng = random.Random(0)
    for _ in range(500):
        tree = random_tree(rng)
        assert parse_where(text_of(tree)) == tree, text_of(tree)


def test_a_long_list_of_values_is_read_in_time_that_grows_with_its_length() -> None:
    began = time.process_time()
    tree = parse_where("stock in (" + "1," * 200_000 + "1)")
    assert isinstance(tree, In)
    assert len(tree.values) == 200_001
    assert time.process_time() - began < 5


def test_and_binds_closer_than_or_and_not_closer_than_and() -> None:
    tree = parse_where("not a = 1 and b = 2 or c = 3")
    assert tree == Or(
        (And((Not(Compare("a", "=", 1)), Compare("b", "=", 2))), Compare("c", "=", 3))
    )


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a <> 1", "a != 1"),
        ("a between 1 and 2", "(a >= 1 and a <= 2)"),
        ("a not between 1 and 2", "not (a >= 1 and a <= 2)"),
        ("a not in (1, 2)", "not a in (1,2)"),
        ("a not like 'x%'", "not a like 'x%'"),
        ("a is not null", "not a is null"),
        ("A = 1 AND b IN (TRUE)", "A = 1 and b in (true)"),
        ('"order" = 1', '"order"=1'),
        ("a=+.5", "a = 0.5"),
    ],
)
def test_the_same_is_said_in_several_ways(text: str, same: str) -> None:
    assert parse_where(text) == parse_where(same)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "price <",
            "expected a value at character 8, found the end; write for example",
        ),
        ("price < and", "expected a value at character 9, found 'and'"),
        (
            "category = Bags",
            "expected a value at character 12, found 'Bags'; write a text in single quotes: 'Bags'",
        ),
        ('category = "Bags"', "a text in single quotes: 'Bags'"),
        ("a = 'x", "the quote at character 5 is not closed"),
        ("a = 1 b = 2", "expected and, or or the end at character 7, found 'b'"),
        ("5 < a", "expected a field's name at character 1, found '5'"),
        ("a ~ 1", "at character 3, found '~'"),
        ("", "expected a field's name at character 1, found the end"),
        ("a in (1", "expected , or \\) at character 8"),
        (
            "a like 'b'",
            "expected a pattern with % at its end and nowhere else at character 8",
        ),
        ("a like '%b%'", "expected a pattern with % at its end and nowhere else"),
        ("a = 1and b = 2", "at character 5, found '1'"),
        ("a is 5", "expected null at character 6"),
        ("(a = 1", "expected and, or or \\) at character 7"),
        ("a = 1; drop table items", "at character 6, found ';'"),
        ("(" * 50 + "a = 1" + ")" * 50, "no more than 20 levels of parentheses"),
        ("a = " + "9" * 5000, "found a number of 5000 digits"),
    ],
)
def test_a_text_that_cannot_be_read_says_where(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_where(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prize < 5", "'prize', which is not a field; did you mean 'price'"),
        (
            "price < 'x'",
            "'x' does not fit 'price', which holds float; compare it with a number such as 9.5.",
        ),
        (
            "colour = 5",
            r"5 does not fit 'colour', which holds string; compare it with a text such as 'Red', "
            r"or index it as a "
            r"number: fields=\[colour:float\].",
        ),
        ("stock = 1.5", "1.5 does not fit 'stock', which holds int"),
        ("sale = 1", "1 does not fit 'sale', which holds bool"),
        ("stock = true", "value true does not fit 'stock'"),
        ("sale < true", "use = or !="),
        ("tags > 'a'", "use = or !="),
        ("price like 'a%'", "it holds float"),
        ("price < 1e999", "out of range"),
        ("stock = 9223372036854775808", "out of range"),
        (" or ".join(["stock = 1"] * 1001), "more than 1000 comparisons"),
        ("not " * 30 + "stock = 1", "nested deeper than 20"),
    ],
)
def test_a_filter_that_does_not_fit_the_fields_is_refused(
    text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_filter(parse_where(text), FIELDS)


@pytest.mark.parametrize("field", ["price", "stock"])
def test_a_number_that_no_field_can_hold_is_refused(field: str) -> None:
    for value in (10**400, -(10**400), float("nan"), float("-inf")):
        tree = In(field, (1, value))
        with pytest.raises(ValueError, match="is out of range; give one of 64 bits"):
            check_filter(tree, FIELDS)


@pytest.mark.parametrize("tree", [And(()), Or(()), Compare("colour", "=", "\ud800")])
def test_what_only_a_program_can_get_wrong_is_refused_too(tree: Predicate) -> None:
    with pytest.raises(ValueError, match=r"empty|encoding"):
        check_filter(tree, FIELDS)


def test_values_take_the_type_of_their_field() -> None:
    assert check_filter(parse_where("price = 5"), FIELDS) == Compare("price", "=", 5.0)
    assert check_filter(parse_where("stock in (5.0)"), FIELDS) == In("stock", (5,))
    assert check_filter(parse_where("id = 'a'"), FIELDS) == Compare("id", "=", "a")


@pytest.mark.parametrize("operator", ["<", "<=", ">", ">="])
def test_a_fraction_beside_whole_numbers_becomes_the_whole_number_that_says_the_same(
    operator: str,
) -> None:
    tree = parse_where(f"stock {operator} 5.5")
    whole = check_filter(tree, FIELDS)
    assert isinstance(whole, Compare)
    assert isinstance(whole.value, int)
    assert [matches(whole, {"stock": n}) for n in range(9)] == [
        matches(tree, {"stock": n}) for n in range(9)
    ]


def test_pushing_not_down_changes_nothing_but_where_it_stands() -> None:
    rng = random.Random(1)
    rows = [random_row(rng) for _ in range(100)]
    for _ in range(200):
        tree = random_tree(rng)
        pushed = push_not_down(tree)
        assert not_only_above_leaves(pushed)
        assert [matches(pushed, row) for row in rows] == [
            matches(tree, row) for row in rows
        ]


def not_only_above_leaves(tree: Predicate) -> bool:
    if isinstance(tree, (And, Or)):
        return all(not_only_above_leaves(part) for part in tree.parts)
    return not (isinstance(tree, Not) and isinstance(tree.part, (And, Or, Not)))


def test_an_item_without_a_value_satisfies_neither_a_comparison_nor_its_negation() -> (
    None
):
    for text in (
        "price < 5",
        "not price < 5",
        "price != 5",
        "price in (5.0)",
        "not price in (5.0)",
    ):
        assert not matches(parse_where(text), {"price": None})
        assert not matches(parse_where(text), {})
        assert not matches(parse_where(text), {"price": float("nan")})
    assert matches(parse_where("price is null"), {"price": None})
    assert matches(parse_where("price < 5 or colour = 'Red'"), {"colour": "Red"})


def test_a_list_equals_each_of_its_elements() -> None:
    row = {"tags": ["a", "b"]}
    texts = {
        "tags = 'a'": True,
        "tags != 'a'": False,
        "tags != 'c'": True,
        "tags in ('c', 'b')": True,
    }
    assert {text: matches(parse_where(text), row) for text in texts} == texts
    assert not matches(parse_where("tags = 'a'"), {"tags": []})


def test_a_list_begins_as_one_of_its_elements_does() -> None:
    row = {"tags": ["blue", "red/dark"]}
    texts = {
        "tags like 'red/%'": True,
        "tags like 'dark%'": False,
        "tags like '%'": True,
        "not tags like 'b%'": False,
    }
    assert {text: matches(parse_where(text), row) for text in texts} == texts
    for text in ("tags like '%'", "not tags like 'a%'"):
        assert not matches(parse_where(text), {"tags": None})
    assert not matches(parse_where("tags like '%'"), {"tags": []})
    assert matches(parse_where("not tags like '%'"), {"tags": []})


def test_nothing_is_among_no_values() -> None:
    texts = {
        "colour in ()": False,
        "not colour in ()": True,
        "colour not in ()": True,
        "tags in ()": False,
    }
    assert {
        text: matches(parse_where(text), {"colour": "Red", "tags": ["a"]})
        for text in texts
    } == texts
    for text in texts:
        assert not matches(parse_where(text), {"colour": None, "tags": None})
    assert check_filter(parse_where("colour in ()"), FIELDS) == In("colour", ())
