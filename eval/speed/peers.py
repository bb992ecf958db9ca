"""The ten lines that one would write around a model: a plain endpoint of FastAPI, in its threads.

    python -m unimodal.eval.speed.peers sentences FOLDER PORT  sentence-transformers' encode
    python -m unimodal.eval.speed.peers images NAME FILE PORT  open_clip with the weights of a file

Both answer /v1/embeddings in OpenAI's shape: `input` is a list of texts, or of {"image": base64}.
"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[list[Any]], NDArray[np.float32]]


def plain_app(encode: Encode) -> Any:
    """The app: one call of the model per request."""
    from fastapi import Body, FastAPI

    app = FastAPI()

    @app.get("/health/ready")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/embeddings")
    def embeddings(
        input: list[Any] = Body(embed=True),  # noqa: B008  # the name in OpenAI's API
    ) -> dict[str, Any]:
        data = []
        for index, vector in enumerate(encode(input)):
            data.append({"index": index, "embedding": vector.tolist()})
        return {"object": "list", "data": data}

    return app


def sentences(folder: str) -> Encode:
    """sentence-transformers, on the CPU."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")

    def encode(texts: list[Any]) -> NDArray[np.float32]:
        vectors = model.encode(
            texts, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors)

    return encode


def images(name: str, weights: str) -> Encode:
    """open_clip, on the CPU; weights: a safetensors file of the whole model."""
    import open_clip
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    model, _, transform = open_clip.create_model_and_transforms(name)
    model.load_state_dict(load_file(weights))
    model.eval()

    def encode(items: list[Any]) -> NDArray[np.float32]:
        pixels = []
        for item in items:
            content = base64.b64decode(item["image"])
            pixels.append(transform(Image.open(io.BytesIO(content))))
        with torch.inference_mode():
            vectors = model.encode_image(torch.stack(pixels), normalize=True)
        return np.asarray(vectors.numpy())

    return encode


def run_plain(encode: Encode, port: int) -> None:
    """Serve until a signal arrives."""
    import uvicorn

    uvicorn.run(plain_app(encode), port=port, log_level="warning")


if __name__ == "__main__":
    kind, *arguments, port = sys.argv[1:]
    encode = sentences(*arguments) if kind == "sentences" else images(*arguments)
    run_plain(encode, int(port))
