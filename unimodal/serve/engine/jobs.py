"""A request on its way through the engine: its jobs, and the outcome of each input."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...vectors import Vectors
from .errors import TooLargeError


@dataclass(frozen=True, slots=True)
class Embedded:
    """One input's vector, of full length, and its number of tokens."""

    vector: Vectors  # (D,) unit vector
    tokens: int  # an image counts its patches plus 1


@dataclass(frozen=True, slots=True)
class Failed:
    """Why one input has no vector."""

    reason: str  # one sentence for the client
    status: int  # of HTTP
    code: str = ""

    @classmethod
    def of(cls, error: ValueError) -> Failed:
        """The outcome of an input that was refused with this error."""
        return cls(str(error), 413 if isinstance(error, TooLargeError) else 400)


Outcome: TypeAlias = Embedded | Failed


@dataclass(eq=False, slots=True)
class PendingRequest:
    """Inputs that arrived together and are answered together."""

    loop: asyncio.AbstractEventLoop
    answered: asyncio.Future[None]
    outcomes: list[Outcome | None]  # one per input
    num_bytes: int = 0
    jobs_left: int = 0
    is_cancelled: bool = False


@dataclass(eq=False, slots=True)
class EncodeJob:
    """One text or image on its way to the model."""

    request: PendingRequest
    index: int  # of its input in the request
    kind: str  # "text" or "image"
    content: Any  # a text, then its token ids | an image as received, then its pixels
    weight: (
        float  # the image's share of the input's vector, if it has a text and an image
    )
    admitted_at: float
    tokens: int = 0
    cost: int = 1  # of a batch's budget: tokens including padding, or 1 image
