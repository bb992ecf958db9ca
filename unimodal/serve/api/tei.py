"""The body of Hugging Face's text-embeddings-inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field, StrictInt

from ..engine.engine import Engine
from .body import MATRYOSHKA, ONLY_THIS, TRUNCATE, Body, Inputs, Truncate
from .body_route import BodyRoute
from .embedding import as_list, check_dimensions, embed, stack_vectors
from .encodings import encode_wire, shorten
from .openai import SYNONYMS
from .prompts import prompt_of
from .responses import EMBEDDINGS, json_response


class TeiBody(Body):
    """The request of Hugging Face's text-embeddings-inference."""

    synonyms: ClassVar[Mapping[str, str]] = {**SYNONYMS, "input": "inputs"}

    inputs: Inputs
    prompt_name: str | None = Field(
        default=None, description="The name of one of the model's prompts."
    )
    dimensions: StrictInt | None = Field(default=None, description=MATRYOSHKA)
    truncate: Truncate | None = Field(default=None, description=TRUNCATE)
    truncation_direction: Literal["Right", "right"] | None = Field(
        default=None, description=ONLY_THIS
    )
    normalize: Literal[True] | None = Field(default=None, description=ONLY_THIS)


def tei_router(engine: Engine) -> APIRouter:
    """/embed."""
    router = APIRouter(tags=["embeddings"], route_class=BodyRoute)

    @router.post("/embed", responses=EMBEDDINGS)
    async def tei_embed(body: TeiBody, request: Request) -> Response:
        """Embed in the shape of text-embeddings-inference: the answer is a list of vectors."""
        embedder = engine.embedder
        dimensions = check_dimensions(body.dimensions, engine)
        prompt = prompt_of(body, embedder.prompts)
        outcomes = await embed(
            engine,
            as_list(body.inputs, "inputs"),
            request.scope,
            prompt=prompt,
            param="inputs",
            truncate=body.truncate is not False,
        )
        vectors = stack_vectors(outcomes, embedder.config.embed_dim)
        vectors = shorten(vectors, dimensions)
        return json_response(encode_wire(vectors, "float", in_base64=False))

    return router
