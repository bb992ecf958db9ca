"""What the server says of its model."""

from __future__ import annotations

from starlette.testclient import TestClient

from tests.unimodal.serve.conftest import Serve
from unimodal.embedder import Embedder


def test_another_models_name_is_not_found_and_any_name_can_be_allowed(
    client: TestClient, serve: Serve
) -> None:
    body = {"input": "a", "model": "text-embedding-3-small"}
    response = client.post("/v1/embeddings", json=body)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    message = response.json()["error"]["message"]
    assert message.startswith("model 'text-embedding-3-small' is not served here")
    assert "'tiny'" in message
    several = (
        serve(names=["tiny", "shop"])
        .post("/v1/embeddings", json=body)
        .json()["error"]["message"]
    )
    assert "'tiny' or 'shop'" in several
    for names in ([], ["*"]):
        assert (
            serve(names=names).post("/v1/embeddings", json=body).json()["model"]
            == "text-embedding-3-small"
        )


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
