"""OpenAI's body, which Azure, Jina, Voyage, Mistral, NVIDIA, infinity and vLLM extend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, Field, StrictBool, StrictInt

from ..config import ServeConfig
from ..engine.engine import Engine
from ..engine.jobs import Embedded, Outcome
from .body import (
    FIRST_FAULT,
    MATRYOSHKA,
    NOT_USED,
    ONLY_THIS,
    TRUNCATE,
    Body,
    EmbeddingType,
    InnerBody,
    Inputs,
    Truncate,
    one_of,
)
from .body_route import BodyRoute
from .content import TextOrImage, join_content
from .embedding import (
    as_list,
    check_dimensions,
    check_length,
    count_tokens,
    embed,
    stack_vectors,
)
from .encodings import Number, encode_wire, shorten
from .error_answers import error_object
from .errors import ApiError
from .model_name import check_name, shown_name
from .prompts import INPUT_TYPES, TASKS, prompt_of
from .responses import EMBEDDINGS, json_response

# Keys that have another name here; ignored, they would change the answer.
SYNONYMS = {
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
NUMBER_TYPES = ("int8", "uint8", "binary", "ubinary")


def _single_type(value: Any) -> Any:
    """Jina's clients may send a list of types, of which one can be served."""
    if not isinstance(value, list):
        return value
    if len(value) != 1:
        raise ValueError(f"it lists {len(value)} types; send one, or use /v2/embed.")
    return value[0]


def _refuse_number_type(value: Any) -> Any:
    """Other services name a vector's numbers where OpenAI's clients name its encoding."""
    if value in NUMBER_TYPES:
        raise ValueError(
            f"{value!r} is an embedding_type; send it as embedding_type, and leave "
            "encoding_format out, or send float or base64."
        )
    return value


def _text_as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Message(InnerBody):
    """A message of vLLM's body, whose content is one input."""

    role: Literal["user"] = "user"
    content: Annotated[list[TextOrImage], BeforeValidator(_text_as_parts)] = Field(
        min_length=1, fail_fast=True
    )


class EmbeddingsBody(Body):
    """Texts, images, and both.

    The request of OpenAI's, Jina's, Voyage's, Mistral's, NVIDIA's, infinity's and vLLM's clients.
    """

    synonyms: ClassVar[Mapping[str, str]] = SYNONYMS

    model: str = ""
    input: Inputs = None
    messages: Annotated[list[Message], FIRST_FAULT] | None = Field(
        default=None,
        description="vLLM's: the texts and the image of all messages are one input.",
    )
    modality: Literal["text", "image"] | None = Field(
        default=None,
        description="infinity's: what the strings of `input` are. By default data URIs and base64 "
        "of images are images, and other strings are texts.",
    )
    encoding_format: Annotated[
        Literal["float", "base64"] | None, BeforeValidator(_refuse_number_type)
    ] = None
    embedding_type: Annotated[EmbeddingType | None, BeforeValidator(_single_type)] = (
        Field(
            default=None,
            description="The type of a vector's numbers; with encoding_format=base64, of its "
            "bytes.",
        )
    )
    output_dtype: EmbeddingType | None = Field(
        default=None, description="The same, for Voyage's and Mistral's clients."
    )
    dimensions: StrictInt | None = Field(default=None, description=MATRYOSHKA)
    output_dimension: StrictInt | None = Field(default=None, description="The same.")
    normalized: StrictBool | None = Field(
        default=None,
        description="false: do not normalize a vector again after it is shortened.",
    )
    task: str | None = Field(
        default=None,
        description=f"Which prompt to use: {', '.join(TASKS)}, or a prompt's own name.",
    )
    input_type: str | None = Field(
        default=None, description=f"The same: {', '.join(INPUT_TYPES)}."
    )
    prompt_name: str | None = Field(
        default=None, description="The same: the name of one of the model's prompts."
    )
    prompt: Annotated[str, Field(max_length=10_000)] | None = Field(
        default=None, description="A text that is put before every text."
    )
    on_error: Literal["request", "item"] = Field(
        default="request",
        description="item: an input that cannot be embedded gets an error in its place in the "
        "list.",
    )
    truncate: Truncate | None = Field(default=None, description=TRUNCATE)
    truncation: Truncate | None = Field(
        default=None, description="The same, for Voyage's clients."
    )
    truncate_prompt_tokens: StrictInt | None = Field(
        default=None, description="vLLM's: -1, or at least the model's length."
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


def openai_router(engine: Engine, config: ServeConfig) -> APIRouter:
    """/v1/embeddings and its other paths."""
    router = APIRouter(tags=["embeddings"], route_class=BodyRoute)

    @router.post("/v1/embeddings", responses=EMBEDDINGS)
    @router.post("/embeddings", include_in_schema=False)  # infinity's
    # Azure's, and with a deployment in the path
    @router.post("/openai/v1/embeddings", include_in_schema=False)
    @router.post("/openai/deployments/{deployment}/embeddings", include_in_schema=False)
    async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
        """Embed texts, images, or both, mixed in one list.

        Accepts the bodies of OpenAI, Jina, Voyage, vLLM and others.
        """
        deployment = request.scope.get("path_params", {}).get("deployment", "")
        name = body.model or deployment
        check_name(name, config)
        return await embed_body(body, name or shown_name(config), engine, request)

    return router


async def embed_body(
    body: EmbeddingsBody, name: str, engine: Engine, request: Request
) -> Response:
    """The answer to a body, for a model of this name."""
    embedder = engine.embedder
    number, in_base64 = number_and_base64(body)
    key = "dimensions" if body.dimensions is not None else "output_dimension"
    dimensions = one_of(body, "dimensions", "output_dimension")
    dimensions = check_dimensions(dimensions, engine, key)
    check_length(body.truncate_prompt_tokens, "truncate_prompt_tokens", engine)
    outcomes = await embed(
        engine,
        inputs_of(body),
        request.scope,
        prompt=prompt_of(body, embedder.prompts),
        on_error=body.on_error,
        strings=body.modality or "",
        truncate=one_of(body, "truncate", "truncation") is not False,
    )
    vectors = stack_vectors(outcomes, embedder.config.embed_dim)
    vectors = shorten(vectors, dimensions, body.normalized is not False)
    num_tokens = count_tokens(outcomes)
    return json_response(
        {
            "object": "list",
            "data": _entries(outcomes, encode_wire(vectors, number, in_base64)),
            "model": name,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }
    )


def _entries(
    outcomes: Sequence[Outcome], encoded: Sequence[Any]
) -> list[dict[str, Any]]:
    """The list of embeddings; an input that failed has its error in its place."""
    following: Iterator[Any] = iter(encoded)
    entries: list[dict[str, Any]] = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Embedded):
            vector = next(following)
            entries.append({"object": "embedding", "index": index, "embedding": vector})
            continue
        error = ApiError(outcome.status, outcome.reason, code=outcome.code)
        entries.append(
            {"object": "error", "index": index, "error": error_object(error)}
        )
    return entries


def inputs_of(body: EmbeddingsBody) -> Sequence[Any]:
    """The inputs of OpenAI's body, or the one input of vLLM's messages."""
    if (body.input is None) is (body.messages is None):
        raise ApiError(
            400,
            "send either input or messages.",
            code="missing_required_parameter",
            param="input",
        )
    if body.messages is None:
        return as_list(body.input, "input")
    if not body.messages:
        raise ApiError(
            400, "messages is an empty list; send one or more.", param="messages"
        )
    parts = [part for message in body.messages for part in message.content]
    return [join_content(parts, "messages")]


def number_and_base64(body: EmbeddingsBody) -> tuple[Number, bool]:
    """The type of a vector's numbers, and whether it is sent as base64."""
    kind = one_of(body, "embedding_type", "output_dtype")
    if kind != "base64":
        return kind or "float", body.encoding_format == "base64"
    if body.encoding_format == "float":
        raise ApiError(
            400,
            "encoding_format is float and embedding_type base64; send one of them.",
        )
    return "float", True
