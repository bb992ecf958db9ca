"""Keys that are null, unknown, or would change a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from tests.unimodal.serve.api.asking import (
    refusal,
)
from tests.unimodal.serve.conftest import Serve
from unimodal.serve.api.body import Body
from unimodal.serve.api.cohere import CohereBody, CohereV1Body
from unimodal.serve.api.openai import EmbeddingsBody
from unimodal.serve.api.tei import TeiBody
from unimodal.serve.api.weaviate import WeaviateBody

NULL: dict[str, tuple[str, Any, type[Body]]] = {
    "/v1/embeddings": ("input", "a", EmbeddingsBody),
    "/v1/embed": ("texts", ["a"], CohereV1Body),
    "/v2/embed": ("texts", ["a"], CohereBody),
    "/embed": ("inputs", "a", TeiBody),
    "/vectorize": ("texts", ["a"], WeaviateBody),
}
# Extra keys as the clients of these services send them.
EXTRAS: Sequence[dict[str, Any]] = [
    {
        "input_type": None,
        "truncation": True,
        "output_dimension": None,
        "output_dtype": "float",
    },  # Voyage
    {
        "input_type": "document",
        "truncation": True,
        "output_dimension": 16,
        "output_dtype": "int8",
    },
    {
        "output_dtype": "float",
        "output_dimension": 16,
        "metadata": {"run": "a"},
    },  # Mistral
    {
        "input_type": "query",
        "truncate": "END",
        "encoding_format": "float",
        "user": "u",
    },  # NVIDIA
    {"input_type": "passage", "truncate": "NONE", "modality": "text"},
    {
        "truncate_prompt_tokens": -1,
        "add_special_tokens": True,
        "priority": 0,
        "normalize": None,
    },  # vLLM
    {
        "embed_dtype": "float32",
        "endianness": "native",
        "use_activation": True,
        "request_id": "r",
    },
    {
        "late_chunking": False,
        "normalized": True,
        "embedding_type": "float",
        "truncate": True,
    },  # Jina
    {"modality": "text", "encoding_format": "float"},  # infinity
]


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        ({"input": []}, "empty list"),
        ({}, "input or messages"),
        ({"input": "a", "dimension": 4}, "did you mean 'dimensions'?"),
        ({"input": "a", "dimensions": 25}, "not between 1 and embed_dim 24"),
        ({"input": "a", "dimensions": 0}, "not between 1 and embed_dim 24"),
        ({"input": "a", "encoding_format": "hex"}, "'hex'"),
        (
            {"input": "a", "embedding_type": ["float", "binary"]},
            "2 types",
        ),
        (
            {"input": "a", "task": "translation"},
            "query, document, retrieval.query",
        ),
        ({"input": "a", "prompt_name": "poem"}, "query, document"),
        (
            {"input": "a", "late_chunking": True},
            "late_chunking is true; it may be false, or be left out.",
        ),
        (
            {"input": "a", "encoding_format": "int8"},
            "'int8' is an embedding_type",
        ),
        ({"input": 5}, "input 0: a number is neither a text nor"),
        ({"input": True}, "input 0: a truth value"),
        ({"input": [1, 2, 3]}, "token ids"),
        ({"input": [[1, 2], [3]]}, "token ids"),
        ({"input": ["a", None]}, "input 1: a null"),
        ({"input": ["a", ""]}, "input 1"),
        ({"input": [{"txt": "a"}]}, "did you mean 'text'?"),
        ({"input": [{"image": 7}]}, "input 0: 'image' is a number"),
        (
            {"input": [{"text": "a", "image": "b", "weight": 2}]},
            "'weight' is not a number between 0",
        ),
        ({"input": [{"weight": 0.5}]}, "needs 'text', 'image' or both"),
        ({"input": [{"image": "https://example.org/a.jpg"}]}, "input 0"),
        ([1], "not a JSON object"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_sentence(
    client: TestClient, body: Any, fragment: str
) -> None:
    assert fragment in refusal(client, body)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CohereBody, {"texts": [0] * 10_000}),
        (CohereBody, {"texts": ["a"], "embedding_types": [0] * 10_000}),
        (CohereBody, {"inputs": [0] * 10_000}),
        (CohereBody, {"inputs": [{"content": [0] * 10_000}]}),
        (WeaviateBody, {"images": [0] * 10_000}),
    ],
)
def test_a_body_full_of_faults_ends_at_the_first(kind: type[Body], body: Any) -> None:
    with pytest.raises(ValidationError) as faults:
        kind.model_validate(body)
    assert faults.value.error_count() < 10


def test_of_a_huge_value_a_little_is_told(client: TestClient) -> None:
    huge = "k" * 1_000_000
    for body in (
        {"input": {huge: 0}},
        {"input": "a", "dimensions": huge},
        {"input": "a", "task": huge},
    ):
        assert len(refusal(client, body)) < 400


@pytest.mark.parametrize("path", NULL)
def test_a_key_that_is_null_is_absent(client: TestClient, path: str) -> None:
    key, value, kind = NULL[path]
    body: dict[str, Any] = (
        {"input_type": "classification"} if path == "/v2/embed" else {}
    )
    plain = client.post(path, json={**body, key: value})
    nulls = {name: None for name in kind.model_fields if name not in (key, *body)}
    response = client.post(path, json={**nulls, **body, key: value})
    assert response.status_code == 200, response.text
    answered = response.json()
    expected = plain.json()
    for answer in (answered, expected):
        if isinstance(answer, dict):
            answer.pop("id", None)  # Cohere's, of the request
    assert answered == expected
    assert "X-Unimodal-Ignored" not in response.headers


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize(
    "path", ["/v1/embeddings", "/embeddings", "/openai/deployments/shop/embeddings"]
)
def test_extra_keys_of_other_services_are_taken(
    client: TestClient, path: str, extra: dict[str, Any]
) -> None:
    body = {"model": "tiny", "input": ["red hat", "blue hat"], **extra}
    response = client.post(path, json=body, params={"api-version": "2024-10-21"})
    assert response.status_code == 200, response.text
    assert "X-Unimodal-Ignored" not in response.headers
    length = extra.get("output_dimension") or 24
    assert [len(entry["embedding"]) for entry in response.json()["data"]] == [
        length
    ] * 2


@pytest.mark.parametrize(
    ("body", "fragment"),
    [
        (
            {"input": "a", "late_chunking": True},
            "late_chunking is true; it may be false",
        ),
        (
            {"input": "a", "add_special_tokens": False},
            "add_special_tokens is false; it may be true",
        ),
        ({"input": "a", "normalize": False}, "normalize is false; it may be true"),
        (
            {"input": "a", "embed_dtype": "float16"},
            "embed_dtype is 'float16'; it may be 'float32'",
        ),
        (
            {"input": "a", "endianness": "big"},
            "endianness is 'big'; it may be 'native' or 'little'",
        ),
        (
            {"input": "a", "truncate_prompt_tokens": 3},
            "truncate_prompt_tokens 3 is less than the",
        ),
        ({"input": "a", "chat_template": "x"}, "chat_template is 'x'"),
        (
            {"input": "a", "mm_processor_kwargs": {"size": 3}},
            "mm_processor_kwargs is an object",
        ),
        (
            {"input": "a", "truncate": "START"},
            "'START' is not known",
        ),
        (
            {"input": "a", "modality": "audio"},
            "modality is 'audio'; it may be 'text' or 'image'",
        ),
        ({"input": "a", "dimension": 8}, "did you mean 'dimensions'?"),
        ({"input": "a", "dim": 8}, "did you mean 'dimensions'?"),
        ({"input": "a", "image": "AAAA"}, "did you mean 'input'?"),
        ({"input": "a", "instruction": "find"}, "did you mean 'prompt'?"),
        (
            {"input": "a", "dimensions": 8, "output_dimension": 16},
            "dimensions and output_dimension",
        ),
        (
            {"input": "a", "messages": [{"role": "user", "content": "a"}]},
            "input or messages",
        ),
        ({"messages": []}, "messages is an empty list"),
        (
            {"messages": [{"role": "system", "content": "a"}]},
            "role is 'system'; it may be 'user'",
        ),
        ({"input": None}, "input or messages"),
        ({"input": "a", "dimensions": "8"}, "dimensions is '8'; send a whole number."),
        ({"input": "a", "user": 5}, "user is 5; send a text."),
        (
            {"input": "a", "normalized": [None]},
            "normalized is a list of 1; send true or false.",
        ),
    ],
)
def test_what_would_change_a_vector_is_not_ignored(
    client: TestClient, body: Any, fragment: str
) -> None:
    assert fragment in refusal(client, body)


def test_unknown_keys_are_ignored_and_named_unless_the_server_is_strict(
    client: TestClient, serve: Serve
) -> None:
    body = {
        "input": "a",
        "cache_salt": "x",
        "zusätzlich": 1,
        "of, two": 2,
        "nothing": None,
    }
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 200
    assert response.headers["X-Unimodal-Ignored"] == r"cache_salt, zus\xe4tzlich"
    strict = serve(strict=True)
    error = strict.post("/v1/embeddings", json=body)
    assert error.status_code == 400
    assert error.json()["error"]["code"] == "unknown_parameter"
    assert error.json()["error"]["message"].startswith("unknown key 'cache_salt'; ")
    assert (
        strict.post("/v1/embeddings", json={"input": "a", "nothing": None}).status_code
        == 200
    )


def test_a_body_of_unknown_keys_is_refused(client: TestClient) -> None:
    assert "25 unknown keys" in refusal(
        client, {"input": "a", **{f"key{number}": 0 for number in range(25)}}
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"input": "a", "model": "b"}, "model_not_found"),
        ({}, "missing_required_parameter"),
        ({"input": "a", "dimension": 1}, "unknown_parameter"),
        ({"input": "a", "user": 5}, "invalid_type"),
        ({"input": "a", "dimensions": 99}, "invalid_value"),
        ({"input": ""}, "invalid_value"),
    ],
)
def test_every_error_has_a_code(client: TestClient, body: Any, code: str) -> None:
    assert client.post("/v1/embeddings", json=body).json()["error"]["code"] == code
