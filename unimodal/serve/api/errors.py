"""The errors that a route raises."""

from __future__ import annotations

from starlette.exceptions import HTTPException


class UnavailableError(Exception):
    """A request cannot be answered now, but can be later.

    The message begins a sentence, and holds no path.
    """


class UnknownKeyError(ValueError):
    """A key of a body that is not known here."""


class ApiError(HTTPException):
    """A request that is refused: the status, and a sentence with the way out.

    It is an HTTPException, because FastAPI reports any other exception in a validator as a broken
    body.
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
