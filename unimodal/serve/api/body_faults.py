"""The first fault of a JSON body as one sentence, in JSON's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError

from .errors import ApiError, UnknownKeyError

MAX_QUOTED = 60  # characters of a bad value that are repeated to the client

# pydantic's name of a fault -> the way out
WAYS_OUT = {
    "string_type": "send a text.",
    "int_type": "send a whole number.",
    "int_parsing": "send a whole number.",
    "int_from_float": "send a whole number.",
    "float_type": "send a number.",
    "float_parsing": "send a number.",
    "bool_type": "send true or false.",
    "bool_parsing": "send true or false.",
    "list_type": "send a list.",
    "dict_type": "send an object.",
    "model_type": "send an object.",
    "model_attributes_type": "send an object.",
    "finite_number": "send a number that is finite.",
    "too_long": "send at most {max_length}.",
    "too_short": "send at least {min_length}.",
    "string_too_long": "send at most {max_length} characters.",
    "string_too_short": "send a text that is not empty.",
    "greater_than": "send more than {gt}.",
    "greater_than_equal": "send {ge} or more.",
    "less_than": "send less than {lt}.",
    "less_than_equal": "send {le} or less.",
    "union_tag_invalid": "its type may be {expected_tags}.",
    "union_tag_not_found": "it needs a type.",
}
# a literal as Python writes it -> as JSON does
LITERALS = {"True": "true", "False": "false", "''": "an empty text"}


def first_fault(error: RequestValidationError) -> ApiError:
    """The first fault of a body, with the key that it is in."""
    fault = error.errors()[0]
    kind = fault["type"]
    context = fault.get("ctx", {})
    if kind == "json_invalid":
        return ApiError(
            400,
            f"the body is not JSON ({context['error']}); send a JSON object.",
            code="invalid_json",
        )

    name = ".".join(_path(fault["loc"][1:])) or None
    if name is None and kind != "value_error":
        return ApiError(
            400,
            "the body is not a JSON object; send one, with Content-Type: application/json.",
        )
    if kind == "missing":
        return ApiError(
            400,
            f"{name} is missing; send it.",
            code="missing_required_parameter",
            param=name,
        )
    if kind == "value_error":
        reason = str(fault["msg"]).removeprefix("Value error, ")
        is_unknown = isinstance(context.get("error"), UnknownKeyError)
        return ApiError(
            400,
            f"{name}: {reason}" if name else reason,
            code="unknown_parameter" if is_unknown else "",
            param=name,
        )
    value = describe_value(fault.get("input"))
    return ApiError(
        400,
        f"{name} is {value}; {_way_out(kind, context, fault['msg'])}",
        code="invalid_type" if kind.endswith("_type") else "",
        param=name,
    )


def _path(parts: Sequence[str | int]) -> list[str]:
    """The keys and numbers that lead to a fault, without the names of Python's types after them."""
    path: list[str] = []
    for part in parts:
        if isinstance(part, str) and any(sign in part for sign in "[]()"):
            break
        path.append(str(part)[:MAX_QUOTED])
    return path


def _way_out(kind: str, context: dict[str, Any], message: str) -> str:
    """What to send instead."""
    if kind in WAYS_OUT:
        return WAYS_OUT[kind].format_map(context)
    if kind == "literal_error":  # 'a', 'b' or 'c'
        expected = str(context["expected"])
        return f"it may be {LITERALS.get(expected, expected)}, or be left out."
    return f"{message[:1].lower()}{message[1:]}."


def describe_value(value: Any) -> str:
    """A bad value in JSON's words, cut short because it may be as large as a body."""
    if value is None or isinstance(value, bool):
        return str(orjson.dumps(value), "ascii")
    if isinstance(value, str):
        text = repr(value[: MAX_QUOTED + 1])
        return text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "…"
    if isinstance(value, (int, float)):
        is_readable = abs(value) < 1e300
        return f"{value}"[:MAX_QUOTED] if is_readable else "a number out of range"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, Mapping) else "not readable"
