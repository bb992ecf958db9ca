"""A field's type is seen from its values, and a value is cast to it or refused."""

from __future__ import annotations

import datetime
import decimal
import re
from typing import Any

import numpy as np
import pytest

from unimodal.config import parse_config
from unimodal.tables.types import (
    FieldSource,
    FieldValue,
    cast,
    infer_type,
    named_fields,
    unstorable,
)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "int"),
        ([1, 2.5], "float"),
        ([decimal.Decimal("2.50")], "float"),
        ([True, None], "bool"),
        (["52", "70"], "string"),
        (["a", 1], "string"),
        ([["a"], []], "strings"),
        ([["a"], "b"], "strings"),
        ([["a"], "b", "c"], "string"),
        ([["a"], 1, 2], "int"),
        ([{"a": 1}, 1], "int"),
        ([True, 1], "string"),
        ([None, "", float("nan")], "string"),
        ([np.int64(3)], "int"),
        ([datetime.date(2024, 5, 1)], "string"),
    ],
)
def test_a_type_is_seen_from_the_values(values: list[Any], kind: str) -> None:
    assert infer_type(values) == kind


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["52", "-7", ""], "int"),
        (["52", "52.5"], "float"),
        ([".5", "1.5e-3"], "float"),
        (["true", "False"], "bool"),
        (["007", "52"], "string"),
        (["12e5"], "string"),
        (["nan", "1.5"], "string"),
        (["1234567890123456789"], "string"),
        (["٣"], "string"),
    ],
)
def test_what_reads_as_a_number_everywhere_in_a_csv_is_one(
    values: list[str], kind: str
) -> None:
    assert infer_type(values, from_text=True) == kind


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        ("52", "float", 52.0),
        ("52", "int", 52),
        (52.0, "int", 52),
        (52, "float", 52.0),
        (52, "string", "52"),
        (True, "string", "true"),
        ("TRUE", "bool", True),
        (0, "bool", False),
        ("red", "strings", ["red"]),
        (["red", None, 7], "strings", ["red", "7"]),
        (datetime.date(2024, 5, 1), "string", "2024-05-01"),
        (np.float32(0.5), "float", 0.5),
        ("", "float", None),
        ("", "string", None),
        ([], "strings", None),
        (float("nan"), "float", None),
        (None, "int", None),
    ],
)
def test_a_value_takes_the_type_of_its_field(
    value: Any, kind: Any, wanted: Any
) -> None:
    found = cast(value, kind)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("cheap", "float"),
        (52.5, "int"),
        ("52.5", "int"),
        (True, "int"),
        (True, "float"),
        ("inf", "float"),
        (float("inf"), "float"),
        (2**63, "int"),
        ("yes", "bool"),
        (2, "bool"),
        (["a"], "string"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(value: Any, kind: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"is not .+, it (is of type (?!{kind}$)|cannot be kept)"
    ):
        cast(value, kind)


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (
            {"a": 1},
            "strings",
            '{"a": 1} is not a list of strings, it is an object; name a field of it',
        ),
        ({"a": 1}, "string", '{"a": 1} is not a string, it is an object'),
        (b"a", "string", "1 bytes is not a string, it is bytes"),
        (
            10.5,
            "int",
            "10.5 is not a whole number of 64 bits, it is of type float; name the type, "
            "as in fields=[",
        ),
        (
            2**63,
            "int",
            "9223372036854775808 is not a whole number of 64 bits, it cannot be kept as one",
        ),
    ],
)
def test_a_value_that_fits_no_type_is_told_by_what_it_is(
    value: Any, kind: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        cast(value, kind)


def test_a_list_of_fields_is_named_by_the_last_part() -> None:
    named = named_fields(["price:float", "attributes.material", "colour"])
    assert named == {
        "price": "price:float",
        "material": "attributes.material",
        "colour": "colour",
    }


def test_two_fields_of_one_name_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"two fields would be called 'name'; name them: fields=\{NAME: b.name\}",
    ):
        named_fields(["a.name", "b.name:string"])


def test_a_type_that_there_is_not_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ValueError,
        match="'price:flaot' ends with the type 'flaot'; did you mean 'float'",
    ):
        FieldSource.model_validate("price:flaot")


def test_a_source_with_a_colon_is_written_as_a_mapping() -> None:
    field = parse_config(FieldSource, {"source": "price:net", "type": "float"})
    assert (field.source, field.type) == ("price:net", "float")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("é" * 5, ""),
        (["é" * 5] * 3, ""),
        (None, ""),
        (7, ""),
        ("é" * 5 + "a", "name has 11 bytes, and the store keeps 10"),
        (["a", "b" * 11], "name has 11 bytes, and the store keeps 10"),
        (["a"] * 4, "name has 4 strings, and the store keeps 3"),
        ("half a \ud83d", "name is not Unicode text"),
        (["half a \ud83d"], "name is not Unicode text"),
    ],
)
def test_what_a_store_cannot_keep_says_why(value: FieldValue, reason: str) -> None:
    fault = unstorable({"id": "a", "name": value}, 10, 3)
    assert fault.startswith(reason)
    assert bool(fault) is bool(reason)


def test_a_store_without_limits_keeps_any_text() -> None:
    assert not unstorable({"name": "a" * 100_000, "tags": ["a"] * 10_000}, None, None)
