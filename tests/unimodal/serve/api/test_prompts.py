"""Which prompt is put before a text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from tests.unimodal.serve.api.asking import (
    refusal,
    vectors_of,
)
from tests.unimodal.serve.conftest import Serve
from unimodal.embedder import Embedder
from unimodal.model import build_model
from unimodal.model_config import ModelConfig
from unimodal.serve.api.prompts import TASKS


@pytest.mark.parametrize(
    "keys",
    [
        {"task": "retrieval.query"},
        {"input_type": "query"},
        {"input_type": "search_query"},
        {"prompt_name": "query"},
        {"prompt": "search query: "},
    ],
)
def test_a_task_puts_the_models_prompt_before_each_text(
    client: TestClient, served: Embedder, texts: list[str], keys: dict[str, str]
) -> None:
    np.testing.assert_allclose(
        vectors_of(client, texts, **keys), served.encode_query(texts), atol=1e-5
    )


def test_documents_and_pairs_have_their_own_prompts(
    client: TestClient, served: Embedder, texts: list[str]
) -> None:
    documents = vectors_of(client, texts, task="retrieval.passage")
    np.testing.assert_allclose(documents, served.encode_document(texts), atol=1e-5)
    np.testing.assert_allclose(
        vectors_of(client, texts, task="text-matching"), served.encode(texts), atol=1e-5
    )


def test_two_ways_to_say_the_prompt_are_refused(client: TestClient) -> None:
    body = {"input": "a", "task": "retrieval.query", "prompt": "x"}
    assert "task and prompt" in refusal(client, body)


def test_a_model_with_a_default_prompt_puts_it_before_texts_of_no_task(
    client: TestClient, served: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = vectors_of(client, ["a red ball"])
    monkeypatch.setitem(served.config.prompts, "default", "the old ")
    expected = served.encode(["a red ball"], prompt="the old ")
    np.testing.assert_allclose(vectors_of(client, ["a red ball"]), expected, atol=1e-5)
    answer = client.post("/vectorize", json={"texts": ["a red ball"]}).json()
    np.testing.assert_allclose(answer["textVectors"], expected, atol=1e-5)
    np.testing.assert_allclose(
        vectors_of(client, ["a red ball"], prompt=""), before, atol=1e-5
    )


def test_an_input_type_that_is_the_name_of_a_prompt_is_this_prompt(
    serve: Serve, tiny: ModelConfig, served: Embedder, texts: list[str]
) -> None:
    torch.manual_seed(0)
    prompts = {"query": "q: ", "document": "d: ", "clustering": "cluster: "}
    embedder = Embedder(
        build_model(tiny.model_copy(update={"prompts": prompts})),
        served.tokenizer,
        device="cpu",
    )
    client = serve(embedder)
    expected = embedder.encode(texts, prompt="cluster: ")
    for key in ("input_type", "task", "prompt_name"):
        np.testing.assert_allclose(
            vectors_of(client, texts, **{key: "clustering"}), expected, atol=1e-5
        )
    body = {"texts": texts, "input_type": "clustering"}
    np.testing.assert_allclose(
        client.post("/v1/embed", json=body).json()["embeddings"], expected, atol=1e-5
    )
    assert client.post("/v2/embed", json=body).status_code == 200
    assert "query, document, clustering" in refusal(
        client, {**body, "input_type": "poem"}, "/v2/embed"
    )


def test_every_task_of_jinas_names_a_prompt_or_none() -> None:
    assert set(TASKS.values()) == {"query", "document", ""}
