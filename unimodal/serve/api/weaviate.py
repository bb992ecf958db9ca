"""The body of Weaviate's module multi2vec-clip."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ..engine.engine import Engine
from .body import Body, Texts
from .body_route import BodyRoute
from .embedding import embed, stack_vectors
from .encodings import encode_wire
from .responses import EMBEDDINGS, json_response


class WeaviateBody(Body):
    """The request of Weaviate's module multi2vec-clip."""

    texts: Texts | None = None
    images: Texts | None = None


def weaviate_router(engine: Engine) -> APIRouter:
    """/vectorize."""
    router = APIRouter(tags=["embeddings"], route_class=BodyRoute)

    @router.post("/vectorize", responses=EMBEDDINGS)
    async def vectorize(body: WeaviateBody, request: Request) -> Response:
        """Embed texts and images for Weaviate's module multi2vec-clip."""
        embedder = engine.embedder
        texts = [{"text": text} for text in body.texts or []]
        images = [{"image": image} for image in body.images or []]
        prompt = embedder.prompts.get("default", "")
        outcomes = await embed(engine, [*texts, *images], request.scope, prompt=prompt)
        vectors = stack_vectors(outcomes, embedder.config.embed_dim)
        encoded = encode_wire(vectors, "float", in_base64=False)
        return json_response(
            {
                "textVectors": encoded[: len(texts)],
                "imageVectors": encoded[len(texts) :],
            }
        )

    return router
