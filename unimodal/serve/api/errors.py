"""What goes wrong, in the words of whoever asked: OpenAI's, Cohere's or Weaviate's shape, one
sentence each.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ..engine.engine import DrainingError, ModelError, OverloadedError, ReplacedError

log = logging.getLogger(__name__)

NAMES = {  # status -> OpenAI's type and code
    400: ("invalid_request_error", "invalid_value"),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    405: ("invalid_request_error", "method_not_allowed"),
    413: ("invalid_request_error", "too_large"),
    415: ("invalid_request_error", "unsupported_media_type"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    500: ("server_error", "internal_error"),
    503: ("server_error", "unavailable"),
}
TEI_TYPES = {
    413: "Validation",
    422: "Tokenizer",
    429: "Overloaded",
    500: "Backend",
    503: "Unhealthy",
}
COHERE_PATHS = ("/v1/embed", "/v2/embed")
SHOWN = 60  # characters of a bad value that are repeated to who sent it


class UnavailableError(Exception):
    """What was asked cannot be answered now, and can be later; the reason is a sentence's
    beginning, without a path.
    """


class UnknownKeyError(ValueError):
    """A key of a body that is not known here."""


class ApiError(HTTPException):
    """A request that is refused: the status, and a sentence that says what to do instead.

    An HTTPException, because FastAPI takes any other that comes up while it reads a body for a
    broken body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after


def error_response(path: str, error: ApiError) -> Response:
    """The error as the clients of this path expect it."""
    body: dict[str, Any]
    if path in COHERE_PATHS:
        body = {"message": error.message}
    elif path == "/vectorize":
        body = {"error": error.message}
    elif path == "/embed":
        body = {
            "error": error.message,
            "error_type": TEI_TYPES.get(error.status, "Validation"),
        }
    else:
        body = {"error": error_object(error)}
    headers = (
        {}
        if error.retry_after is None
        else {"Retry-After": str(math.ceil(max(1.0, error.retry_after)))}
    )
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(body), error.status, headers, "application/json")


def error_object(error: ApiError) -> dict[str, Any]:
    """OpenAI's four facts of an error."""
    status = (
        error.status if error.status in NAMES else (500 if error.status >= 500 else 400)
    )
    kind, code = NAMES[status]
    return {
        "message": error.message,
        "type": kind,
        "param": error.param,
        "code": error.code or code,
    }


def as_api_error(error: Exception) -> ApiError:
    """Any exception as what the client is told; of what is our fault no more than that it is."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OverloadedError):
        return ApiError(
            429,
            "too many requests are waiting; try again later.",
            retry_after=error.retry_after,
        )
    if isinstance(error, UnavailableError):
        return ApiError(
            503, f"{error}; try again later.", code="unavailable", retry_after=2
        )
    if isinstance(error, ReplacedError):
        return ApiError(
            503, "the model was replaced while it was asked; try again.", retry_after=1
        )
    if isinstance(error, DrainingError):
        return ApiError(
            503, "the server is shutting down; ask another one.", retry_after=1
        )
    if isinstance(error, ModelError):
        return ApiError(500, "the model failed on this request.", code="model_error")
    if isinstance(error, RequestValidationError):
        return _first_fault(error)
    if isinstance(error, HTTPException):
        message = str(error.detail)
        if message == "Not Found":
            message = "there is nothing at this address; see /docs for what there is."
        elif message == "Method Not Allowed":
            message = (
                f"this address is asked with {(error.headers or {}).get('Allow')}; see /docs "
                "for what there is."
            )
        return ApiError(error.status_code, message)
    return ApiError(500, "something went wrong in the server.")


def answer_errors(app: FastAPI) -> None:
    """Every error that a route raises, and that is the client's or the load's,
    becomes an answer.
    """

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, ModelError):
            log.error("the model failed", exc_info=error)
        response = error_response(request.url.path, as_api_error(error))
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    kinds = (
        ApiError,
        OverloadedError,
        UnavailableError,
        ReplacedError,
        DrainingError,
        ModelError,
    )
    for kind in (*kinds, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)


def _first_fault(error: RequestValidationError) -> ApiError:
    """The first fault of a body as one sentence in JSON's words, with the key that it is in."""
    first = error.errors()[0]
    kind = first["type"]
    value = first.get("input")
    context = first.get("ctx", {})
    if kind == "json_invalid":
        return ApiError(
            400,
            f"the body is not JSON ({context['error']}); send a JSON object.",
            code="invalid_json",
        )
    name = ".".join(_place(first["loc"][1:])) or None
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
        unknown = isinstance(context.get("error"), UnknownKeyError)
        said = str(first["msg"]).removeprefix("Value error, ")
        message = f"{name}: {said}" if name else said
        return ApiError(
            400, message, code="unknown_parameter" if unknown else "", param=name
        )
    code = "invalid_type" if kind.endswith("_type") else ""
    return ApiError(
        400,
        f"{name} is {shown(value)}; {_way_out(kind, context, first['msg'])}",
        code=code,
        param=name,
    )


def _place(parts: tuple[str | int, ...]) -> list[str]:
    """The keys and numbers that lead to a fault; what follows them are names of Python's types."""
    place: list[str] = []
    for part in parts:
        if isinstance(part, str) and any(sign in part for sign in "[]()"):
            break
        place.append(str(part)[:SHOWN])
    return place


def _way_out(kind: str, context: dict[str, Any], message: str) -> str:
    """What may be sent in place of a value, by pydantic's name of the fault."""
    if kind in WAYS_OUT:
        return WAYS_OUT[kind].format_map(context)
    if (
        kind == "literal_error"
    ):  # 'a', 'b' or 'c'; of one value, Python's way to write it
        expected = str(context["expected"])
        words = {"True": "true", "False": "false", "''": "an empty text"}
        return f"it may be {words.get(expected, expected)}, or be left out."
    return f"{message[:1].lower()}{message[1:]}."


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


def shown(value: Any) -> str:
    """A bad value in JSON's words, cut short: it may be as large as a body."""
    if value is None or isinstance(value, bool):
        return str(orjson.dumps(value), "ascii")
    if isinstance(value, str):
        text = repr(value[: SHOWN + 1])
        return text if len(text) <= SHOWN else text[:SHOWN] + "…"
    if isinstance(value, (int, float)):
        return f"{value}"[:SHOWN] if abs(value) < 1e300 else "a number out of range"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, Mapping) else "not readable"
