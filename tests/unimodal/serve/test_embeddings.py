from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from starlette.testclient import TestClient

from tests.unimodal.serve.conftest import Serve
from unimodal.config import Config
from unimodal.embedder import Embedder
from unimodal.serve.bodies import TASKS, CohereBody, WeaviateBody
from unimodal.serve.encodings import quantized
from unimodal.vectors import unit

Png = Callable[[int], bytes]
DataUri = Callable[[int], str]


def vectors_of(client: TestClient, value: Any, **more: Any) -> NDArray[np.float32]:
    response = client.post("/v1/embeddings", json={"input": value, **more})
    assert response.status_code == 200, response.text
    return np.array([one["embedding"] for one in response.json()["data"]], np.float32)


def refused(client: TestClient, body: Any, path: str = "/v1/embeddings", status: int = 400) -> str:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    answer = response.json()
    said = answer["error"]["message"] if path.startswith("/v1/") else answer.get("message") or answer.get("error")
    assert "\n" not in said
    assert said.endswith((".", "?"))
    return str(said)


def test_texts_and_pictures_in_one_list_get_the_embedders_vectors(
    client: TestClient, served: Embedder, texts: list[str], png: Png, data_uri: DataUri
) -> None:
    plain = base64.b64encode(png(2)).decode()
    asked = [texts[0], {"text": texts[1]}, {"image": data_uri(1)}, {"image": plain}, texts[2],
             {"text": texts[3], "image": data_uri(4)},
             {"text": texts[4], "image": data_uri(5), "weight": 0.8}]  # fmt: skip
    expected = served.encode([
        texts[0], texts[1], png(1), png(2), texts[2], {"text": texts[3], "image": png(4)},
        {"text": texts[4], "image": png(5), "weight": 0.8},
    ])  # fmt: skip
    np.testing.assert_allclose(vectors_of(client, asked), expected, atol=1e-5)


def test_a_single_text_and_a_single_object_need_no_list(client: TestClient, served: Embedder) -> None:
    np.testing.assert_allclose(vectors_of(client, "red hat"), served.encode("red hat"), atol=1e-5)
    np.testing.assert_allclose(vectors_of(client, {"text": "red hat"}), served.encode("red hat"), atol=1e-5)


def test_base64_holds_the_bytes_of_the_floats(client: TestClient, texts: list[str]) -> None:
    body = {"input": texts, "encoding_format": "base64"}
    coded = [one["embedding"] for one in client.post("/v1/embeddings", json=body).json()["data"]]
    decoded = np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in coded])
    floats = client.post("/v1/embeddings", json={"input": texts}).json()["data"]
    assert np.array_equal(decoded, np.array([one["embedding"] for one in floats], np.float32))


def test_dimensions_cut_and_normalise_as_the_embedder_does(
    client: TestClient, served: Embedder, texts: list[str]
) -> None:
    expected = served.encode(texts, truncate_dim=8)
    np.testing.assert_allclose(vectors_of(client, texts, dimensions=8), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary"])
def test_a_type_of_jinas_may_be_asked_for_as_numbers_or_as_bytes(
    client: TestClient, texts: list[str], kind: Any
) -> None:
    expected = quantized(vectors_of(client, texts), kind)
    body = {"input": texts, "embedding_type": kind}
    numbers = [one["embedding"] for one in client.post("/v1/embeddings", json=body).json()["data"]]
    assert np.array_equal(np.array(numbers), expected)
    body["encoding_format"] = "base64"
    coded = [one["embedding"] for one in client.post("/v1/embeddings", json=body).json()["data"]]
    assert [base64.b64decode(text) for text in coded] == [row.tobytes() for row in expected]


@pytest.mark.parametrize(
    "asked",
    [
        {"task": "retrieval.query"}, {"input_type": "query"}, {"input_type": "search_query"}, {"prompt_name": "query"},
        {"prompt": "search query: "},
    ],
)  # fmt: skip
def test_a_task_puts_the_models_prompt_before_each_text(
    client: TestClient, served: Embedder, texts: list[str], asked: dict[str, str]
) -> None:
    np.testing.assert_allclose(vectors_of(client, texts, **asked), served.encode_query(texts), atol=1e-5)


def test_documents_and_pairs_have_their_own_prompts(client: TestClient, served: Embedder, texts: list[str]) -> None:
    documents = vectors_of(client, texts, task="retrieval.passage")
    np.testing.assert_allclose(documents, served.encode_document(texts), atol=1e-5)
    np.testing.assert_allclose(vectors_of(client, texts, task="text-matching"), served.encode(texts), atol=1e-5)


def test_two_ways_to_say_the_prompt_are_refused(client: TestClient) -> None:
    body = {"input": "a", "task": "retrieval.query", "prompt": "x"}
    assert "task and prompt say the same" in refused(client, body)


def test_one_bad_picture_among_64_never_fails_its_neighbours(
    client: TestClient, served: Embedder, png: Png, data_uri: DataUri
) -> None:
    inputs = [{"image": data_uri(number)} for number in range(64)]
    inputs[17] = {"image": base64.b64encode(b"this is no picture").decode()}
    response = client.post("/v1/embeddings", json={"input": inputs, "on_error": "item"})
    data = response.json()["data"]
    assert [one["index"] for one in data] == list(range(64))
    assert [one["index"] for one in data if one["object"] == "error"] == [17]
    assert data[17]["error"]["message"]
    rest = [number for number in range(64) if number != 17]
    found = np.array([data[number]["embedding"] for number in rest], np.float32)
    np.testing.assert_allclose(found, served.encode([png(number) for number in rest]), atol=1e-5)


def test_one_bad_picture_is_named_by_its_number_by_default(client: TestClient, data_uri: DataUri) -> None:
    inputs = [{"image": data_uri(number)} for number in range(5)] + [{"image": "data:image/png;base64,AAAA"}]
    response = client.post("/v1/embeddings", json={"input": inputs})
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("input 5:")
    assert response.json()["error"]["param"] == "input.5"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"input": []}, "empty list"),
        ({}, "Field required"),
        ({"input": "a", "dimension": 4}, "did you mean 'dimensions'?"),
        ({"input": "a", "dimensions": 25}, "not between 1 and 24"),
        ({"input": "a", "dimensions": 0}, "not between 1 and 24"),
        ({"input": "a", "encoding_format": "hex"}, "'hex'"),
        ({"input": "a", "embedding_type": ["float", "binary"]}, "2 types are asked for"),
        ({"input": "a", "task": "translation"}, "task 'translation' is not one of retrieval.query"),
        ({"input": "a", "prompt_name": "poem"}, "not one of query, document"),
        ({"input": "a", "late_chunking": True}, "late_chunking"),
        ({"input": "a", "encoding_format": "int8"}, "'int8' is asked for as embedding_type"),
        ({"input": 5}, "input 0: a number is neither a text nor"),
        ({"input": True}, "input 0: a truth value"),
        ({"input": [1, 2, 3]}, "token ids"),
        ({"input": [[1, 2], [3]]}, "token ids"),
        ({"input": ["a", None]}, "input 1: a null"),
        ({"input": ["a", ""]}, "input 1"),
        ({"input": [{"txt": "a"}]}, "did you mean 'text'?"),
        ({"input": [{"image": 7}]}, "input 0: 'image' is a number"),
        ({"input": [{"text": "a", "image": "b", "weight": 2}]}, "'weight' is no number between 0"),
        ({"input": [{"weight": 0.5}]}, "needs 'text', 'image' or both"),
        ({"input": [{"image": "https://example.org/a.jpg"}]}, "input 0"),
        ([1], "no JSON object"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_told_in_one_sentence(client: TestClient, body: Any, said: str) -> None:
    assert said in refused(client, body)


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
def test_a_body_full_of_faults_ends_at_the_first(kind: type[Config], body: Any) -> None:
    with pytest.raises(ValidationError) as faults:
        kind.model_validate(body)
    assert faults.value.error_count() < 10


def test_of_a_huge_value_a_little_is_told(client: TestClient) -> None:
    huge = "k" * 1_000_000
    for body in ({"input": "a", huge: 0}, {"input": {huge: 0}}, {"input": "a", "dimensions": huge}):
        assert len(refused(client, body)) < 400


def test_half_a_surrogate_pair_is_refused(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/embeddings", content=b'{"input": ["\\ud800"]}', headers=headers)
    assert response.status_code == 400
    assert "Unicode" in response.json()["error"]["message"]


def test_more_inputs_than_the_server_takes_are_refused(serve: Serve) -> None:
    assert "3 inputs, and this server takes 2" in refused(serve(max_items=2), {"input": ["a", "b", "c"]})


def test_another_models_name_is_not_found_and_any_name_can_be_allowed(client: TestClient, serve: Serve) -> None:
    body = {"input": "a", "model": "text-embedding-3-small"}
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert response.json()["error"]["message"] == (
        "model 'text-embedding-3-small' is not served here; ask for 'tiny' (a server with names=[*] takes any name)."
    )
    several = serve(names=["tiny", "shop"]).post("/v1/embeddings", json=body).json()["error"]["message"]
    assert "ask for 'tiny' or 'shop'" in several
    assert serve(names=["*"]).post("/v1/embeddings", json=body).json()["model"] == "text-embedding-3-small"


def test_usage_counts_tokens_and_a_pictures_patches_and_one(
    client: TestClient, served: Embedder, data_uri: DataUri
) -> None:
    assert served.tokenizer is not None
    words = len(served.tokenizer(["a red ball"])[0])
    one = client.post("/v1/embeddings", json={"input": "a red ball"}).json()["usage"]
    both = client.post("/v1/embeddings", json={"input": ["a red ball", {"image": data_uri(0)}]}).json()["usage"]
    assert one == {"prompt_tokens": words, "total_tokens": words}
    assert both["total_tokens"] > words + 1


def test_the_models_route_says_what_the_model_can_do_and_not_where_it_lies(
    client: TestClient, served: Embedder
) -> None:
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"], model["dimensions"]) == ("tiny", "model", 24)
    assert model["modalities"] == ["image", "text"]
    assert "runs" not in str(listed)
    assert client.get("/v1/models/tiny").json() == model
    assert client.get("/v1/models/other").status_code == 404


# Requests as the providers' own documentation and clients write them, but for pictures, which are small ones of ours.
JINA: Sequence[dict[str, Any]] = [
    {"model": "jina-embeddings-v3", "task": "text-matching", "late_chunking": False, "dimensions": 16,
     "embedding_type": "float", "input": ["Organic skincare for sensitive skin with aloe vera and chamomile",
                                          "Bio-Hautpflege für empfindliche Haut", "针对敏感肌专门设计"]},
    {"model": "jina-clip-v2", "normalized": True, "embedding_type": ["float"],
     "input": [{"text": "A beautiful sunset over the beach"}, {"text": "浜辺に沈む夕日"}, {"image": 0}, {"image": 1}]},
    {"model": "jina-embeddings-v3", "input": ["Hello, world!"]},
    {"model": "jina-clip-v2", "dimensions": 16, "task": "retrieval.query", "input": [{"text": "A ball"}, {"image": 2}]},
    {"model": "jina-embeddings-v4", "task": "retrieval.passage", "truncate": True, "input": [{"text": "A ball"}]},
]  # fmt: skip


@pytest.mark.parametrize("body", JINA)
def test_jinas_bodies_get_jinas_answers(serve: Serve, data_uri: DataUri, body: dict[str, Any]) -> None:
    inputs = [
        {"image": data_uri(one["image"])} if isinstance(one, dict) and "image" in one else one for one in body["input"]
    ]
    answer = serve(names=["*"]).post("/v1/embeddings", json={**body, "input": inputs}).json()
    assert answer.keys() == {"model", "object", "usage", "data"}
    assert answer["model"] == body["model"]
    assert answer["usage"].keys() == {"total_tokens", "prompt_tokens"}
    assert [(one["object"], one["index"]) for one in answer["data"]] == [("embedding", n) for n in range(len(inputs))]
    assert all(len(one["embedding"]) == body.get("dimensions", 24) for one in answer["data"])


COHERE: Sequence[dict[str, Any]] = [
    {"model": "embed-v4.0", "texts": ["hello", "bye"], "input_type": "classification", "embedding_types": ["float"]},
    {"model": "embed-v4.0", "input_type": "image", "embedding_types": ["float"], "images": [0]},
    {"model": "embed-v4.0", "input_type": "search_document", "output_dimension": 16, "truncate": "END",
     "embedding_types": ["float", "int8", "uint8", "binary", "ubinary", "base64"], "texts": ["hello"]},
    {"model": "embed-v4.0", "input_type": "search_document", "embedding_types": ["float"],
     "inputs": [{"content": [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": 1}}]},
                {"content": [{"type": "text", "text": "hello"}]}]},
]  # fmt: skip


def _with_pictures(value: Any, data_uri: DataUri) -> Any:
    """The body with a picture where it has {"url": number} or {"images": [number]}."""
    if isinstance(value, dict):
        return {
            key: data_uri(one) if key == "url" else [data_uri(n) for n in one] if key == "images" else
            _with_pictures(one, data_uri) for key, one in value.items()
        }  # fmt: skip
    return [_with_pictures(one, data_uri) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("body", COHERE)
def test_coheres_bodies_get_coheres_answers(serve: Serve, data_uri: DataUri, body: dict[str, Any]) -> None:
    response = serve(names=["*"]).post("/v2/embed", json=_with_pictures(body, data_uri))
    assert response.status_code == 200, response.text
    answer = response.json()
    count = len(body.get("texts") or body.get("images") or body["inputs"])
    assert {"id", "embeddings", "texts", "meta"} <= answer.keys()
    assert answer["texts"] == body.get("texts", [])
    assert answer["meta"]["api_version"]["version"] == "2"
    assert answer["meta"]["billed_units"]["input_tokens"] > 0
    assert list(answer["embeddings"]) == body["embedding_types"]
    assert all(len(rows) == count for rows in answer["embeddings"].values())


def test_coheres_types_are_the_same_vector_and_have_its_prompt(client: TestClient, served: Embedder) -> None:
    kinds = ["float", "base64", "int8", "uint8", "binary", "ubinary"]
    body = {"texts": ["red hat"], "input_type": "search_query", "embedding_types": kinds}
    found = client.post("/v2/embed", json=body).json()["embeddings"]
    exact = served.encode_query(["red hat"])
    np.testing.assert_allclose(found["float"], exact, atol=1e-5)
    floats = np.array(found["float"], np.float32)
    assert base64.b64decode(found["base64"][0]) == floats.tobytes()
    for kind in kinds[2:]:
        assert np.array_equal(found[kind], quantized(floats, kind)), kind  # type: ignore[arg-type]  # one of them


def test_coheres_fused_input_is_the_sum_of_text_and_picture(
    client: TestClient, served: Embedder, png: Png, data_uri: DataUri
) -> None:
    content = [{"type": "text", "text": "red hat"}, {"type": "image_url", "image_url": {"url": data_uri(3)}}]
    body = {"inputs": [{"content": content}], "input_type": "clustering"}
    found = client.post("/v2/embed", json=body).json()["embeddings"]["float"]
    np.testing.assert_allclose(found, unit(served.encode("red hat") + served.encode(png(3))), atol=1e-5)


def content_of(*parts: Any) -> dict[str, Any]:
    return {"input_type": "clustering", "inputs": [{"content": list(parts)}]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"texts": ["a"]}, "input_type"),
        ({"input_type": "search_query"}, "send one of texts, images and inputs"),
        ({"input_type": "search_query", "texts": ["a"], "images": ["b"]}, "send one of texts, images and inputs"),
        ({"input_type": "search_query", "texts": ["a"], "truncate": "NONE"}, "truncate is 'NONE'"),
        ({"input_type": "search_query", "texts": ["a"], "output_dimension": 99}, "output_dimension 99"),
        ({"input_type": "image", "images": ["data:image/png;base64,AAAA"]}, "images 0:"),
        (content_of({"type": "text", "text": "a"}, {"type": "image_url"}), "image_url: Field required"),
        (content_of({"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}), "url: Field required"),
        (content_of({"type": "text", "text": "a"}, {"type": "text", "text": ""}), "content.1.text.text"),
        (content_of({"type": "text", "text": "a", "image_url": {"url": ""}}), "unknown key 'image_url'"),
        (content_of(*2 * [{"type": "image_url", "image_url": {"url": "AAAA"}}]), "one picture at most"),
    ],
)
def test_what_cohere_cannot_have_is_told_in_coheres_shape(client: TestClient, body: Any, said: str) -> None:
    assert said in refused(client, body, "/v2/embed")


def test_weaviates_vectorizer_gets_its_two_lists(
    client: TestClient, served: Embedder, texts: list[str], png: Png
) -> None:
    images = [base64.b64encode(png(number)).decode() for number in range(2)]
    answer = client.post("/vectorize", json={"texts": texts[:3], "images": images}).json()
    assert answer.keys() == {"textVectors", "imageVectors"}
    np.testing.assert_allclose(answer["textVectors"], served.encode(texts[:3]), atol=1e-5)
    np.testing.assert_allclose(answer["imageVectors"], served.encode([png(0), png(1)]), atol=1e-5)
    assert client.post("/vectorize", json={"texts": ["a"], "images": None}).json()["imageVectors"] == []
    assert client.get("/meta").json()["dimensions"] == 24
    assert "texts" in refused(client, {"texts": 5}, "/vectorize")


def test_every_task_of_jinas_names_a_prompt_or_none() -> None:
    assert set(TASKS.values()) == {"query", "document", ""}
