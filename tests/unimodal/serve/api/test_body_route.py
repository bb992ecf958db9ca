"""A body is of the type that its headers name; whatever it is, a refusal is one sentence."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.unimodal.serve.conftest import Serve

PATHS = ["/v1/embeddings", "/v1/embed", "/v2/embed", "/embed", "/vectorize"]


def refusal(
    client: TestClient, path: str, sent: bytes, kind: str | None = "application/json"
) -> str:
    response = client.post(
        path, content=sent, headers={} if kind is None else {"Content-Type": kind}
    )
    assert response.status_code == 400
    body: dict[str, Any] = response.json()
    return _message(body)


def _message(body: dict[str, Any]) -> str:
    error = body.get("error", body)
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sent", [b"{", b"[" * 100_000, b'{"input": "a"} b'])
def test_what_is_no_json_is_told_so(client: TestClient, path: str, sent: bytes) -> None:
    assert "the body is not JSON" in refusal(client, path, sent)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded"]
)
def test_json_that_is_not_said_to_be_json_is_refused(
    client: TestClient, path: str, kind: str | None
) -> None:
    assert "send one, with Content-Type: application/json" in refusal(
        client, path, b'{"input": "a"}', kind
    )


@pytest.mark.parametrize(
    "kind",
    ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"],
)
def test_json_has_several_names(client: TestClient, kind: str) -> None:
    headers = {"Content-Type": kind}
    assert (
        client.post(
            "/v1/embeddings", content=b'{"input": "a"}', headers=headers
        ).status_code
        == 200
    )


def test_a_body_in_parts_is_one(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    parts = iter([b'{"inp', b'ut": "a"}'])
    assert (
        client.post("/v1/embeddings", content=parts, headers=headers).status_code == 200
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("sent", "kind", "fragment"),
    [
        (
            '{"input": "é"}'.encode("latin-1"),
            "application/json",
            "(byte 11 is not UTF-8); encode",
        ),
        (
            b"\xff",
            "application/json; charset=iso-8859-1",
            "charset=iso-8859-1",
        ),
        (
            b'{"weight": NaN}',
            "application/json",
            "NaN; send null.",
        ),
        (
            b'{"input": "a", "input": "b"}',
            "application/json",
            "the body has the key 'input' twice; send it once.",
        ),
        (
            b'{"input": [{"text": "a", "text": "b"}]}',
            "application/json",
            "the key 'text' twice",
        ),
        (
            b'{"input" "a"}',
            "application/json",
            "Expecting ':' delimiter at line 1, column 10",
        ),
    ],
)
def test_what_is_wrong_with_a_body_is_named(
    client: TestClient, path: str, sent: bytes, kind: str, fragment: str
) -> None:
    assert fragment in refusal(client, path, sent, kind)


def test_a_byte_order_mark_is_left_out(client: TestClient) -> None:
    sent = '{"input": "a"}'.encode("utf-8-sig")
    assert client.post("/v1/embeddings", content=sent, headers=JSON).status_code == 200


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP"])
def test_a_body_in_gzip_is_read(client: TestClient, coding: str) -> None:
    plain = json.dumps({"input": ["red hat", "blue hat"]}).encode()
    headers = {**JSON, "Content-Encoding": coding}
    response = client.post(
        "/v1/embeddings", content=gzip.compress(plain), headers=headers
    )
    assert (
        response.json()["data"]
        == client.post("/v1/embeddings", content=plain, headers=JSON).json()["data"]
    )


def test_a_body_in_gzip_may_become_as_large_as_a_plain_one(serve: Serve) -> None:
    small = serve(max_body_bytes=10_000)
    plain = json.dumps(
        {"input": [random.Random(number).randbytes(40).hex() for number in range(100)]}
    ).encode()
    sent = gzip.compress(plain)
    assert len(plain) < 10_000 < len(plain) + len(sent)
    assert (
        small.post(
            "/v1/embeddings", content=sent, headers={**JSON, "Content-Encoding": "gzip"}
        ).status_code
        == 200
    )


@pytest.mark.parametrize("coding", ["deflate", "br", "zstd", "gzip, gzip"])
def test_another_coding_is_415_and_says_which_one_is_read(
    client: TestClient, coding: str
) -> None:
    headers = {**JSON, "Content-Encoding": coding}
    response = client.post(
        "/v1/embeddings", content=zlib.compress(b'{"input": "a"}'), headers=headers
    )
    assert response.status_code == 415
    error = response.json()["error"]
    assert (
        error["message"]
        == f"Content-Encoding {coding!r} is not supported; send the body uncompressed, or in gzip."
    )
    assert error["code"] == "unsupported_media_type"


def test_a_small_body_that_grows_over_the_cap_is_413(serve: Serve) -> None:
    small = serve(max_body_bytes=10_000)
    bomb = gzip.compress(b'{"input": "' + b"a" * 1_000_000 + b'"}')
    assert len(bomb) < 2_000
    response = small.post(
        "/v1/embeddings", content=bomb, headers={**JSON, "Content-Encoding": "gzip"}
    )
    assert response.status_code == 413
    assert (
        "decompressed body is over 10000 bytes" in response.json()["error"]["message"]
    )


@pytest.mark.parametrize(
    ("sent", "fragment"),
    [
        (b'{"input": "a"}', "the body is not gzip, as its Content-Encoding says"),
        (gzip.compress(b'{"input": "a"}')[:-9], "is not one whole gzip stream"),
        (gzip.compress(b'{"input": "a"}') * 2, "is not one whole gzip stream"),
    ],
    ids=[
        "not gzip",
        "cut",
        "two streams",
    ],  # gzip holds the time: it must be in no name
)
def test_broken_gzip_is_named(client: TestClient, sent: bytes, fragment: str) -> None:
    response = client.post(
        "/v1/embeddings", content=sent, headers={**JSON, "Content-Encoding": "gzip"}
    )
    assert response.status_code == 400
    assert fragment in response.json()["error"]["message"]
