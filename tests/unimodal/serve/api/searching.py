"""Searches of a served shop, and how a refusal is worded."""

from __future__ import annotations

import base64
from typing import Any

from starlette.testclient import TestClient

from tests.unimodal.serve.shop import png


def search(shop: TestClient, **body: Any) -> list[dict[str, Any]]:
    answer = shop.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    hits: list[dict[str, Any]] = answer.json()["hits"]
    assert answer.json()["count"] == len(hits)
    return hits


def ids(hits: list[dict[str, Any]]) -> list[str]:
    return [hit["id"] for hit in hits]


def refusal(shop: TestClient, **body: Any) -> str:
    answer = shop.post("/v1/search", json=body)
    assert answer.status_code == 400, answer.text
    message: str = answer.json()["error"]["message"]
    return message


def data_uri(number: int) -> str:
    return "data:image/png;base64," + base64.b64encode(png(number)).decode()
