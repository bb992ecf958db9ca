"""Clients of text-embeddings-inference get its answers."""

from __future__ import annotations

import numpy as np
from starlette.testclient import TestClient

from unimodal.embedder import Embedder


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
    message = "inputs is an empty list; send a text, an image, or a list of them."
    assert error.json() == {"error": message, "error_type": "Validation"}
