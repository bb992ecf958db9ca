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
    """The vectors of one input or a list; more: further keys of OpenAI's body."""
    response = client.post("/v1/embeddings", json={"input": value, **more})
    assert response.status_code == 200, response.text
    entries = response.json()["data"]
    return np.array([entry["embedding"] for entry in entries], np.float32)


def refusal(
    client: TestClient, body: Any, path: str = "/v1/embeddings", status: int = 400
) -> str:
    """The message that refuses a body, which is one sentence."""
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    answer = response.json()
    error = answer.get("error", answer)
    message = error if isinstance(error, str) else error["message"]
    assert "\n" not in message
    assert message.endswith((".", "?"))
    return str(message)


def with_images(value: Any, data_uri: DataUri) -> Any:
    """The body with an image where it has {"url": number} or {"images": [number]}."""
    if isinstance(value, list):
        return [with_images(item, data_uri) for item in value]
    if not isinstance(value, dict):
        return value
    filled: dict[str, Any] = {}
    for key, item in value.items():
        if key == "url":
            filled[key] = data_uri(item)
        elif key == "images":
            filled[key] = [data_uri(number) for number in item]
        else:
            filled[key] = with_images(item, data_uri)
    return filled


def content_of(*parts: Any) -> dict[str, Any]:
    return {"input_type": "clustering", "inputs": [{"content": list(parts)}]}
