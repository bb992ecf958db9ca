"""A tiny model, served in this process."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from unimodal.embedder import Embedder
from unimodal.model import build_model
from unimodal.model_config import ModelConfig
from unimodal.preprocess.tokenizers import load_tokenizer
from unimodal.serve.app import create_app
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine

Serve = Callable[..., TestClient]


@pytest.fixture(scope="module")
def served(tiny: ModelConfig) -> Embedder:
    """The model behind `serve`; the same weights as `embedder`'s."""
    torch.manual_seed(0)
    assert tiny.text is not None
    return Embedder(
        build_model(tiny).eval(), load_tokenizer(tiny.text)[0], device="cpu"
    )


@pytest.fixture(scope="module")
def serve(served: Embedder) -> Iterator[Serve]:
    """A function from keys of ServeConfig to a client of a server with them."""
    with ExitStack() as running:

        def start(embedder: Embedder = served, **keys: Any) -> TestClient:
            config = ServeConfig.model_validate(
                {"model": "runs/shop/model", "names": ["tiny"], **keys}
            )
            app = create_app(Engine(embedder, config), config)
            return running.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start


@pytest.fixture(scope="module")
def client(serve: Serve) -> TestClient:
    """A server as it is by default."""
    return serve()


@pytest.fixture(scope="session")
def png() -> Callable[[int], bytes]:
    """A function from a number to a small image of its own."""

    def make(number: int) -> bytes:
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(
            0, 256, (30, 20 + number % 7, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def data_uri(png: Callable[[int], bytes]) -> Callable[[int], str]:
    """The same as a data URI."""
    return lambda number: (
        "data:image/png;base64," + base64.b64encode(png(number)).decode()
    )
