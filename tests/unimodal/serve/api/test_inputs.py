"""Which strings are texts, and which are images."""

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

URI = "the data URI"
CONTENT = [{"type": "image_url", "image_url": {"url": URI}}]
OPENAI_VECTOR = ("data", 0, "embedding")
# path, body, and where the image's vector is in the answer
DATA_URI_BODIES: Sequence[tuple[str, Any, Sequence[str | int]]] = [
    ("/v1/embeddings", {"input": URI}, OPENAI_VECTOR),
    ("/v1/embeddings", {"input": ["a hat", URI]}, ("data", 1, "embedding")),
    ("/v1/embeddings", {"input": URI, "modality": "image"}, OPENAI_VECTOR),
    (
        "/v1/embeddings",
        {"messages": [{"role": "user", "content": CONTENT}]},
        OPENAI_VECTOR,
    ),
    ("/embeddings", {"input": URI}, OPENAI_VECTOR),
    ("/v1/embed", {"images": [URI]}, ("embeddings", 0)),
    (
        "/v2/embed",
        {"images": [URI], "input_type": "image"},
        ("embeddings", "float", 0),
    ),
    ("/embed", {"inputs": URI}, (0,)),
    ("/vectorize", {"images": [URI]}, ("imageVectors", 0)),
]


def replace_uri(body: Any, uri: str) -> Any:
    """The body with a data URI in the place of URI."""
    if isinstance(body, dict):
        return {key: replace_uri(value, uri) for key, value in body.items()}
    if isinstance(body, list):
        return [replace_uri(value, uri) for value in body]
    return uri if body == URI else body


def test_one_bad_image_among_64_never_fails_its_neighbours(
    client: TestClient, served: Embedder, png: Png, data_uri: DataUri
) -> None:
    inputs = [{"image": data_uri(number)} for number in range(64)]
    inputs[17] = {"image": base64.b64encode(b"this is not an image").decode()}
    response = client.post("/v1/embeddings", json={"input": inputs, "on_error": "item"})
    data = response.json()["data"]
    assert [entry["index"] for entry in data] == list(range(64))
    assert [entry["index"] for entry in data if entry["object"] == "error"] == [17]
    assert data[17]["error"]["message"]
    rest = [number for number in range(64) if number != 17]
    vectors = np.array([data[number]["embedding"] for number in rest], np.float32)
    np.testing.assert_allclose(
        vectors, served.encode([png(number) for number in rest]), atol=1e-5
    )


def test_one_bad_image_is_named_by_its_number_by_default(
    client: TestClient, data_uri: DataUri
) -> None:
    inputs = [{"image": data_uri(number)} for number in range(5)] + [
        {"image": "data:image/png;base64,AAAA"}
    ]
    response = client.post("/v1/embeddings", json={"input": inputs})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("input 5:")
    assert response.json()["error"]["param"] == "input.5"


def test_half_a_surrogate_pair_is_refused(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post(
        "/v1/embeddings", content=b'{"input": ["\\ud800"]}', headers=headers
    )
    assert response.status_code == 400
    assert "Unicode" in response.json()["error"]["message"]


def test_more_inputs_than_the_server_takes_are_refused(serve: Serve) -> None:
    assert "3 inputs, and this server accepts 2" in refusal(
        serve(max_items=2), {"input": ["a", "b", "c"]}
    )


@pytest.mark.parametrize(("path", "body", "place"), DATA_URI_BODIES)
def test_an_image_as_a_data_uri_is_an_image_in_every_body(
    client: TestClient,
    served: Embedder,
    png: Png,
    path: str,
    body: Any,
    place: Sequence[str | int],
) -> None:
    plain = base64.encodebytes(png(3)).decode()  # in lines
    uri = f"data:image/png;charset=utf-8;base64,{plain}"
    response = client.post(path, json=replace_uri(body, uri))
    assert response.status_code == 200, response.text
    vector = response.json()
    for key in place:
        vector = vector[key]
    np.testing.assert_allclose([vector], served.encode(png(3)), atol=1e-5)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": [{"text": "data:image/png;base64,AAAA"}]}),
        ("/v1/embeddings", {"input": "data:image/png;base64,AAAA", "modality": "text"}),
        ("/v1/embed", {"texts": ["data:image/png;base64,AAAA"]}),
        (
            "/v2/embed",
            {"texts": ["data:image/png;base64,AAAA"], "input_type": "classification"},
        ),
        ("/vectorize", {"texts": ["data:;base64,AAAA"]}),
    ],
)
def test_a_data_uri_where_a_text_is_asked_for_is_refused(
    client: TestClient, path: str, body: Any
) -> None:
    assert "the text is an image as a data URI; send it as an image." in refusal(
        client, body, path
    )


def test_a_string_that_is_an_image_in_base64_is_an_image(
    client: TestClient, served: Embedder, png: Png
) -> None:
    plain = base64.b64encode(png(3)).decode()
    np.testing.assert_allclose(
        vectors_of(client, plain), served.encode(png(3)), atol=1e-5
    )
    for path, body in (
        ("/v1/embed", {"texts": [plain]}),
        ("/v1/embeddings", {"input": [{"text": plain}]}),
    ):
        assert "the text is an image in base64; send it as an image." in refusal(
            client, body, path
        )


def test_a_broken_image_as_a_data_uri_is_not_a_text(client: TestClient) -> None:
    answer = refusal(client, {"input": ["a", "data:image/jpeg;base64,AAAA"]})
    assert answer.startswith("input 1: ")
    assert "readable" in answer


def test_a_text_that_begins_like_a_data_uri_is_a_text(
    client: TestClient, served: Embedder
) -> None:
    text = "data: the new oil, they say"
    np.testing.assert_allclose(vectors_of(client, text), served.encode(text), atol=1e-5)


def test_blanks_alone_do_not_fail_their_neighbours(
    client: TestClient, served: Embedder
) -> None:
    vectors = vectors_of(client, ["red hat", "  \n"])
    np.testing.assert_allclose(vectors[:1], served.encode("red hat"), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors[1]), 1, atol=1e-5)
    assert "input 1" in refusal(client, {"input": ["a", ""]})
