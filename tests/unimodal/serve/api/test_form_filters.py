"""Filters as a form sends them: values, ranges, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.unimodal.serve.api.searching import refusal, search
from unimodal.serve.api.search import SearchBody


def test_a_where_and_a_forms_filters_both_hold(shop: TestClient) -> None:
    hits = search(
        shop,
        text="bag",
        where="price < 20 and colour = 'Red'",
        k=30,
        filters={"category": ["sale"], "price": {"low": 8}, "new": None},
    )
    assert {hit["id"] for hit in hits} == {"p/3", "p/9"}


def test_a_filter_of_a_form_takes_whole_numbers_for_a_whole_field_and_truth_for_a_truth(
    shop: TestClient,
) -> None:
    hits = search(shop, text="x", filters={"stock": {"low": 3.0}, "new": [True]}, k=30)
    assert {hit["id"] for hit in hits} == {"p/3", "p/7"}


@pytest.mark.parametrize(
    "body", [{"filters": {"colour": []}}, {"where": "colour in ()"}]
)
@pytest.mark.parametrize("text", ["", "mug"])
def test_an_empty_list_of_wanted_values_matches_nothing(
    shop: TestClient, body: Any, text: str
) -> None:
    assert search(shop, text=text, **body) == []
    assert search(shop, text=text, filters={"colour": ["Red"], "category": []}) == []
    assert len(search(shop, text=text, where="colour not in ()", k=50)) == 30


def test_one_wanted_value_needs_no_list(shop: TestClient) -> None:
    assert {
        hit["fields"]["colour"] for hit in search(shop, filters={"colour": "Red"})
    } == {"Red"}


def test_a_list_of_strings_begins_as_one_of_its_elements_does(
    shop: TestClient,
) -> None:
    hits = search(shop, where="category like 'sa%' and not category like 'ba%'", k=50)
    assert {hit["id"] for hit in hits} == {
        "p/" + str(number) for number in range(7, 30, 2)
    }


@pytest.mark.parametrize(
    ("filters", "fragment"),
    [
        (
            [],
            "filters: it is not an object; send {FIELD: [VALUE, ...]} or {FIELD: {low, high}}.",
        ),
        (
            {"price": {"gte": 5}},
            "filters: 'price' has 'gte'; a range is {\"low\": 5, \"high\": 20}, both included.",
        ),
        (
            {"price": {"low": "5"}},
            "filters: 'price' has a range whose low is '5'; send a number.",
        ),
        (
            {"price": {"low": True}},
            "filters: 'price' has a range whose low is true; send a number.",
        ),
        (
            {"colour": [None]},
            "filters: 'colour' has the value null",
        ),
        ({"colour": [["Red"]]}, "filters: 'colour' has the value a list of 1"),
        (
            {"colour": ["Red"] * 1001},
            "filters: 'colour' has 1001 values, and 1000",
        ),
        ({"c" * 2000: ["Red"]}, "is longer than 1000 characters"),
    ],
)
def test_filters_that_cannot_be_read_are_refused_in_jsons_words(
    shop: TestClient, filters: Any, fragment: str
) -> None:
    assert fragment in refusal(shop, filters=filters)


@pytest.mark.parametrize("key", list(SearchBody.model_fields))
@pytest.mark.parametrize(
    "sent",
    [
        "true",
        "[null]",
        '{"a": null}',
        "1e400",
        "[[]]",
        "-7",
        '"\\u0000"',
        '{"a": [true, {}]}',
    ],
)
def test_no_message_holds_a_word_of_pythons(
    shop: TestClient, key: str, sent: str
) -> None:
    content = '{"' + key + '": ' + sent + "}"
    answer = shop.post(
        "/v1/search", content=content, headers={"Content-Type": "application/json"}
    )
    words = (
        set(re.findall(r"[A-Za-z_]+", answer.text))
        if answer.status_code == 400
        else set()
    )
    assert (
        not {
            "None",
            "True",
            "False",
            "dict",
            "str",
            "union",
            "Union",
            "NoneType",
            "Range",
        }
        & words
    ), answer.text
    assert "list[" not in answer.text
