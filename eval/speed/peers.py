"""The loop that one writes around a model in ten lines: FastAPI's plain endpoint, which runs in its
pool of threads.

    python -m unimodal.eval.speed.peers sentences FOLDER PORT    sentence-transformers' encode of a text
    python -m unimodal.eval.speed.peers images NAME FILE PORT  open_clip's transform and model, weights of a file

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
    """The app: a request is one call of the model, whatever else is asked meanwhile."""
    from fastapi import Body, FastAPI

    app = FastAPI()

    @app.get("/health/ready")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/embeddings")
    def embeddings(input: list[Any] = Body(embed=True)) -> dict[str, Any]:  # noqa: B008  # as OpenAI calls it
        return {
            "object": "list",
            "data": [
                {"index": n, "embedding": v.tolist()}
                for n, v in enumerate(encode(input))
            ],
        }

    return app


def sentences(folder: str) -> Encode:
    """sentence-transformers, on the CPU."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    return lambda texts: np.asarray(
        model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    )


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
        opened = [
            Image.open(io.BytesIO(base64.b64decode(item["image"]))) for item in items
        ]
        with torch.inference_mode():
            vectors = model.encode_image(
                torch.stack([transform(one) for one in opened]), normalize=True
            )
        return np.asarray(vectors.numpy())

    return encode


def run_plain(encode: Encode, port: int) -> None:
    """Serve until a signal comes."""
    import uvicorn

    uvicorn.run(plain_app(encode), port=port, log_level="warning")


if __name__ == "__main__":
    kind, *where, port = sys.argv[1:]
    run_plain(sentences(*where) if kind == "sentences" else images(*where), int(port))
