"""What goes wrong, in the words of whoever asked: OpenAI's, Cohere's or Weaviate's shape, one sentence each."""

from __future__ import annotations

import logging
import math
from reprlib import Repr
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from .engine import DrainingError, ModelError, OverloadedError

log = logging.getLogger(__name__)

NAMES = {  # status -> OpenAI's type and code
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "not_found"),
    413: ("invalid_request_error", "too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
    503: ("server_error", "unavailable"),
}
SHOWN = 60  # characters of a bad value that are repeated to who sent it


class ApiError(HTTPException):
    """A request that is refused: the status, and a sentence that says what to do instead.

    An HTTPException, because FastAPI takes any other that comes up while it reads a body for a broken body.
    """

    def __init__(
        self, status: int, message: str, *, code: str = "", param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(status, message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after


def error_response(path: str, error: ApiError) -> Response:
    """The error as the clients of this path expect it."""
    body: dict[str, Any]
    if path.startswith("/v2/"):
        body = {"message": error.message}
    elif path == "/vectorize":
        body = {"error": error.message}
    else:
        body = {"error": error_object(error)}
    headers = {} if error.retry_after is None else {"Retry-After": str(math.ceil(max(1.0, error.retry_after)))}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(body), error.status, headers, "application/json")


def error_object(error: ApiError) -> dict[str, Any]:
    """OpenAI's four facts of an error."""
    kind, code = NAMES.get(
        error.status, ("invalid_request_error", None) if error.status < 500 else ("server_error", None)
    )
    return {"message": error.message, "type": kind, "param": error.param, "code": error.code or code}


def as_api_error(error: Exception) -> ApiError:
    """Any exception as what the client is told; of what is our fault no more than that it is."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OverloadedError):
        return ApiError(429, "too many requests are waiting; try again later.", retry_after=error.retry_after)
    if isinstance(error, DrainingError):
        return ApiError(503, "the server is shutting down; ask another one.", retry_after=1)
    if isinstance(error, ModelError):
        return ApiError(500, "the model failed on this request.", code="model_error")
    if isinstance(error, RequestValidationError):
        message, param = _first_fault(error)
        return ApiError(400, message, param=param)
    if isinstance(error, HTTPException):
        message = str(error.detail)
        if message == "Not Found":
            message = "there is nothing at this address; see /docs for what there is."
        elif message == "Method Not Allowed":
            message = f"this address is asked with {(error.headers or {}).get('Allow')}; see /docs for what there is."
        return ApiError(error.status_code, message)
    return ApiError(500, "something went wrong in the server.")


def answer_errors(app: FastAPI) -> None:
    """Every error that a route raises, and that is the client's or the load's, becomes an answer."""

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, ModelError):
            log.error("the model failed", exc_info=error)
        response = error_response(request.url.path, as_api_error(error))
        if isinstance(error, HTTPException) and error.headers:
            response.headers.update(error.headers)
        return response

    for kind in (ApiError, OverloadedError, DrainingError, ModelError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)


def _first_fault(error: RequestValidationError) -> tuple[str, str | None]:
    """The first fault of a body as one sentence, and the field it is in."""
    first = error.errors()[0]
    place = [str(part)[:SHOWN] for part in first["loc"][1:] if first["type"] != "json_invalid"]
    name = ".".join(place) or None
    if first["type"] == "json_invalid":
        why = first.get("ctx", {}).get("error", "broken")
        return f"the body is not JSON ({why}); send a JSON object.", None
    if first["type"] in ("model_attributes_type", "model_type", "dict_type") and not place:
        return "the body is no JSON object; send one, with Content-Type: application/json.", None
    said = str(first["msg"]).removeprefix("Value error, ")
    said = said if said.endswith((".", "?")) else said + "."
    if first["type"] in ("missing", "value_error"):
        return (f"{name}: {said}" if name else said), name
    return f"{name} is {_shown(first.get('input'))}: {said}", name


def _shown(value: Any) -> str:
    """The beginning of a value, of which no more is written out than that: it may be as large as a body."""
    brief = Repr()
    brief.maxstring = brief.maxother = brief.maxlong = SHOWN
    shown = brief.repr(value)
    return shown if len(shown) <= SHOWN else shown[:SHOWN] + "…"
