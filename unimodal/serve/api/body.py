"""What all request bodies have in common: null, unknown keys, and shared fields.

A key that is null is absent. An unknown key is ignored and named in the answer's header
`X-Unimodal-Ignored`, or refused by a server with `strict: true`. What would change a vector is
never ignored: it is obeyed, or refused with the value that may be sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    WithJsonSchema,
    model_validator,
)

from ...config import nearest
from .body_faults import describe_value
from .errors import ApiError, UnknownKeyError

MAX_UNKNOWN = 20  # unknown keys per body; each is compared with all known keys
MISSPELT = (
    0.8  # difflib's ratio, from which an unknown key counts as a misspelt known one
)

NOT_USED = "Accepted and not used."
ONLY_THIS = "Another value would change the vectors, and is refused."
TRUNCATE = (
    "Whether a text that is longer than the model's length is cut at its end (the default), "
    "or refused (false, NONE)."
)
MATRYOSHKA = "Keep the first N dimensions (matryoshka)."


class Body(BaseModel):
    """A JSON object that a client sends.

    null is absent, and unknown keys are kept in `model_extra`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    # unknown key -> the key that was meant
    synonyms: ClassVar[Mapping[str, str]] = {}
    ignores_unknown: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        present = {key: value for key, value in values.items() if value is not None}
        cls._check_unknown([key for key in present if key not in cls.model_fields])
        return present

    @classmethod
    def _check_unknown(cls, unknown: Sequence[str]) -> None:
        """Raise for unknown keys that are not ignored."""
        if len(unknown) > MAX_UNKNOWN:
            raise ValueError(
                f"the body has {len(unknown)} unknown keys, for example {unknown[0][:60]!r}; "
                "leave them out."
            )
        for key in unknown:
            meant = cls.synonyms.get(key) or _nearly(key, list(cls.model_fields))
            if meant:
                raise UnknownKeyError(
                    f"unknown key {key[:60]!r}; did you mean {meant!r}?"
                )
            if not cls.ignores_unknown:
                raise UnknownKeyError(
                    f"unknown key {key[:60]!r}; {nearest(key, cls.model_fields)}"
                )


class InnerBody(Body):
    """An object inside of a body.

    An unknown key in it may be half of the input, and is refused.
    """

    ignores_unknown: ClassVar[bool] = False


def _nearly(key: str, known: Sequence[str]) -> str:
    """The known key that a misspelt one is nearly equal to, or nothing."""
    close = get_close_matches(key[:80], known, n=1, cutoff=MISSPELT)
    return close[0] if close else ""


def one_of(body: Body, name: str, other: str) -> Any:
    """The value of a key that has two names; both may be sent if they agree."""
    first = getattr(body, name)
    second = getattr(body, other)
    if first is None or second is None:
        return second if first is None else first
    if first != second:
        raise ApiError(
            400,
            f"{name} and {other} mean the same, but differ; send one of them.",
            param=name,
        )
    return first


# A list ends at its first fault: a fault for each of its items would block the event loop, and only
# the first is reported.
FIRST_FAULT = Field(fail_fast=True)
Texts = Annotated[list[str], FIRST_FAULT]
EmbeddingType = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]

ITEM = {
    "anyOf": [
        {
            "type": "string",
            "description": "A text, or an image as a data URI or base64.",
        },
        {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "image": {
                    "type": "string",
                    "description": "A data URI or base64; an https URL where it is allowed.",
                },
                "weight": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": 1,
                    "description": "The image's share.",
                },
            },
            "additionalProperties": False,
        },
    ]
}
# Checked item by item elsewhere: a fault is reported with the item's number, or fails that item.
Inputs = Annotated[
    Any,
    WithJsonSchema(
        {"anyOf": [*ITEM["anyOf"], {"type": "array", "items": ITEM, "minItems": 1}]}
    ),
]


def _read_truncate(value: Any) -> bool:
    """Whether a text is cut at its end (true, "END") or refused (false, "NONE")."""
    word = value.upper() if isinstance(value, str) else value
    if word in (True, "END", "RIGHT"):
        return True
    if word in (False, "NONE"):
        return False
    raise ValueError(
        f"{describe_value(value)} is not known; send END or true to cut long texts at their end, "
        "or NONE or false to refuse them."
    )


Truncate = Annotated[
    StrictBool,
    BeforeValidator(_read_truncate),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["END", "NONE"]}]}),
]
