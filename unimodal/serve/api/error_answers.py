"""Errors as answers, in the shape of each client: OpenAI's, Cohere's, TEI's and Weaviate's."""

from __future__ import annotations

import logging
import math
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from ..engine.errors import DrainingError, ModelError, OverloadedError, ReplacedError
from .body_faults import first_fault
from .errors import ApiError, UnavailableError

log = logging.getLogger(__name__)

OPENAI_NAMES = {  # status -> OpenAI's type and code
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
SHUTTING_DOWN = "the server is shutting down; retry on another replica."
SEE_DOCS = "see /docs for the endpoints."
ANSWERED = (
    ApiError,
    OverloadedError,
    UnavailableError,
    ReplacedError,
    DrainingError,
    ModelError,
    RequestValidationError,
    HTTPException,
)


def answer_errors(app: FastAPI) -> None:
    """Answer the errors that routes raise for a bad request, or under load."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, ModelError):
            log.error("the model failed", exc_info=error)
        response = error_response(request.url.path, as_api_error(error))
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    for kind in ANSWERED:
        app.add_exception_handler(kind, answer)


def error_response(path: str, error: ApiError) -> Response:
    """The error as the clients of this path expect it."""
    body: dict[str, Any]
    if path in COHERE_PATHS:
        body = {"message": error.message}
    elif path == "/vectorize":
        body = {"error": error.message}
    elif path == "/embed":
        kind = TEI_TYPES.get(error.status, "Validation")
        body = {"error": error.message, "error_type": kind}
    else:
        body = {"error": error_object(error)}

    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(max(1.0, error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(body), error.status, headers, "application/json")


def error_object(error: ApiError) -> dict[str, Any]:
    """OpenAI's four fields of an error."""
    status = error.status
    if status not in OPENAI_NAMES:
        status = 500 if status >= 500 else 400
    kind, code = OPENAI_NAMES[status]
    return {
        "message": error.message,
        "type": kind,
        "param": error.param,
        "code": error.code or code,
    }


def as_api_error(error: Exception) -> ApiError:
    """The answer to an error; of the server's own faults it says only that there is one."""
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
            503, "the model was replaced during the request; try again.", retry_after=1
        )
    if isinstance(error, DrainingError):
        return ApiError(503, SHUTTING_DOWN, retry_after=1)
    if isinstance(error, ModelError):
        return ApiError(500, "the model failed on this request.", code="model_error")
    if isinstance(error, RequestValidationError):
        return first_fault(error)
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, _routing_message(error))
    return ApiError(500, "something went wrong in the server.")


def _routing_message(error: HTTPException) -> str:
    """FastAPI's own errors as a sentence with the way out."""
    message = str(error.detail)
    if message == "Not Found":
        return f"not found; {SEE_DOCS}"
    if message == "Method Not Allowed":
        allowed = (error.headers or {}).get("Allow")
        return f"this path accepts {allowed} only; {SEE_DOCS}"
    return message
