"""Cohere's clients get Cohere's answers, those of both versions."""

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
    content_of,
    refusal,
    with_images,
)
from tests.unimodal.serve.conftest import Serve
from unimodal.embedder import Embedder
from unimodal.serve.api.encodings import quantize
from unimodal.vectors import normalize

COHERE: Sequence[dict[str, Any]] = [
    {
        "model": "embed-v4.0",
        "texts": ["hello", "bye"],
        "input_type": "classification",
        "embedding_types": ["float"],
    },
    {
        "model": "embed-v4.0",
        "input_type": "image",
        "embedding_types": ["float"],
        "images": [0],
    },
    {
        "model": "embed-v4.0",
        "input_type": "search_document",
        "output_dimension": 16,
        "truncate": "END",
        "embedding_types": ["float", "int8", "uint8", "binary", "ubinary", "base64"],
        "texts": ["hello"],
    },
    {
        "model": "embed-v4.0",
        "input_type": "search_document",
        "embedding_types": ["float"],
        "inputs": [
            {
                "content": [
                    {"type": "text", "text": "hello"},
                    {"type": "image_url", "image_url": {"url": 1}},
                ]
            },
            {"content": [{"type": "text", "text": "hello"}]},
        ],
    },
]
COHERE_V1: Sequence[tuple[dict[str, Any], str]] = [
    (
        {
            "model": "embed-english-v3.0",
            "texts": ["hello", "bye"],
            "input_type": "search_document",
        },
        "embeddings_floats",
    ),
    (
        {"model": "embed-english-light-v2.0", "texts": ["hello"], "truncate": "END"},
        "embeddings_floats",
    ),
    # LangChain's: embedding_types is always there, truncate is null unless it was set.
    (
        {
            "model": "embed-english-v3.0",
            "texts": ["hello"],
            "input_type": "search_query",
            "embedding_types": ["float"],
            "truncate": None,
        },
        "embeddings_by_type",
    ),
    (
        {
            "model": "embed-english-v3.0",
            "texts": ["hello"],
            "input_type": "clustering",
            "truncate": "NONE",
            "embedding_types": ["int8", "ubinary"],
        },
        "embeddings_by_type",
    ),
]


@pytest.mark.parametrize("body", COHERE)
def test_coheres_bodies_get_coheres_answers(
    serve: Serve, data_uri: DataUri, body: dict[str, Any]
) -> None:
    response = serve(names=["*"]).post("/v2/embed", json=with_images(body, data_uri))
    assert response.status_code == 200, response.text
    answer = response.json()
    count = len(body.get("texts") or body.get("images") or body["inputs"])
    assert {"id", "embeddings", "texts", "meta"} <= answer.keys()
    assert answer["texts"] == body.get("texts", [])
    assert answer["meta"]["api_version"]["version"] == "2"
    assert answer["meta"]["billed_units"]["input_tokens"] > 0
    assert list(answer["embeddings"]) == body["embedding_types"]
    assert all(len(rows) == count for rows in answer["embeddings"].values())


@pytest.mark.parametrize(("body", "kind"), COHERE_V1)
def test_coheres_old_bodies_get_coheres_old_answers(
    serve: Serve, served: Embedder, body: dict[str, Any], kind: str
) -> None:
    response = serve(names=[]).post("/v1/embed", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["response_type"] == kind
    assert answer["meta"]["api_version"]["version"] == "1"
    assert answer["texts"] == body["texts"]
    if kind == "embeddings_by_type":
        assert list(answer["embeddings"]) == body["embedding_types"]
    else:
        prompt = "document" if body.get("input_type") == "search_document" else ""
        expected = served.encode(body["texts"], prompt=served.prompts.get(prompt, ""))
        np.testing.assert_allclose(answer["embeddings"], expected, atol=1e-5)


def test_coheres_types_are_the_same_vector_and_have_its_prompt(
    client: TestClient, served: Embedder
) -> None:
    kinds = ["float", "base64", "int8", "uint8", "binary", "ubinary"]
    body = {
        "texts": ["red hat"],
        "input_type": "search_query",
        "embedding_types": kinds,
    }
    vectors = client.post("/v2/embed", json=body).json()["embeddings"]
    exact = served.encode_query(["red hat"])
    np.testing.assert_allclose(vectors["float"], exact, atol=1e-5)
    floats = np.array(vectors["float"], np.float32)
    assert base64.b64decode(vectors["base64"][0]) == floats.tobytes()
    for kind in kinds[2:]:
        expected = quantize(floats, kind)  # type: ignore[arg-type]  # one of Number's
        assert np.array_equal(vectors[kind], expected), kind


def test_coheres_fused_input_is_the_sum_of_text_and_image(
    client: TestClient, served: Embedder, png: Png, data_uri: DataUri
) -> None:
    content = [
        {"type": "text", "text": "red hat"},
        {"type": "image_url", "image_url": {"url": data_uri(3)}},
    ]
    body = {"inputs": [{"content": content}], "input_type": "clustering"}
    vectors = client.post("/v2/embed", json=body).json()["embeddings"]["float"]
    np.testing.assert_allclose(
        vectors, normalize(served.encode("red hat") + served.encode(png(3))), atol=1e-5
    )


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        ({"texts": ["a"]}, "input_type"),
        ({"input_type": "search_query"}, "one of texts, images and inputs"),
        (
            {"input_type": "search_query", "texts": ["a"], "images": ["b"]},
            "one of texts, images and inputs",
        ),
        (
            {"input_type": "search_query", "texts": ["a"], "truncate": "START"},
            "'START' is not known",
        ),
        (
            {"input_type": "search_query", "texts": ["a"], "output_dimension": 99},
            "output_dimension 99",
        ),
        (
            {"input_type": "image", "images": ["data:image/png;base64,AAAA"]},
            "images 0:",
        ),
        (
            content_of({"type": "text", "text": "a"}, {"type": "image_url"}),
            "image_url is missing; send it.",
        ),
        (
            content_of(
                {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}
            ),
            "url is missing; send it.",
        ),
        (
            content_of({"type": "text", "text": "a"}, {"type": "text", "text": ""}),
            "content.1.text.text",
        ),
        (
            content_of({"type": "text", "text": "a", "image_url": {"url": ""}}),
            "unknown key 'image_url'",
        ),
        (
            content_of(*2 * [{"type": "image_url", "image_url": {"url": "AAAA"}}]),
            "one image at most",
        ),
    ],
)
def test_what_cohere_cannot_have_is_told_in_coheres_shape(
    client: TestClient, body: Any, fragment: str
) -> None:
    assert fragment in refusal(client, body, "/v2/embed")
