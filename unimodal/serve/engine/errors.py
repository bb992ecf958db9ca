"""Why the engine did not answer a request, or why an input is refused."""

from __future__ import annotations


class TooLargeError(ValueError):
    """An image or a text over one of the server's limits."""


class OverloadedError(Exception):
    """The queue is full. retry_after: seconds until the waiting requests are answered."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(
            f"too many requests are waiting; try again in {retry_after:.0f} s."
        )
        self.retry_after = retry_after


class DrainingError(Exception):
    """The engine is stopping and accepts nothing new."""


class ModelError(Exception):
    """The model failed on every input of a request."""


class ReplacedError(Exception):
    """The model that a request was made for is no longer served."""
