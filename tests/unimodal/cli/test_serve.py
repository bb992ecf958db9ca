"""`unimodal serve` as a user meets it."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from tests.conftest import Recipe
from unimodal.cli import app
from unimodal.embedder import load
from unimodal.formats import native
from unimodal.model import build_model
from unimodal.preprocess.tokenizers import load_tokenizer
from unimodal.search.stores.open import create_store
from unimodal.search.stores.schema import Schema
from unimodal.vectors import normalize

TITLES = ["red mug", "green chair", "blue lamp", "yellow shoe"]


@pytest.fixture(autouse=True)
def _own_loggers() -> Iterator[None]:
    """`serve` sends this package's lines to stderr for good; other tests look for
    them elsewhere.
    """
    loggers = [logging.getLogger(name) for name in ("unimodal", "uvicorn")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers = handlers
        logger.propagate = propagate
        logger.setLevel(level)


@pytest.fixture
def model(recipe: Recipe, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = recipe().model
    assert config is not None
    assert config.text is not None
    native.save(
        tmp_path / "shop" / "model", build_model(config), load_tokenizer(config.text)[0]
    )
    return tmp_path / "shop" / "model"


def _store(folder: Path, fingerprint: str, vectors: np.ndarray) -> Path:
    schema = Schema(
        dim=vectors.shape[1],
        fingerprint=fingerprint,
        vectors=("text",),
        fields={"title": "string"},
    )
    rows = pa.table(
        {
            "id": [str(number) for number in range(len(TITLES))],
            "vector_text": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.ravel()), vectors.shape[1]
            ),
            "title": TITLES,
        }
    )
    store = create_store(str(folder), schema)
    store.upsert(rows, fingerprint=fingerprint)
    store.close()
    return folder


def test_a_model_and_its_store_are_served_until_a_signal(
    model: Path, tmp_path: Path
) -> None:
    embedder = load(model, device="cpu")
    store = _store(
        tmp_path / "store", embedder.fingerprint(), embedder.encode_document(TITLES)
    )
    command = [
        sys.executable,
        "-m",
        "unimodal",
        "serve",
        str(model),
        "--store",
        str(store),
        "port=0",
        "log=json",
        "delay_seconds=0",
        "device=cpu",
        "proxies=[127.0.0.1]",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            line = next(line for line in server.stderr if "serving" in line)
            said = json.loads(line)["message"]
            address = said.split(" at ")[1].split(",")[0]
            assert said.startswith("serving shop/model at http://127.0.0.1:")
            body = {"model": "shop/model", "input": "red mug"}
            with httpx.Client(base_url=address, timeout=60) as client:
                found = client.post("/v1/embeddings", json=body).json()["data"][0][
                    "embedding"
                ]
                np.testing.assert_allclose(
                    [found], embedder.encode("red mug"), atol=1e-5
                )
                assert (
                    client.get(
                        "/v1/store", headers={"X-Forwarded-For": "203.0.113.7"}
                    ).json()["count"]
                    == 4
                )
                hits = client.get(
                    "/v1/search", params={"q": "blue lamp", "k": 2}
                ).json()["hits"]
                assert len(hits) == 2
                assert client.get("/").headers["content-type"].startswith("text/html")
        finally:
            server.send_signal(signal.SIGTERM)
        assert '"client":"203.0.113.7"' in server.stderr.read()
        assert server.wait(60) == 0


def test_a_store_of_another_models_vectors_is_refused_before_anything_is_served(
    model: Path, tmp_path: Path
) -> None:
    dim = load(model, device="cpu").config.embed_dim
    vectors = normalize(np.random.default_rng(0).standard_normal((len(TITLES), dim)))
    store = _store(tmp_path / "store", "0" * 32, vectors)
    result = CliRunner().invoke(
        app, ["serve", str(model), "--store", str(store), "port=0", "device=cpu"]
    )
    assert isinstance(result.exception, ValueError)
    assert "index again" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["porrt=80"], "did you mean 'port'?"),
        (["api_keys_file=nowhere"], "api_keys_file 'nowhere' does not exist"),
        (["host=256.1.1.1"], "cannot listen at 256.1.1.1"),
    ],
)
def test_what_is_wrong_with_the_command_is_said_before_the_model_is_loaded(
    words: list[str], said: str
) -> None:
    result = CliRunner().invoke(app, ["serve", "no-such-model", *words])
    assert isinstance(result.exception, ValueError)
    assert said in str(result.exception)
