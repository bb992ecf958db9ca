"""Weaviate's vectorizer gets its answers."""

from __future__ import annotations

import base64

import numpy as np
from starlette.testclient import TestClient

from tests.unimodal.serve.api.asking import (
    Png,
    refusal,
)
from unimodal.embedder import Embedder


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
    assert "texts" in refusal(client, {"texts": 5}, "/vectorize")
