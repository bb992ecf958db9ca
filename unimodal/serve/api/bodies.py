"""What clients may send to be embedded: OpenAI's, Jina's, Voyage's and vLLM's body, Cohere's,
TEI's, and Weaviate's.

A key that is null is absent. A key that nobody here knows is ignored and named in the answer's
header `X-Unimodal-Ignored`, or refused by a server with `strict: true`. What would change a vector
is never ignored: it is obeyed, or refused with the value that may be sent.
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
    StrictInt,
    WithJsonSchema,
    model_validator,
)

from ...config import nearest
from .encodings import Number
from .errors import ApiError, UnknownKeyError, shown

# A list ends at its first fault: one for each of its items would hold up the event loop, and only
# the first is told.
FIRST_FAULT = Field(fail_fast=True)
Texts = Annotated[list[str], FIRST_FAULT]
EmbeddingType = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
MOST_UNKNOWN = 20  # keys of one body; each is compared with all that there are
MISSPELT = 0.8  # difflib's ratio, from which an unknown key is taken for a misspelt one

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
# Checked by hand, item by item: a fault in one must be told with its number, or left to that item
# alone.
Inputs = Annotated[
    Any,
    WithJsonSchema(
        {"anyOf": [*ITEM["anyOf"], {"type": "array", "items": ITEM, "minItems": 1}]}
    ),
]
TASKS = {  # Jina's tasks -> the name of a prompt
    "retrieval.query": "query",
    "retrieval.passage": "document",
    "text-matching": "",
    "classification": "",
    "clustering": "",
    "separation": "",
    "none": "",
}
INPUT_TYPES = {  # Cohere's, Voyage's, NVIDIA's and others'
    "search_query": "query",
    "query": "query",
    "search_document": "document",
    "document": "document",
    "passage": "document",
    "classification": "",
    "clustering": "",
    "image": "",
}
# keys that elsewhere mean what has another name here: ignored, they would change what comes back
OTHER_WORDS = {
    "dim": "dimensions",
    "dims": "dimensions",
    "output_dim": "dimensions",
    "truncate_dim": "dimensions",
    "dtype": "embedding_type",
    "output_type": "embedding_type",
    "precision": "embedding_type",
    "quantization": "embedding_type",
    "image": "input",
    "images": "input",
    "text": "input",
    "texts": "input",
    "instruct": "prompt",
    "instruction": "prompt",
    "task_type": "task",
}


class Body(BaseModel):
    """A JSON object that a client sends: null is absent, and keys that are not known are kept in
    `model_extra`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    other_words: ClassVar[
        Mapping[str, str]
    ] = {}  # an unknown key -> the one that was meant
    ignores_unknown: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = {key: value for key, value in values.items() if value is not None}
        unknown = [key for key in given if key not in cls.model_fields]
        if len(unknown) > MOST_UNKNOWN:
            raise ValueError(
                f"the body has {len(unknown)} unknown keys, such as {unknown[0][:60]!r}; "
                "leave them out."
            )
        for key in unknown:
            meant = cls.other_words.get(key) or _misspelt(key, list(cls.model_fields))
            if meant:
                raise UnknownKeyError(
                    f"unknown key {key[:60]!r}; did you mean {meant!r}?"
                )
            if not cls.ignores_unknown:
                raise UnknownKeyError(
                    f"unknown key {key[:60]!r}; {nearest(key, cls.model_fields)}"
                )
        return given


class Part(Body):
    """What is inside of a body: an unknown key may be half of what was to be embedded, and is
    refused.
    """

    ignores_unknown: ClassVar[bool] = False


def _misspelt(key: str, known: Sequence[str]) -> str:
    close = get_close_matches(key[:80], known, n=1, cutoff=MISSPELT)
    return close[0] if close else ""


def _one_type(value: Any) -> Any:
    """Jina's clients may send a list of types; one of them can be served."""
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(
                f"{len(value)} types are asked for; ask for one, or use /v2/embed."
            )
        return value[0]
    return value


def _no_number(value: Any) -> Any:
    """Other services ask for the numbers of a vector where OpenAI's clients ask
    for its spelling.
    """
    if value in ("int8", "uint8", "binary", "ubinary"):
        raise ValueError(
            f"{value!r} is asked for as embedding_type; leave encoding_format out, or "
            "say float or base64."
        )
    return value


def _known_cut(value: Any) -> Any:
    """Where a text that is too long is cut: at its end (true, "END"), or not at all (false,
    "NONE").
    """
    word = value.upper() if isinstance(value, str) else value
    if word in (True, "END", "RIGHT"):
        return True
    if word in (False, "NONE"):
        return False
    raise ValueError(
        f"{shown(value)} is not known; texts are cut at their end (END, true), or "
        "refused (NONE, false)."
    )


# true: a text that is too long is cut at its end; false: it is refused.
Cut = Annotated[
    StrictBool,
    BeforeValidator(_known_cut),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["END", "NONE"]}]}),
]
CUT = (
    "Whether a text that is longer than the model's length is cut at its end (the default), "
    "or refused (false, NONE)."
)
NOT_USED = "Accepted and not used."
ONLY_THIS = "Another value would change the vectors, and is refused."


class ContentText(Part):
    """A text of an input."""

    type: Literal["text"]
    text: str = Field(min_length=1)


class ImageUrl(Part):
    """Where an image is."""

    url: str = Field(description="A data URI; an https URL where it is allowed.")
    detail: str | None = Field(default=None, description=NOT_USED)


class ContentImage(Part):
    """An image of an input."""

    type: Literal["image_url"]
    image_url: ImageUrl


TextOrImage = Annotated[ContentText | ContentImage, Field(discriminator="type")]


class Content(Part):
    """An input of several parts: texts, and an image."""

    content: list[TextOrImage] = Field(min_length=1, fail_fast=True)


def _parts_of_a_text(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Message(Part):
    """A message of vLLM's body, whose content is one input."""

    role: Literal["user"] = "user"
    content: Annotated[list[TextOrImage], BeforeValidator(_parts_of_a_text)] = Field(
        min_length=1, fail_fast=True
    )


class EmbeddingsBody(Body):
    """OpenAI's, Jina's, Voyage's, Mistral's, NVIDIA's, infinity's and vLLM's request: texts,
    images, and both.
    """

    other_words: ClassVar[Mapping[str, str]] = OTHER_WORDS

    model: str = ""
    input: Inputs = None
    messages: Annotated[list[Message], FIRST_FAULT] | None = Field(
        default=None,
        description="vLLM's: the texts and the image of all messages are one input.",
    )
    modality: Literal["text", "image"] | None = Field(
        default=None,
        description="infinity's: what the strings of `input` are. Default: texts, and data URIs and "
        "base64 are images.",
    )
    encoding_format: Annotated[
        Literal["float", "base64"] | None, BeforeValidator(_no_number)
    ] = None
    embedding_type: Annotated[EmbeddingType | None, BeforeValidator(_one_type)] = Field(
        default=None,
        description="What a vector is made of; with encoding_format=base64, its bytes.",
    )
    output_dtype: EmbeddingType | None = Field(
        default=None, description="The same for Voyage's and Mistral's clients."
    )
    dimensions: StrictInt | None = Field(
        default=None, description="Keep the first N dimensions (matryoshka)."
    )
    output_dimension: StrictInt | None = Field(default=None, description="The same.")
    normalized: StrictBool | None = Field(
        default=None, description="false: do not normalise a shortened vector again."
    )
    task: str | None = Field(
        default=None,
        description=f"Which prompt: {', '.join(TASKS)}, or a prompt's own name.",
    )
    input_type: str | None = Field(
        default=None, description=f"The same: {', '.join(INPUT_TYPES)}."
    )
    prompt_name: str | None = Field(
        default=None, description="The same: the name of one of the model's prompts."
    )
    prompt: Annotated[str, Field(max_length=10_000)] | None = Field(
        default=None, description="What is put before every text."
    )
    on_error: Literal["request", "item"] = Field(
        default="request",
        description="item: what cannot be embedded gets an error in its place in the list.",
    )
    truncate: Cut | None = Field(default=None, description=CUT)
    truncation: Cut | None = Field(
        default=None, description="The same for Voyage's clients."
    )
    truncate_prompt_tokens: StrictInt | None = Field(
        default=None, description="vLLM's: -1, or no less than the model's length."
    )
    late_chunking: Literal[False] | None = Field(default=None, description=ONLY_THIS)
    return_multivector: Literal[False] | None = Field(
        default=None, description=ONLY_THIS
    )
    add_special_tokens: Literal[True] | None = Field(
        default=None, description=ONLY_THIS
    )
    normalize: Literal[True] | None = Field(default=None, description=ONLY_THIS)
    use_activation: Literal[True] | None = Field(default=None, description=ONLY_THIS)
    embed_dtype: Literal["float32"] | None = Field(default=None, description=ONLY_THIS)
    endianness: Literal["native", "little"] | None = Field(
        default=None, description=ONLY_THIS
    )
    chat_template: Literal[""] | None = Field(default=None, description=ONLY_THIS)
    mm_processor_kwargs: Annotated[dict[str, Any], Field(max_length=0)] | None = Field(
        default=None, description=ONLY_THIS
    )
    truncation_side: Literal["right"] | None = Field(
        default=None, description=ONLY_THIS
    )
    user: str | None = Field(default=None, description=NOT_USED)
    priority: StrictInt | None = Field(default=None, description=NOT_USED)
    metadata: dict[str, Any] | None = Field(default=None, description=NOT_USED)
    request_id: str | None = Field(default=None, description=NOT_USED)


InputType = Annotated[
    str,
    Field(
        description=f"Which prompt: {', '.join(INPUT_TYPES)}, or a prompt's own name."
    ),
]


class CohereV1Body(Body):
    """Cohere's request, version 1: the old client's, and LangChain's."""

    other_words: ClassVar[Mapping[str, str]] = {
        "input": "texts",
        "dimensions": "output_dimension",
    }

    model: str = ""
    input_type: InputType | None = None
    texts: Texts | None = None
    images: Texts | None = None
    embedding_types: Annotated[list[EmbeddingType], FIRST_FAULT] | None = None
    truncate: Cut | None = Field(default=None, description=CUT)


class CohereBody(Body):
    """Cohere's request, version 2."""

    other_words: ClassVar[Mapping[str, str]] = {
        "input": "inputs",
        "dimensions": "output_dimension",
    }

    model: str = ""
    input_type: InputType
    texts: Texts | None = None
    images: Texts | None = None
    inputs: Annotated[list[Content], FIRST_FAULT] | None = None
    embedding_types: Annotated[list[EmbeddingType], FIRST_FAULT] | None = None
    output_dimension: StrictInt | None = None
    max_tokens: StrictInt | None = Field(
        default=None, description="No less than the model's length."
    )
    truncate: Cut | None = Field(default=None, description=CUT)
    priority: StrictInt | None = Field(default=None, description=NOT_USED)


class TeiBody(Body):
    """The request of Hugging Face's text-embeddings-inference."""

    other_words: ClassVar[Mapping[str, str]] = {**OTHER_WORDS, "input": "inputs"}

    inputs: Inputs
    prompt_name: str | None = Field(
        default=None, description="The name of one of the model's prompts."
    )
    dimensions: StrictInt | None = Field(
        default=None, description="Keep the first N dimensions (matryoshka)."
    )
    truncate: Cut | None = Field(default=None, description=CUT)
    truncation_direction: Literal["Right", "right"] | None = Field(
        default=None, description=ONLY_THIS
    )
    normalize: Literal[True] | None = Field(default=None, description=ONLY_THIS)


class WeaviateBody(Body):
    """What Weaviate's module multi2vec-clip sends."""

    texts: Texts | None = None
    images: Texts | None = None


def prompt_of(
    body: EmbeddingsBody | TeiBody | CohereBody | CohereV1Body,
    prompts: Mapping[str, str],
) -> str:
    """The text to put before every text, which a body says in one of four ways; else the model's
    default.

    A task or an input type that is the name of one of the model's prompts means this prompt.
    """
    ways = ("task", "input_type", "prompt_name", "prompt")
    said = {
        name: value for name in ways if (value := getattr(body, name, None)) is not None
    }
    if len(said) > 1:
        raise ApiError(
            400,
            f"{' and '.join(said)} say the same; send one of them.",
            param=next(iter(said)),
        )
    for way, name in said.items():
        if way == "prompt":
            return str(name)
        if name in prompts:
            return prompts[name]
        known = {"task": TASKS, "input_type": INPUT_TYPES}.get(way, {})
        if name not in known:
            names = (
                ", ".join(dict.fromkeys((*prompts, *known)))
                or "nothing: this model has no prompts"
            )
            raise ApiError(
                400, f"{way} {name[:60]!r} is not one of {names}.", param=way
            )
        return prompts.get(known[name], "")
    return prompts.get("default", "")


def number_and_base64(body: EmbeddingsBody) -> tuple[Number, bool]:
    """Of what a vector is made, and whether it comes as base64."""
    kind = one_of(body, "embedding_type", "output_dtype")
    if kind == "base64":
        if body.encoding_format == "float":
            raise ApiError(
                400,
                "encoding_format and embedding_type contradict each other; send one.",
            )
        return "float", True
    return kind or "float", body.encoding_format == "base64"


def one_of(body: Body, name: str, other: str) -> Any:
    """The value of a key that has two names; both may be sent if they agree."""
    values = [
        value
        for value in (getattr(body, name), getattr(body, other))
        if value is not None
    ]
    if len(values) == 2 and values[0] != values[1]:
        raise ApiError(
            400,
            f"{name} and {other} say the same and contradict each other; send one.",
            param=name,
        )
    return values[0] if values else None
