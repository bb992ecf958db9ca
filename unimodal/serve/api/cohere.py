"""Cohere's bodies: version 2, and version 1 of its old client and of LangChain."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictInt

from ...vectors import Vectors
from ..config import ServeConfig
from ..engine.engine import Engine
from .body import FIRST_FAULT, NOT_USED, TRUNCATE, Body, EmbeddingType, Texts, Truncate
from .body_route import BodyRoute
from .content import Content, join_content
from .embedding import (
    check_dimensions,
    check_length,
    count_tokens,
    embed,
    stack_vectors,
)
from .encodings import encode_wire, shorten
from .errors import ApiError
from .model_name import check_name
from .prompts import INPUT_TYPES, prompt_of
from .responses import EMBEDDINGS, json_response

INPUT_KEYS = ("texts", "images", "inputs")

InputType = Annotated[
    str,
    Field(
        description=f"Which prompt to use: {', '.join(INPUT_TYPES)}, or a prompt's own name."
    ),
]


class CohereV1Body(Body):
    """Cohere's request, version 1: that of its old client, and of LangChain."""

    synonyms: ClassVar[Mapping[str, str]] = {
        "input": "texts",
        "dimensions": "output_dimension",
    }

    model: str = ""
    input_type: InputType | None = None
    texts: Texts | None = None
    images: Texts | None = None
    embedding_types: Annotated[list[EmbeddingType], FIRST_FAULT] | None = None
    truncate: Truncate | None = Field(default=None, description=TRUNCATE)


class CohereBody(Body):
    """Cohere's request, version 2."""

    synonyms: ClassVar[Mapping[str, str]] = {
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
        default=None, description="At least the model's length."
    )
    truncate: Truncate | None = Field(default=None, description=TRUNCATE)
    priority: StrictInt | None = Field(default=None, description=NOT_USED)


def cohere_router(engine: Engine, config: ServeConfig) -> APIRouter:
    """/v2/embed and /v1/embed."""
    router = APIRouter(tags=["embeddings"], route_class=BodyRoute)

    @router.post("/v2/embed", responses=EMBEDDINGS)
    async def cohere_embed(body: CohereBody, request: Request) -> Response:
        """Embed a list of inputs in Cohere's shape, as several types of vectors."""
        check_name(body.model, config)
        check_length(body.max_tokens, "max_tokens", engine)
        answer, vectors = await embed_body(body, engine, request, body.output_dimension)
        kinds = body.embedding_types or ["float"]
        return _answer_by_type(answer, vectors, kinds)

    @router.post("/v1/embed", responses=EMBEDDINGS)
    async def cohere_embed_v1(body: CohereV1Body, request: Request) -> Response:
        """Embed in the shape of Cohere's first version, for its old client and LangChain."""
        check_name(body.model, config)
        answer, vectors = await embed_body(body, engine, request, None)
        answer["meta"]["api_version"]["version"] = "1"
        if body.embedding_types:
            return _answer_by_type(answer, vectors, body.embedding_types)
        answer["response_type"] = "embeddings_floats"
        answer["embeddings"] = encode_wire(vectors, "float", in_base64=False)
        return json_response(answer)

    return router


async def embed_body(
    body: CohereBody | CohereV1Body,
    engine: Engine,
    request: Request,
    dimensions: int | None,
) -> tuple[dict[str, Any], Vectors]:
    """What the answers of both versions have in common, and the vectors (n, D)."""
    embedder = engine.embedder
    dimensions = check_dimensions(dimensions, engine, "output_dimension")
    key, inputs = inputs_of(body)
    outcomes = await embed(
        engine,
        inputs,
        request.scope,
        prompt=prompt_of(body, embedder.prompts),
        param=key,
        truncate=body.truncate is not False,
    )
    units = {"input_tokens": count_tokens(outcomes)}
    num_images = sum("image" in content for content in inputs)
    if num_images:
        units["images"] = num_images
    answer = {
        "id": str(uuid.uuid4()),
        "texts": body.texts or [],
        "meta": {"api_version": {"version": "2"}, "billed_units": units},
    }
    vectors = stack_vectors(outcomes, embedder.config.embed_dim)
    return answer, shorten(vectors, dimensions)


def inputs_of(body: CohereBody | CohereV1Body) -> tuple[str, list[dict[str, Any]]]:
    """The key of the body that holds its inputs, and the inputs."""
    values = {key: getattr(body, key, None) for key in INPUT_KEYS}
    present = {key: value for key, value in values.items() if value}
    if len(present) != 1:
        raise ApiError(
            400,
            "exactly one of texts, images and inputs must be a list that is not empty, but "
            f"{len(present)} are; send one of them.",
        )
    ((key, inputs),) = present.items()
    if key != "inputs":
        return key, [{key.removesuffix("s"): value} for value in inputs]
    contents: Sequence[Content] = inputs
    return key, [
        join_content(content.content, f"inputs {number}")
        for number, content in enumerate(contents)
    ]


def _answer_by_type(
    answer: dict[str, Any], vectors: Vectors, kinds: Sequence[EmbeddingType]
) -> Response:
    """The answer with (n, D) vectors in each of these types."""
    embeddings: dict[str, list[Any]] = {}
    for kind in kinds:
        if kind == "base64":
            embeddings[kind] = encode_wire(vectors, "float", in_base64=True)
        else:
            embeddings[kind] = encode_wire(vectors, kind, in_base64=False)
    answer["response_type"] = "embeddings_by_type"
    answer["embeddings"] = embeddings
    return json_response(answer)
