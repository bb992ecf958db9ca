"""The routes that turn texts and images into vectors, under the names and in the shapes that
clients know.

    /v1/embeddings, /embeddings, /openai/...   OpenAI's and Azure's clients, Jina, Voyage, NVIDIA, vLLM, infinity
    /v1/embed, /v2/embed                       Cohere's two versions
    /embed                                     Hugging Face's text-embeddings-inference
    /vectorize                                 Weaviate's module multi2vec-clip

D dimensions.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from ...vectors import Vectors
from ..config import ServeConfig
from ..engine.engine import Embedded, Engine, Failed
from .bodies import (
    CohereBody,
    CohereV1Body,
    Content,
    ContentImage,
    ContentText,
    EmbeddingsBody,
    EmbeddingType,
    TeiBody,
    TextOrImage,
    WeaviateBody,
    number_and_base64,
    one_of,
    prompt_of,
)
from .body_route import BodyRoute
from .encodings import NUMBERS, shortened, wire
from .errors import ApiError, error_object
from .inputs import checked_dimensions, embed, stacked, tokens

ANSWER = {
    200: {
        "description": "One vector for each input, in order",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


def embeddings_router(engine: Engine, config: ServeConfig) -> APIRouter:
    """The routes that turn inputs into vectors, and those that describe the model."""
    router = APIRouter(tags=["embeddings"], route_class=BodyRoute)
    name = shown_name(config)
    started = int(time.time())
    names = {name, config.model, *config.names, ""}
    takes_any = not config.names or "*" in config.names
    told = " or ".join(map(repr, config.names))

    def check_model(asked: str) -> None:
        if not takes_any and asked not in names:
            raise ApiError(
                404,
                f"model {asked[:80]!r} is not served here; ask for {told} (a server "
                "without names takes any name).",
                code="model_not_found",
                param="model",
            )

    @router.post("/v1/embeddings", responses=ANSWER)  # type: ignore[arg-type]  # FastAPI's type for literals is too wide
    @router.post("/embeddings", include_in_schema=False)  # infinity's
    @router.post(
        "/openai/v1/embeddings", include_in_schema=False
    )  # Azure's, and with a deployment below
    @router.post("/openai/deployments/{deployment}/embeddings", include_in_schema=False)
    async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
        """Texts, images, or both at once, mixed in one list (OpenAI's, Jina's, Voyage's, vLLM's and
        others' shapes).
        """
        asked = body.model or request.scope.get("path_params", {}).get("deployment", "")
        check_model(asked)
        number, in_base64 = number_and_base64(body)
        key = "dimensions" if body.dimensions is not None else "output_dimension"
        dimensions = checked_dimensions(
            one_of(body, "dimensions", "output_dimension"), engine, key
        )
        check_length(body.truncate_prompt_tokens, "truncate_prompt_tokens", engine)
        results = await embed(
            engine,
            embeddings_inputs(body),
            request.scope,
            prompt=prompt_of(body, engine.embedder.prompts),
            on_error=body.on_error,
            strings=body.modality or "",
            whole=one_of(body, "truncate", "truncation") is False,
        )
        whole_length = engine.embedder.config.embed_dim
        vectors = shortened(
            stacked(results, whole_length), dimensions, body.normalized is not False
        )
        rows = iter(wire(vectors, number, in_base64))
        count = tokens(results)
        data = [
            {"object": "embedding", "index": index, "embedding": next(rows)}
            if isinstance(result, Embedded)
            else {"object": "error", "index": index, "error": error_of(result)}
            for index, result in enumerate(results)
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return json_response(
            {"object": "list", "data": data, "model": asked or name, "usage": usage}
        )

    @router.post("/v2/embed", responses=ANSWER)  # type: ignore[arg-type]  # as above
    async def cohere_embed(body: CohereBody, request: Request) -> Response:
        """Cohere's shape: several kinds of vectors of one list of inputs."""
        check_model(body.model)
        check_length(body.max_tokens, "max_tokens", engine)
        answer, vectors = await embed_for_cohere(
            body, engine, request, body.output_dimension
        )
        kinds = vectors_by_type(vectors, body.embedding_types or ["float"])
        return json_response(
            {**answer, "response_type": "embeddings_by_type", "embeddings": kinds}
        )

    @router.post("/v1/embed", responses=ANSWER)  # type: ignore[arg-type]  # as above
    async def cohere_embed_v1(body: CohereV1Body, request: Request) -> Response:
        """Cohere's first version, which its old client and LangChain's ask."""
        check_model(body.model)
        answer, vectors = await embed_for_cohere(body, engine, request, None)
        answer["meta"]["api_version"]["version"] = "1"
        if body.embedding_types:
            kinds = vectors_by_type(vectors, body.embedding_types)
            return json_response(
                {**answer, "response_type": "embeddings_by_type", "embeddings": kinds}
            )
        rows = wire(vectors, "float", in_base64=False)
        return json_response(
            {**answer, "response_type": "embeddings_floats", "embeddings": rows}
        )

    @router.post("/embed", responses=ANSWER)  # type: ignore[arg-type]  # as above
    async def tei_embed(body: TeiBody, request: Request) -> Response:
        """The shape of Hugging Face's text-embeddings-inference: a list of vectors and nothing
        else.
        """
        dimensions = checked_dimensions(body.dimensions, engine)
        prompt = prompt_of(body, engine.embedder.prompts)
        inputs = _as_list(body.inputs, "inputs")
        whole = body.truncate is False
        results = await embed(
            engine, inputs, request.scope, prompt=prompt, param="inputs", whole=whole
        )
        vectors = shortened(
            stacked(results, engine.embedder.config.embed_dim), dimensions
        )
        return json_response(wire(vectors, "float", in_base64=False))

    @router.post("/vectorize", responses=ANSWER)  # type: ignore[arg-type]  # as above
    async def vectorize(body: WeaviateBody, request: Request) -> Response:
        """What Weaviate's module multi2vec-clip asks of its inference container."""
        texts = [{"text": text} for text in body.texts or []]
        images = [{"image": image} for image in body.images or []]
        prompt = engine.embedder.prompts.get("default", "")
        results = await embed(engine, [*texts, *images], request.scope, prompt=prompt)
        rows = wire(
            stacked(results, engine.embedder.config.embed_dim), "float", in_base64=False
        )
        return json_response(
            {"textVectors": rows[: len(texts)], "imageVectors": rows[len(texts) :]}
        )

    def described() -> dict[str, Any]:
        embedder = engine.embedder
        return {
            "id": name,
            "object": "model",
            "created": started,
            "owned_by": "unimodal",
            "dimensions": embedder.config.embed_dim,
            "matryoshka_dims": list(embedder.config.matryoshka_dims),
            "modalities": sorted(embedder.modalities),
            "prompts": dict(embedder.prompts),
            "max_length": embedder.config.text.max_length
            if embedder.config.text
            else None,
            "embedding_types": [*NUMBERS, "base64"],
            "calibrated": embedder.calibration is not None,
        }

    @router.get("/v1/models")
    @router.get("/models", include_in_schema=False)  # infinity's
    async def models() -> Response:
        """The model that is served, in OpenAI's shape, with what it can do."""
        return json_response({"object": "list", "data": [described()]})

    @router.get("/v1/models/{model:path}")
    async def model(model: str) -> Response:
        """The same of one name."""
        check_model(model)
        return json_response(described())

    @router.get("/meta")
    async def meta() -> Response:
        """What Weaviate asks its inference container about itself."""
        return json_response(described())

    return router


def shown_name(config: ServeConfig) -> str:
    """What the model is called: the first of its names, or the end of its path: where it lies is
    nobody's business.
    """
    for name in config.names:
        if name != "*":
            return name
    kind, colon, rest = config.model.rpartition(":")
    return kind + colon + "/".join(Path(rest).parts[-2:]).lstrip("/")


def embeddings_inputs(body: EmbeddingsBody) -> Sequence[Any]:
    """What OpenAI's body, or vLLM's with messages, wants embedded."""
    if (body.input is None) is (body.messages is None):
        message = "send input, or messages, one of the two."
        raise ApiError(400, message, code="missing_required_parameter", param="input")
    if body.messages is None:
        return _as_list(body.input, "input")
    if not body.messages:
        raise ApiError(
            400, "messages is an empty list; send one or more.", param="messages"
        )
    return [
        _of_parts(
            [part for message in body.messages for part in message.content], "messages"
        )
    ]


async def embed_for_cohere(
    body: CohereBody | CohereV1Body,
    engine: Engine,
    request: Request,
    dimensions: int | None,
) -> tuple[dict[str, Any], Vectors]:
    """What both versions of Cohere's answers have in common, and the vectors (n, D)."""
    embedder = engine.embedder
    dimensions = checked_dimensions(dimensions, engine, "output_dimension")
    param, inputs = cohere_inputs(body)
    prompt = prompt_of(body, embedder.prompts)
    whole = body.truncate is False
    results = await embed(
        engine, inputs, request.scope, prompt=prompt, param=param, whole=whole
    )
    num_images = sum("image" in one for one in inputs)
    units = {
        "input_tokens": tokens(results),
        **({"images": num_images} if num_images else {}),
    }
    meta = {"api_version": {"version": "2"}, "billed_units": units}
    answer = {"id": str(uuid.uuid4()), "texts": body.texts or [], "meta": meta}
    return answer, shortened(stacked(results, embedder.config.embed_dim), dimensions)


def vectors_by_type(
    vectors: Vectors, kinds: Sequence[EmbeddingType]
) -> dict[str, list[Any]]:
    """(n, D) vectors in each of these types."""
    return {
        kind: wire(vectors, "float", True)
        if kind == "base64"
        else wire(vectors, kind, False)
        for kind in kinds
    }


def cohere_inputs(body: CohereBody | CohereV1Body) -> tuple[str, list[dict[str, Any]]]:
    """Which of Cohere's ways says what is to be embedded, and that as one list of inputs."""
    given = {
        name: value
        for name in ("texts", "images", "inputs")
        if (value := getattr(body, name, None))
    }
    if len(given) != 1:
        raise ApiError(
            400,
            f"send one of texts, images and inputs that is not empty, not {len(given)} of them.",
        )
    if "inputs" in given:
        contents: Sequence[Content] = given["inputs"]
        return "inputs", [
            _of_parts(one.content, f"inputs {number}")
            for number, one in enumerate(contents)
        ]
    ((key, values),) = given.items()
    return key, [{key.removesuffix("s"): value} for value in values]


def _of_parts(parts: Sequence[TextOrImage], place: str) -> dict[str, Any]:
    """An input that is made of texts and at most one image."""
    texts = [part.text for part in parts if isinstance(part, ContentText)]
    images = [part.image_url.url for part in parts if isinstance(part, ContentImage)]
    if len(images) > 1:
        raise ApiError(
            400,
            f"{place}: an input has one image at most, and this one {len(images)}; send two.",
        )
    return {
        **({"text": "\n".join(texts)} if texts else {}),
        **({"image": images[0]} if images else {}),
    }


def check_length(length: int | None, key: str, engine: Engine) -> None:
    """Raises ApiError for a number of tokens that would cut texts shorter than the model does; -1
    is the model's.
    """
    text = engine.embedder.config.text
    if (
        length is not None
        and length != -1
        and text is not None
        and length < text.max_length
    ):
        most = text.max_length
        raise ApiError(
            400,
            f"{key} {length} is less than the {most} tokens of the model; leave it out.",
            param=key,
        )


def error_of(failed: Failed) -> dict[str, Any]:
    """The error in the place of one item."""
    return error_object(ApiError(failed.status, failed.reason, code=failed.code))


def json_response(content: Any) -> Response:
    """JSON by orjson, which writes numpy's numbers without a Python object for each."""
    return Response(
        orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY),
        media_type="application/json",
    )


def _as_list(value: Any, key: str) -> Sequence[Any]:
    inputs = value if isinstance(value, list) else [value]
    if not inputs:
        raise ApiError(
            400,
            f"{key} is an empty list; send a text, an image, or a list of them.",
            param=key,
        )
    if isinstance(value, list) and (
        all(isinstance(one, int) for one in inputs) or isinstance(inputs[0], list)
    ):
        raise ApiError(
            400,
            f"{key} holds token ids, and those of another tokenizer would mean other words; send "
            "texts (LangChain: check_embedding_ctx_length=False).",
            param=key,
        )
    return inputs
