"""What clients may send to be embedded: one body for OpenAI's and Jina's clients, Cohere's, and Weaviate's.

A field that a client sends and that would mean nothing here is refused, but for those that change no vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, WithJsonSchema

from ..config import Config
from .encodings import Number
from .errors import ApiError

# A list ends at its first fault: one for each of its items would hold up the event loop, and only the first is told.
FIRST_FAULT = Field(fail_fast=True)
Texts = Annotated[list[str], FIRST_FAULT]
EmbeddingType = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]

ITEM = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {
                "text": {"type": "string"},
                "image": {"type": "string", "description": "A data URI or base64; an https URL where it is allowed."},
                "weight": {"type": "number", "minimum": 0, "maximum": 1, "description": "The picture's share."},
            },
            "additionalProperties": False,
        },
    ]
}
# Checked by hand, item by item: a fault in one must be told with its number, or left to that item alone.
Inputs = Annotated[Any, WithJsonSchema({"anyOf": [*ITEM["anyOf"], {"type": "array", "items": ITEM, "minItems": 1}]})]
TASKS = {  # Jina's tasks -> the name of a prompt
    "retrieval.query": "query",
    "retrieval.passage": "document",
    "text-matching": "",
    "classification": "",
    "clustering": "",
    "separation": "",
    "none": "",
}
INPUT_TYPES = {  # Cohere's, Voyage's and others'
    "search_query": "query",
    "query": "query",
    "search_document": "document",
    "document": "document",
    "passage": "document",
    "classification": "",
    "clustering": "",
    "image": "",
}


def _one_type(value: Any) -> Any:
    """Jina's clients may send a list of types; one of them can be served."""
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f"{len(value)} types are asked for; ask for one, or use /v2/embed.")
        return value[0]
    return value


def _no_number(value: Any) -> Any:
    """Other services ask for the numbers of a vector where OpenAI's clients ask for its spelling."""
    if value in ("int8", "uint8", "binary", "ubinary"):
        raise ValueError(
            f"{value!r} is asked for as embedding_type; leave encoding_format out, or say float or base64."
        )
    return value


class EmbeddingsBody(Config):
    """OpenAI's and Jina's request: texts, pictures, and both at once, mixed in one list."""

    model: str = ""
    input: Inputs
    encoding_format: Annotated[Literal["float", "base64"] | None, BeforeValidator(_no_number)] = None
    embedding_type: Annotated[EmbeddingType | None, BeforeValidator(_one_type)] = Field(
        default=None, description="What a vector is made of; with encoding_format=base64, its bytes."
    )
    dimensions: StrictInt | None = Field(default=None, description="Keep the first so many (matryoshka).")
    normalized: StrictBool | None = Field(default=None, description="false: do not normalise a shortened vector again.")
    task: str | None = Field(default=None, description=f"Which prompt: {', '.join(TASKS)}.")
    input_type: str | None = Field(default=None, description=f"The same: {', '.join(INPUT_TYPES)}.")
    prompt_name: str | None = Field(default=None, description="The same: the name of one of the model's prompts.")
    prompt: Annotated[str, Field(max_length=10_000)] | None = Field(
        default=None, description="What is put before every text."
    )
    on_error: Literal["request", "item"] = Field(
        default="request", description="item: what cannot be embedded gets an error in its place in the list."
    )
    truncate: Literal[True] | None = Field(default=None, description="Texts are always cut to the model's length.")
    late_chunking: Literal[False] | None = None
    return_multivector: Literal[False] | None = None
    user: str | None = Field(default=None, description="Taken and not used.")


class CohereText(Config):
    """A text of an input."""

    type: Literal["text"]
    text: str = Field(min_length=1)


class ImageUrl(Config):
    """Where a picture is."""

    url: str = Field(description="A data URI; an https URL where it is allowed.")
    detail: str | None = Field(default=None, description="Taken and not used.")


class CohereImage(Config):
    """A picture of an input."""

    type: Literal["image_url"]
    image_url: ImageUrl


class CohereInput(Config):
    """An input of several parts: texts, and a picture."""

    content: list[Annotated[CohereText | CohereImage, Field(discriminator="type")]] = Field(
        min_length=1, fail_fast=True
    )


class CohereBody(Config):
    """Cohere's request (version 2)."""

    model: str = ""
    input_type: Literal["search_query", "search_document", "classification", "clustering", "image"]
    texts: Texts | None = None
    images: Texts | None = None
    inputs: Annotated[list[CohereInput], FIRST_FAULT] | None = None
    embedding_types: Annotated[list[EmbeddingType], FIRST_FAULT] | None = None
    output_dimension: StrictInt | None = None
    truncate: Literal["END"] | None = Field(default=None, description="Texts are always cut at their end.")
    priority: StrictInt | None = Field(default=None, description="Taken and not used.")


class WeaviateBody(Config):
    """What Weaviate's module multi2vec-clip sends."""

    texts: Texts | None = None
    images: Texts | None = None


def prompt_of(body: EmbeddingsBody, prompts: Mapping[str, str]) -> str:
    """The text to put before every text, which the body says in one of four ways; none of them: nothing."""
    said = {
        name: value
        for name in ("task", "input_type", "prompt_name", "prompt")
        if (value := getattr(body, name)) is not None
    }
    if len(said) > 1:
        raise ApiError(400, f"{' and '.join(said)} say the same; send one of them.", param=next(iter(said)))
    if body.prompt is not None:
        return body.prompt
    for field, known in (
        ("task", TASKS),
        ("input_type", INPUT_TYPES),
        ("prompt_name", {name: name for name in prompts}),
    ):
        name = said.get(field)
        if name is not None:
            return prompts.get(_known(name, known, field), "")
    return ""


def number_and_base64(body: EmbeddingsBody) -> tuple[Number, bool]:
    """Of what a vector is made, and whether it comes as base64."""
    if body.embedding_type == "base64":
        if body.encoding_format == "float":
            raise ApiError(400, "encoding_format and embedding_type contradict each other; send one.")
        return "float", True
    return body.embedding_type or "float", body.encoding_format == "base64"


def _known(name: str, known: Mapping[str, str], field: str) -> str:
    if name not in known:
        raise ApiError(400, f"{field} {name[:60]!r} is not one of {', '.join(known)}.", param=field)
    return known[name]
