"""Requests to a served model, and how a refusal is worded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.testclient import TestClient

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


def with_images(value: Any, data_uri: DataUri) -> Any:
    """The body with an image where it has {"url": number} or {"images": [number]}."""
    if isinstance(value, dict):
        return {
            key: data_uri(one)
            if key == "url"
            else [data_uri(n) for n in one]
            if key == "images"
            else with_images(one, data_uri)
            for key, one in value.items()
        }
    return (
        [with_images(one, data_uri) for one in value]
        if isinstance(value, list)
        else value
    )


def content_of(*parts: Any) -> dict[str, Any]:
    return {"input_type": "clustering", "inputs": [{"content": list(parts)}]}
