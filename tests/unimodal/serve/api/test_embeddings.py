from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from starlette.testclient import TestClient

from tests.unimodal.serve.conftest import Serve
from unimodal.embedder import Embedder
from unimodal.model import build_model
from unimodal.model_config import ModelConfig
from unimodal.serve.api.bodies import (
    TASKS,
    Body,
    CohereBody,
    CohereV1Body,
    EmbeddingsBody,
    TeiBody,
    WeaviateBody,
)
from unimodal.serve.api.encodings import quantized
from unimodal.vectors import normalize

Png = Callable[[int], bytes]
DataUri = Callable[[int], str]


def vectors_of(client: TestClient, value: Any, **more: Any) -> NDArray[np.float32]:
    response = client.post("/v1/embeddings", json={"input": value, **more})
    assert response.status_code == 200, response.text
    return np.array([one["embedding"] for one in response.json()["data"]], np.float32)


def refused(
    client: TestClient, body: Any, path: str = "/v1/embeddings", status: int = 400
) -> str:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    answer = response.json()
    error = answer.get("error", answer)
    said = error if isinstance(error, str) else error["message"]
    assert "\n" not in said
    assert said.endswith((".", "?"))
    return str(said)


def test_texts_and_images_in_one_list_get_the_embedders_vectors(
    client: TestClient, served: Embedder, texts: list[str], png: Png, data_uri: DataUri
) -> None:
    plain = base64.b64encode(png(2)).decode()
    asked = [
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
    np.testing.assert_allclose(vectors_of(client, asked), expected, atol=1e-5)


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
        one["embedding"]
        for one in client.post("/v1/embeddings", json=body).json()["data"]
    ]
    decoded = np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in coded])
    floats = client.post("/v1/embeddings", json={"input": texts}).json()["data"]
    assert np.array_equal(
        decoded, np.array([one["embedding"] for one in floats], np.float32)
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
    expected = quantized(vectors_of(client, texts), kind)
    body = {"input": texts, "embedding_type": kind}
    numbers = [
        one["embedding"]
        for one in client.post("/v1/embeddings", json=body).json()["data"]
    ]
    assert np.array_equal(np.array(numbers), expected)
    body["encoding_format"] = "base64"
    coded = [
        one["embedding"]
        for one in client.post("/v1/embeddings", json=body).json()["data"]
    ]
    assert [base64.b64decode(text) for text in coded] == [
        row.tobytes() for row in expected
    ]


@pytest.mark.parametrize(
    "asked",
    [
        {"task": "retrieval.query"},
        {"input_type": "query"},
        {"input_type": "search_query"},
        {"prompt_name": "query"},
        {"prompt": "search query: "},
    ],
)
def test_a_task_puts_the_models_prompt_before_each_text(
    client: TestClient, served: Embedder, texts: list[str], asked: dict[str, str]
) -> None:
    np.testing.assert_allclose(
        vectors_of(client, texts, **asked), served.encode_query(texts), atol=1e-5
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
    assert "task and prompt say the same" in refused(client, body)


def test_one_bad_image_among_64_never_fails_its_neighbours(
    client: TestClient, served: Embedder, png: Png, data_uri: DataUri
) -> None:
    inputs = [{"image": data_uri(number)} for number in range(64)]
    inputs[17] = {"image": base64.b64encode(b"this is no image").decode()}
    response = client.post("/v1/embeddings", json={"input": inputs, "on_error": "item"})
    data = response.json()["data"]
    assert [one["index"] for one in data] == list(range(64))
    assert [one["index"] for one in data if one["object"] == "error"] == [17]
    assert data[17]["error"]["message"]
    rest = [number for number in range(64) if number != 17]
    found = np.array([data[number]["embedding"] for number in rest], np.float32)
    np.testing.assert_allclose(
        found, served.encode([png(number) for number in rest]), atol=1e-5
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


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"input": []}, "empty list"),
        ({}, "send input, or messages, one of the two."),
        ({"input": "a", "dimension": 4}, "did you mean 'dimensions'?"),
        ({"input": "a", "dimensions": 25}, "not between 1 and embed_dim 24"),
        ({"input": "a", "dimensions": 0}, "not between 1 and embed_dim 24"),
        ({"input": "a", "encoding_format": "hex"}, "'hex'"),
        (
            {"input": "a", "embedding_type": ["float", "binary"]},
            "2 types are asked for",
        ),
        (
            {"input": "a", "task": "translation"},
            "task 'translation' is not one of query, document, retrieval.query",
        ),
        ({"input": "a", "prompt_name": "poem"}, "not one of query, document"),
        (
            {"input": "a", "late_chunking": True},
            "late_chunking is true; it may be false, or be left out.",
        ),
        (
            {"input": "a", "encoding_format": "int8"},
            "'int8' is asked for as embedding_type",
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
    client: TestClient, body: Any, said: str
) -> None:
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
        assert len(refused(client, body)) < 400


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


def test_half_a_surrogate_pair_is_refused(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post(
        "/v1/embeddings", content=b'{"input": ["\\ud800"]}', headers=headers
    )
    assert response.status_code == 400
    assert "Unicode" in response.json()["error"]["message"]


def test_more_inputs_than_the_server_takes_are_refused(serve: Serve) -> None:
    assert "3 inputs, and this server takes 2" in refused(
        serve(max_items=2), {"input": ["a", "b", "c"]}
    )


def test_another_models_name_is_not_found_and_any_name_can_be_allowed(
    client: TestClient, serve: Serve
) -> None:
    body = {"input": "a", "model": "text-embedding-3-small"}
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert response.json()["error"]["message"] == (
        "model 'text-embedding-3-small' is not served here; ask for 'tiny' (a server "
        "without names takes any name)."
    )
    several = (
        serve(names=["tiny", "shop"])
        .post("/v1/embeddings", json=body)
        .json()["error"]["message"]
    )
    assert "ask for 'tiny' or 'shop'" in several
    for names in ([], ["*"]):
        assert (
            serve(names=names).post("/v1/embeddings", json=body).json()["model"]
            == "text-embedding-3-small"
        )


def test_usage_counts_tokens_and_an_images_patches_and_one(
    client: TestClient, served: Embedder, data_uri: DataUri
) -> None:
    assert served.tokenizer is not None
    words = len(served.tokenizer(["a red ball"])[0])
    one = client.post("/v1/embeddings", json={"input": "a red ball"}).json()["usage"]
    both = client.post(
        "/v1/embeddings", json={"input": ["a red ball", {"image": data_uri(0)}]}
    ).json()["usage"]
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


DATA_URI_BODIES: Sequence[tuple[str, Callable[[str], Any], Callable[[Any], Any]]] = [
    ("/v1/embeddings", lambda uri: {"input": uri}, lambda said: said["data"][0]["embedding"]),
    ("/v1/embeddings", lambda uri: {"input": ["a hat", uri]}, lambda said: said["data"][1]["embedding"]),
    ("/v1/embeddings", lambda uri: {"input": uri, "modality": "image"}, lambda said: said["data"][0]["embedding"]),
    ("/v1/embeddings", lambda uri: {"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": uri}}]}]}, lambda said: said["data"][0]["embedding"]),
    ("/embeddings", lambda uri: {"input": uri}, lambda said: said["data"][0]["embedding"]),
    ("/v1/embed", lambda uri: {"images": [uri]}, lambda said: said["embeddings"][0]),
    ("/v2/embed", lambda uri: {"images": [uri], "input_type": "image"}, lambda said: said["embeddings"]["float"][0]),
    ("/embed", lambda uri: {"inputs": uri}, lambda said: said[0]),
    ("/vectorize", lambda uri: {"images": [uri]}, lambda said: said["imageVectors"][0]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "vector"), DATA_URI_BODIES)
def test_an_image_as_a_data_uri_is_an_image_in_every_body(
    client: TestClient,
    served: Embedder,
    png: Png,
    path: str,
    body: Callable[[str], Any],
    vector: Callable[[Any], Any],
) -> None:
    plain = base64.encodebytes(png(3)).decode()  # in lines
    uri = f"data:image/png;charset=utf-8;base64,{plain}"
    response = client.post(path, json=body(uri))
    assert response.status_code == 200, response.text
    np.testing.assert_allclose(
        [vector(response.json())], served.encode(png(3)), atol=1e-5
    )


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
    assert "the text is an image as a data URI; send it as an image." in refused(
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
        assert "the text is an image in base64; send it as an image." in refused(
            client, body, path
        )


def test_a_broken_image_as_a_data_uri_is_not_a_text(client: TestClient) -> None:
    said = refused(client, {"input": ["a", "data:image/jpeg;base64,AAAA"]})
    assert said.startswith("input 1: ")
    assert "readable" in said


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
    assert "input 1" in refused(client, {"input": ["a", ""]})


NULL: dict[str, tuple[str, Any, type[Body]]] = {
    "/v1/embeddings": ("input", "a", EmbeddingsBody),
    "/v1/embed": ("texts", ["a"], CohereV1Body),
    "/v2/embed": ("texts", ["a"], CohereBody),
    "/embed": ("inputs", "a", TeiBody),
    "/vectorize": ("texts", ["a"], WeaviateBody),
}


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
    found = response.json()
    expected = plain.json()
    for answer in (found, expected):
        if isinstance(answer, dict):
            answer.pop("id", None)  # Cohere's, of the request
    assert found == expected
    assert "X-Unimodal-Ignored" not in response.headers


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
    assert [len(one["embedding"]) for one in response.json()["data"]] == [length] * 2


@pytest.mark.parametrize(
    ("body", "said"),
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
            "'START' is not known; texts are cut at their end",
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
            "say the same and contradict each other",
        ),
        (
            {"input": "a", "messages": [{"role": "user", "content": "a"}]},
            "send input, or messages, one of the two",
        ),
        ({"messages": []}, "messages is an empty list"),
        (
            {"messages": [{"role": "system", "content": "a"}]},
            "role is 'system'; it may be 'user'",
        ),
        ({"input": None}, "send input, or messages, one of the two."),
        ({"input": "a", "dimensions": "8"}, "dimensions is '8'; send a whole number."),
        ({"input": "a", "user": 5}, "user is 5; send a text."),
        (
            {"input": "a", "normalized": [None]},
            "normalized is a list of 1; send true or false.",
        ),
    ],
)
def test_what_would_change_a_vector_is_not_ignored(
    client: TestClient, body: Any, said: str
) -> None:
    assert said in refused(client, body)


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
    assert "25 unknown keys" in refused(
        client, {"input": "a", **{f"key{number}": 0 for number in range(25)}}
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
    assert "input_type 'poem' is not one of query, document, clustering" in refused(
        client, {**body, "input_type": "poem"}, "/v2/embed"
    )


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
    said = refused(client, {**body, key: ["red hat", long]}, path)
    assert (
        f"{key} 1: the text is longer than the {served.config.text.max_length} tokens "
        "that the model reads" in said
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
    said = refused(client, {"input": "a", "dimensions": 8})
    assert "dimensions 8:" in said
    assert "matryoshka_dims" in said
    assert (
        client.post("/v1/embeddings", json={"input": "a", "dimensions": 24}).status_code
        == 200
    )
    body = {"texts": ["a"], "input_type": "classification", "output_dimension": 8}
    assert "output_dimension 8: this model was not trained" in refused(
        client, body, "/v2/embed"
    )
    assert "dimensions 8: this model was not trained" in refused(
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
    np.testing.assert_allclose([one["embedding"] for one in data], expected, atol=1e-5)
    data = client.post(
        "/v1/embeddings", json={"messages": [{"role": "user", "content": "red hat"}]}
    ).json()["data"]
    np.testing.assert_allclose(
        [one["embedding"] for one in data], served.encode("red hat"), atol=1e-5
    )


def test_tei_gets_a_list_of_vectors_and_its_own_errors(
    client: TestClient, served: Embedder
) -> None:
    for inputs in ("red hat", ["red hat", "blue hat"]):
        body = {
            "inputs": inputs,
            "truncate": True,
            "truncation_direction": "Right",
            "normalize": True,
        }
        np.testing.assert_allclose(
            client.post("/embed", json=body).json(), served.encode(inputs), atol=1e-5
        )
    body = {"inputs": "red hat", "prompt_name": "query"}
    np.testing.assert_allclose(
        client.post("/embed", json=body).json(),
        served.encode_query("red hat"),
        atol=1e-5,
    )
    error = client.post("/embed", json={"inputs": []})
    assert error.status_code == 400
    said = "inputs is an empty list; send a text, an image, or a list of them."
    assert error.json() == {"error": said, "error_type": "Validation"}


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


# Requests as the providers' own documentation and clients write them, but for images, which are
# small ones of ours.
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
def test_jinas_bodies_get_jinas_answers(
    serve: Serve, data_uri: DataUri, body: dict[str, Any]
) -> None:
    inputs = [
        {"image": data_uri(one["image"])}
        if isinstance(one, dict) and "image" in one
        else one
        for one in body["input"]
    ]
    answer = (
        serve(names=["*"]).post("/v1/embeddings", json={**body, "input": inputs}).json()
    )
    assert answer.keys() == {"model", "object", "usage", "data"}
    assert answer["model"] == body["model"]
    assert answer["usage"].keys() == {"total_tokens", "prompt_tokens"}
    assert [(one["object"], one["index"]) for one in answer["data"]] == [
        ("embedding", n) for n in range(len(inputs))
    ]
    assert all(
        len(one["embedding"]) == body.get("dimensions", 24) for one in answer["data"]
    )


COHERE: Sequence[dict[str, Any]] = [
    {"model": "embed-v4.0", "texts": ["hello", "bye"], "input_type": "classification", "embedding_types": ["float"]},
    {"model": "embed-v4.0", "input_type": "image", "embedding_types": ["float"], "images": [0]},
    {"model": "embed-v4.0", "input_type": "search_document", "output_dimension": 16, "truncate": "END",
     "embedding_types": ["float", "int8", "uint8", "binary", "ubinary", "base64"], "texts": ["hello"]},
    {"model": "embed-v4.0", "input_type": "search_document", "embedding_types": ["float"],
     "inputs": [{"content": [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": 1}}]},
                {"content": [{"type": "text", "text": "hello"}]}]},
]  # fmt: skip


def _with_images(value: Any, data_uri: DataUri) -> Any:
    """The body with an image where it has {"url": number} or {"images": [number]}."""
    if isinstance(value, dict):
        return {
            key: data_uri(one)
            if key == "url"
            else [data_uri(n) for n in one]
            if key == "images"
            else _with_images(one, data_uri)
            for key, one in value.items()
        }
    return (
        [_with_images(one, data_uri) for one in value]
        if isinstance(value, list)
        else value
    )


@pytest.mark.parametrize("body", COHERE)
def test_coheres_bodies_get_coheres_answers(
    serve: Serve, data_uri: DataUri, body: dict[str, Any]
) -> None:
    response = serve(names=["*"]).post("/v2/embed", json=_with_images(body, data_uri))
    assert response.status_code == 200, response.text
    answer = response.json()
    count = len(body.get("texts") or body.get("images") or body["inputs"])
    assert {"id", "embeddings", "texts", "meta"} <= answer.keys()
    assert answer["texts"] == body.get("texts", [])
    assert answer["meta"]["api_version"]["version"] == "2"
    assert answer["meta"]["billed_units"]["input_tokens"] > 0
    assert list(answer["embeddings"]) == body["embedding_types"]
    assert all(len(rows) == count for rows in answer["embeddings"].values())


COHERE_V1: Sequence[tuple[dict[str, Any], str]] = [
    ({"model": "embed-english-v3.0", "texts": ["hello", "bye"], "input_type": "search_document"}, "embeddings_floats"),
    ({"model": "embed-english-light-v2.0", "texts": ["hello"], "truncate": "END"}, "embeddings_floats"),
    # LangChain's: embedding_types is always there, truncate is null unless it was set.
    ({"model": "embed-english-v3.0", "texts": ["hello"], "input_type": "search_query", "embedding_types": ["float"],
      "truncate": None}, "embeddings_by_type"),
    ({"model": "embed-english-v3.0", "texts": ["hello"], "input_type": "clustering", "truncate": "NONE",
      "embedding_types": ["int8", "ubinary"]}, "embeddings_by_type"),
]  # fmt: skip


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
    found = client.post("/v2/embed", json=body).json()["embeddings"]
    exact = served.encode_query(["red hat"])
    np.testing.assert_allclose(found["float"], exact, atol=1e-5)
    floats = np.array(found["float"], np.float32)
    assert base64.b64decode(found["base64"][0]) == floats.tobytes()
    for kind in kinds[2:]:
        assert np.array_equal(found[kind], quantized(floats, kind)), kind  # type: ignore[arg-type]  # one of them


def test_coheres_fused_input_is_the_sum_of_text_and_image(
    client: TestClient, served: Embedder, png: Png, data_uri: DataUri
) -> None:
    content = [
        {"type": "text", "text": "red hat"},
        {"type": "image_url", "image_url": {"url": data_uri(3)}},
    ]
    body = {"inputs": [{"content": content}], "input_type": "clustering"}
    found = client.post("/v2/embed", json=body).json()["embeddings"]["float"]
    np.testing.assert_allclose(
        found, normalize(served.encode("red hat") + served.encode(png(3))), atol=1e-5
    )


def content_of(*parts: Any) -> dict[str, Any]:
    return {"input_type": "clustering", "inputs": [{"content": list(parts)}]}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"texts": ["a"]}, "input_type"),
        ({"input_type": "search_query"}, "send one of texts, images and inputs"),
        (
            {"input_type": "search_query", "texts": ["a"], "images": ["b"]},
            "send one of texts, images and inputs",
        ),
        (
            {"input_type": "search_query", "texts": ["a"], "truncate": "START"},
            "'START' is not known; texts are cut at their end",
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
    client: TestClient, body: Any, said: str
) -> None:
    assert said in refused(client, body, "/v2/embed")


def test_weaviates_vectorizer_gets_its_two_lists(
    client: TestClient, served: Embedder, texts: list[str], png: Png
) -> None:
    images = [base64.b64encode(png(number)).decode() for number in range(2)]
    answer = client.post(
        "/vectorize", json={"texts": texts[:3], "images": images}
    ).json()
    assert answer.keys() == {"textVectors", "imageVectors"}
    np.testing.assert_allclose(
        answer["textVectors"], served.encode(texts[:3]), atol=1e-5
    )
    np.testing.assert_allclose(
        answer["imageVectors"], served.encode([png(0), png(1)]), atol=1e-5
    )
    assert (
        client.post("/vectorize", json={"texts": ["a"], "images": None}).json()[
            "imageVectors"
        ]
        == []
    )
    assert client.get("/meta").json()["dimensions"] == 24
    assert "texts" in refused(client, {"texts": 5}, "/vectorize")


def test_every_task_of_jinas_names_a_prompt_or_none() -> None:
    assert set(TASKS.values()) == {"query", "document", ""}
