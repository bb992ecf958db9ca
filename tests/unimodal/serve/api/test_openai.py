from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.unimodal.serve.api.asking import (
    DataUri,
    Png,
    refusal,
    vectors_of,
)
from tests.unimodal.serve.conftest import Serve
from unimodal.embedder import Embedder
from unimodal.model import build_model
from unimodal.model_config import ModelConfig
from unimodal.serve.api.encodings import quantize
from unimodal.vectors import normalize


def test_texts_and_images_in_one_list_get_the_embedders_vectors(
    client: TestClient, served: Embedder, texts: list[str], png: Png, data_uri: DataUri
) -> None:
    plain = base64.b64encode(png(2)).decode()
    inputs = [
        texts[0],
        {"text": texts[1]},
        {"image": data_uri(1)},
        {"image": plain},
        texts[2],
        {"text": texts[3], "image": data_uri(4)},
        {"text": texts[4], "image": data_uri(5), "weight": 0.8},
    ]
    expected = served.encode(
        [
            texts[0],
            texts[1],
            png(1),
            png(2),
            texts[2],
            {"text": texts[3], "image": png(4)},
            {"text": texts[4], "image": png(5), "weight": 0.8},
        ]
    )
    np.testing.assert_allclose(vectors_of(client, inputs), expected, atol=1e-5)


def test_a_single_text_and_a_single_object_need_no_list(
    client: TestClient, served: Embedder
) -> None:
    np.testing.assert_allclose(
        vectors_of(client, "red hat"), served.encode("red hat"), atol=1e-5
    )
    np.testing.assert_allclose(
        vectors_of(client, {"text": "red hat"}), served.encode("red hat"), atol=1e-5
    )


def test_base64_holds_the_bytes_of_the_floats(
    client: TestClient, texts: list[str]
) -> None:
    body = {"input": texts, "encoding_format": "base64"}
    coded = [
        entry["embedding"]
        for entry in client.post("/v1/embeddings", json=body).json()["data"]
    ]
    decoded = np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in coded])
    floats = client.post("/v1/embeddings", json={"input": texts}).json()["data"]
    assert np.array_equal(
        decoded, np.array([entry["embedding"] for entry in floats], np.float32)
    )


def test_dimensions_cut_and_normalise_as_the_embedder_does(
    client: TestClient, served: Embedder, texts: list[str]
) -> None:
    expected = served.encode(texts, truncate_dim=8)
    np.testing.assert_allclose(
        vectors_of(client, texts, dimensions=8), expected, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary"])
def test_a_type_of_jinas_may_be_asked_for_as_numbers_or_as_bytes(
    client: TestClient, texts: list[str], kind: Any
) -> None:
    expected = quantize(vectors_of(client, texts), kind)
    body = {"input": texts, "embedding_type": kind}
    numbers = [
        entry["embedding"]
        for entry in client.post("/v1/embeddings", json=body).json()["data"]
    ]
    assert np.array_equal(np.array(numbers), expected)
    body["encoding_format"] = "base64"
    coded = [
        entry["embedding"]
        for entry in client.post("/v1/embeddings", json=body).json()["data"]
    ]
    assert [base64.b64decode(text) for text in coded] == [
        row.tobytes() for row in expected
    ]


def test_usage_counts_tokens_and_an_images_patches_and_one(
    client: TestClient, served: Embedder, data_uri: DataUri
) -> None:
    assert served.tokenizer is not None
    words = len(served.tokenizer(["a red ball"])[0])
    entry = client.post("/v1/embeddings", json={"input": "a red ball"}).json()["usage"]
    both = client.post(
        "/v1/embeddings", json={"input": ["a red ball", {"image": data_uri(0)}]}
    ).json()["usage"]
    assert entry == {"prompt_tokens": words, "total_tokens": words}
    assert both["total_tokens"] > words + 1


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/v1/embeddings", {"truncate": "NONE"}, "input"),
        ("/v1/embeddings", {"truncation": False}, "input"),
        ("/v1/embed", {"truncate": "NONE"}, "texts"),
        ("/v2/embed", {"truncate": "NONE", "input_type": "classification"}, "texts"),
        ("/embed", {"truncate": False}, "inputs"),
    ],
)
def test_a_text_that_may_not_be_cut_is_refused_where_it_would_be(
    client: TestClient, served: Embedder, path: str, body: dict[str, Any], key: str
) -> None:
    assert served.config.text is not None
    long = "red hat " * served.config.text.max_length
    assert client.post(path, json={**body, key: ["red hat"]}).status_code == 200
    message = refusal(client, {**body, key: ["red hat", long]}, path)
    assert (
        f"{key} 1: the text is longer than the {served.config.text.max_length} tokens "
        "that the model reads" in message
    )


def test_dimensions_of_a_model_that_was_not_trained_to_be_cut_are_refused(
    serve: Serve, tiny: ModelConfig, served: Embedder
) -> None:
    plain = Embedder(
        build_model(tiny.model_copy(update={"matryoshka_dims": ()})),
        served.tokenizer,
        device="cpu",
    )
    client = serve(plain)
    message = refusal(client, {"input": "a", "dimensions": 8})
    assert "dimensions 8:" in message
    assert "matryoshka_dims" in message
    assert (
        client.post("/v1/embeddings", json={"input": "a", "dimensions": 24}).status_code
        == 200
    )
    body = {"texts": ["a"], "input_type": "classification", "output_dimension": 8}
    assert "output_dimension 8: this model was not trained" in refusal(
        client, body, "/v2/embed"
    )
    assert "dimensions 8: this model was not trained" in refusal(
        client, {"inputs": "a", "dimensions": 8}, "/embed"
    )


def test_vllms_messages_are_one_input(
    client: TestClient, served: Embedder, png: Png, data_uri: DataUri
) -> None:
    image = {"type": "image_url", "image_url": {"url": data_uri(3)}}
    messages = [
        {"role": "user", "content": [image, {"type": "text", "text": "red hat"}]}
    ]
    data = client.post("/v1/embeddings", json={"messages": messages}).json()["data"]
    expected = normalize(served.encode("red hat") + served.encode(png(3)))
    np.testing.assert_allclose(
        [entry["embedding"] for entry in data], expected, atol=1e-5
    )
    data = client.post(
        "/v1/embeddings", json={"messages": [{"role": "user", "content": "red hat"}]}
    ).json()["data"]
    np.testing.assert_allclose(
        [entry["embedding"] for entry in data], served.encode("red hat"), atol=1e-5
    )


# Requests as the providers' own documentation and clients write them, but for images, which are
# small ones of ours.
JINA: Sequence[dict[str, Any]] = [
    {
        "model": "jina-embeddings-v3",
        "task": "text-matching",
        "late_chunking": False,
        "dimensions": 16,
        "embedding_type": "float",
        "input": [
            "Organic skincare for sensitive skin with aloe vera and chamomile",
            "Bio-Hautpflege für empfindliche Haut",
            "针对敏感肌专门设计",
        ],
    },
    {
        "model": "jina-clip-v2",
        "normalized": True,
        "embedding_type": ["float"],
        "input": [
            {"text": "A beautiful sunset over the beach"},
            {"text": "浜辺に沈む夕日"},
            {"image": 0},
            {"image": 1},
        ],
    },
    {"model": "jina-embeddings-v3", "input": ["Hello, world!"]},
    {
        "model": "jina-clip-v2",
        "dimensions": 16,
        "task": "retrieval.query",
        "input": [{"text": "A ball"}, {"image": 2}],
    },
    {
        "model": "jina-embeddings-v4",
        "task": "retrieval.passage",
        "truncate": True,
        "input": [{"text": "A ball"}],
    },
]


@pytest.mark.parametrize("body", JINA)
def test_jinas_bodies_get_jinas_answers(
    serve: Serve, data_uri: DataUri, body: dict[str, Any]
) -> None:
    inputs = [
        {"image": data_uri(entry["image"])}
        if isinstance(entry, dict) and "image" in entry
        else entry
        for entry in body["input"]
    ]
    answer = (
        serve(names=["*"]).post("/v1/embeddings", json={**body, "input": inputs}).json()
    )
    assert answer.keys() == {"model", "object", "usage", "data"}
    assert answer["model"] == body["model"]
    assert answer["usage"].keys() == {"total_tokens", "prompt_tokens"}
    assert [(entry["object"], entry["index"]) for entry in answer["data"]] == [
        ("embedding", n) for n in range(len(inputs))
    ]
    assert all(
        len(entry["embedding"]) == body.get("dimensions", 24)
        for entry in answer["data"]
    )
