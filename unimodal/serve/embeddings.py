"""`/v1/embeddings` for OpenAI's and Jina's clients, `/v2/embed` for Cohere's, `/vectorize` for Weaviate.

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

from .bodies import (
    INPUT_TYPES,
    CohereBody,
    CohereImage,
    CohereInput,
    CohereText,
    EmbeddingsBody,
    WeaviateBody,
    number_and_base64,
    prompt_of,
)
from .body_route import BodyRoute
from .config import ServeConfig
from .encodings import NUMBERS, shortened, wire
from .engine import Embedded, Engine
from .errors import ApiError, error_object
from .inputs import checked_dimensions, embed, stacked, tokens

ANSWER = {
    200: {
        "description": "One vector for each input, in order",
        "content": {"application/json": {"schema": {"type": "object"}}},
    }
}


def embeddings_router(engine: Engine, config: ServeConfig) -> APIRouter:
    """The routes that turn inputs into vectors, and those that say of which model."""
    router = APIRouter(tags=["embeddings"], route_class=BodyRoute)
    name, started, embedder = shown_name(config), int(time.time()), engine.embedder
    names = {name, config.model, *config.names, ""}
    told = " or ".join(map(repr, dict.fromkeys((name, *config.names))))

    def check_model(asked: str) -> None:
        if asked not in names and "*" not in names:
            raise ApiError(
                404,
                f"model {asked[:80]!r} is not served here; ask for {told} (a server with names=[*] takes any name).",
                code="model_not_found",
                param="model",
            )

    @router.post("/v1/embeddings", responses=ANSWER)  # type: ignore[arg-type]  # FastAPI's type for literals is too wide
    async def embeddings(body: EmbeddingsBody, request: Request) -> Response:
        """Texts, pictures, or both at once, mixed in one list (OpenAI's and Jina's shapes)."""
        check_model(body.model)
        number, in_base64 = number_and_base64(body)
        dimensions = checked_dimensions(body.dimensions, engine)
        prompt = prompt_of(body, embedder.prompts)
        inputs = _as_list(body.input)
        results = await embed(engine, inputs, request.scope, prompt=prompt, on_error=body.on_error)
        vectors = shortened(stacked(results, embedder.config.embed_dim), dimensions, body.normalized is not False)
        rows = iter(wire(vectors, number, in_base64))
        count = tokens(results)
        return json_response({
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": next(rows)}
                if isinstance(result, Embedded)
                else {"object": "error", "index": index, "error": error_object(ApiError(result.status, result.reason))}
                for index, result in enumerate(results)
            ],
            "model": body.model or name,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        })  # fmt: skip

    @router.post("/v2/embed", responses=ANSWER)  # type: ignore[arg-type]  # as above
    async def cohere_embed(body: CohereBody, request: Request) -> Response:
        """Cohere's shape: several kinds of vectors of one list of inputs."""
        check_model(body.model)
        dimensions = checked_dimensions(body.output_dimension, engine, "output_dimension")
        param, inputs = cohere_inputs(body)
        prompt = embedder.prompts.get(INPUT_TYPES[body.input_type], "")
        results = await embed(engine, inputs, request.scope, prompt=prompt, param=param)
        vectors = shortened(stacked(results, embedder.config.embed_dim), dimensions)
        embeddings = {
            kind: wire(vectors, "float", True) if kind == "base64" else wire(vectors, kind, False)
            for kind in body.embedding_types or ["float"]
        }
        num_images = sum(isinstance(one, dict) and "image" in one for one in inputs)
        units = {"input_tokens": tokens(results), **({"images": num_images} if num_images else {})}
        return json_response({
            "id": str(uuid.uuid4()), "response_type": "embeddings_by_type", "embeddings": embeddings,
            "texts": body.texts or [], "meta": {"api_version": {"version": "2"}, "billed_units": units},
        })  # fmt: skip

    @router.post("/vectorize", responses=ANSWER)  # type: ignore[arg-type]  # as above
    async def vectorize(body: WeaviateBody, request: Request) -> Response:
        """What Weaviate's module multi2vec-clip asks of its inference container."""
        texts, images = body.texts or [], [{"image": image} for image in body.images or []]
        results = await embed(engine, [*texts, *images], request.scope)
        rows = wire(stacked(results, embedder.config.embed_dim), "float", in_base64=False)
        return json_response({"textVectors": rows[: len(texts)], "imageVectors": rows[len(texts) :]})

    def described() -> dict[str, Any]:
        return {
            "id": name, "object": "model", "created": started, "owned_by": "unimodal",
            "dimensions": embedder.config.embed_dim, "matryoshka_dims": list(embedder.config.matryoshka_dims),
            "modalities": sorted(embedder.modalities), "prompts": dict(embedder.prompts),
            "max_length": embedder.config.text.max_length if embedder.config.text else None,
            "embedding_types": [*NUMBERS, "base64"], "calibrated": embedder.calibration is not None,
        }  # fmt: skip

    @router.get("/v1/models")
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
    """What the model is called: the first of its names, or the end of its path: where it lies is nobody's business."""
    for name in config.names:
        if name != "*":
            return name
    kind, colon, rest = config.model.rpartition(":")
    return kind + colon + "/".join(Path(rest).parts[-2:]).lstrip("/")


def cohere_inputs(body: CohereBody) -> tuple[str, list[Any]]:
    """Which of Cohere's three ways says what is to be embedded, and that as one list of inputs."""
    given = [name for name in ("texts", "images", "inputs") if getattr(body, name)]
    if len(given) != 1:
        raise ApiError(400, f"send one of texts, images and inputs that is not empty, not {len(given)} of them.")
    if body.images:
        return "images", [{"image": image} for image in body.images]
    return given[0], list(body.texts or map(_cohere_input, range(len(body.inputs or ())), body.inputs or ()))


def _cohere_input(number: int, one: CohereInput) -> dict[str, Any]:
    texts = [part.text for part in one.content if isinstance(part, CohereText)]
    images = [part.image_url.url for part in one.content if isinstance(part, CohereImage)]
    if len(images) > 1:
        raise ApiError(400, f"inputs {number}: an input has one picture at most, and this one {len(images)}; send two.")
    return {**({"text": "\n".join(texts)} if texts else {}), **({"image": images[0]} if images else {})}


def json_response(content: Any) -> Response:
    """JSON by orjson, which writes numpy's numbers without a Python object for each."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def _as_list(value: Any) -> Sequence[Any]:
    inputs = value if isinstance(value, list) else [value]
    if not inputs:
        raise ApiError(400, "input is an empty list; send a text, a picture, or a list of them.", param="input")
    if isinstance(value, list) and (all(isinstance(one, int) for one in inputs) or isinstance(inputs[0], list)):
        raise ApiError(
            400,
            "input holds token ids, and those of another tokenizer would mean other words; send texts "
            "(LangChain: check_embedding_ctx_length=False).",
            param="input",
        )
    return inputs
