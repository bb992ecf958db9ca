"""A body is what it is said to be, and whatever it is, the answer is one sentence."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

PATHS = ["/v1/embeddings", "/v2/embed", "/vectorize"]


def _told(client: TestClient, path: str, sent: bytes, kind: str | None = "application/json") -> str:
    response = client.post(path, content=sent, headers={} if kind is None else {"Content-Type": kind})
    assert response.status_code == 400
    body: dict[str, Any] = response.json()
    return str(body.get("message") or (body["error"] if path == "/vectorize" else body["error"]["message"]))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sent", [b"{", b"\xff", b"[" * 100_000, b'{"input": "a"} b'])
def test_what_is_no_json_is_told_so(client: TestClient, path: str, sent: bytes) -> None:
    assert "the body is not JSON" in _told(client, path, sent)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_json_that_is_not_said_to_be_json_is_refused(client: TestClient, path: str, kind: str | None) -> None:
    assert "send one, with Content-Type: application/json" in _told(client, path, b'{"input": "a"}', kind)


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"])
def test_json_has_several_names(client: TestClient, kind: str) -> None:
    headers = {"Content-Type": kind}
    assert client.post("/v1/embeddings", content=b'{"input": "a"}', headers=headers).status_code == 200


def test_a_body_in_parts_is_one(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    parts = iter([b'{"inp', b'ut": "a"}'])
    assert client.post("/v1/embeddings", content=parts, headers=headers).status_code == 200
