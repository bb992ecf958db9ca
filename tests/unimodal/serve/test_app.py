from __future__ import annotations

import asyncio
import io
import json
import logging
import signal
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.unimodal.serve.conftest import Serve
from unimodal.embedder import Embedder, Prepared
from unimodal.serve import gate as gate_module
from unimodal.serve.config import API_KEYS, ServeConfig
from unimodal.serve.engine.engine import Engine
from unimodal.serve.gate import Gate
from unimodal.serve.logs import JsonLines, TextLines, request_id
from unimodal.serve.server import Server
from unimodal.vectors import Vectors

KEY = "a-key-of-some-length"
OTHER_KEY = "another-key-of-some-length"


@pytest.fixture(scope="module")
def locked(serve: Serve) -> TestClient:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(API_KEYS, f"{KEY},{OTHER_KEY}")
        return serve()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {OTHER_KEY}"},
        {"X-API-Key": OTHER_KEY},
        {"api-key": KEY},
    ],
)
def test_any_of_the_keys_opens_as_bearer_or_as_x_api_key(
    locked: TestClient, headers: dict[str, str]
) -> None:
    assert (
        locked.post("/v1/embeddings", json={"input": "a"}, headers=headers).status_code
        == 200
    )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {KEY}"},
        {"X-API-Key": KEY + "x"},
        {"Authorization": "Bearer"},
        {"X-API-Key": "ключ".encode()},
    ],
)
def test_without_a_key_there_is_401_everywhere_but_health_and_documents(
    locked: TestClient, headers: Any
) -> None:
    for method, path in (
        ("POST", "/v1/embeddings"),
        ("POST", "/v2/embed"),
        ("POST", "/vectorize"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("GET", "/nothing"),
    ):
        response = locked.request(method, path, headers=headers, json={"input": "a"})
        assert response.status_code == 401, path
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert "key" in response.text
    for path in ("/health/live", "/docs", "/openapi.json"):
        assert locked.get(path, headers=headers).status_code == 200


def test_a_wrong_key_is_told_apart_from_none(locked: TestClient) -> None:
    for headers, fragment in (
        (
            {},
            "the request has no API key; send it as Authorization: Bearer KEY, as x-api-key "
            "or as api-key.",
        ),
        ({"Authorization": f"Basic {KEY}"}, "the request has no API key"),
        ({"Authorization": "Bearer wrong"}, "this API key is not known"),
        ({"X-API-Key": KEY + "x"}, "this API key is not known"),
    ):
        assert (
            fragment
            in locked.get("/v1/models", headers=headers).json()["error"]["message"]
        )


def test_errors_come_in_the_shape_of_who_is_asked(locked: TestClient) -> None:
    error = locked.post("/v1/embeddings").json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == "invalid_api_key"
    assert locked.post("/v2/embed").json().keys() == {"message"}
    assert locked.post("/vectorize").json().keys() == {"error"}


def test_a_wrong_method_is_told_the_right_one(client: TestClient) -> None:
    response = client.get("/v1/embeddings")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert "accepts POST only" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/", "/health/live", "/health/ready", "/v1/models"])
def test_what_can_be_got_has_a_head(client: TestClient, path: str) -> None:
    got = client.get(path)
    head = client.head(path)
    assert (head.status_code, head.headers["content-type"]) == (
        got.status_code,
        got.headers["content-type"],
    )
    assert head.content == b""


def test_a_sane_request_id_is_kept_and_another_is_replaced(client: TestClient) -> None:
    assert (
        client.get("/health/live", headers={"X-Request-ID": "order-17:b"}).headers[
            "X-Request-ID"
        ]
        == "order-17:b"
    )
    made = {client.get("/health/live").headers["X-Request-ID"] for _ in range(3)}
    assert len(made) == 3
    for odd in ("a b", "x" * 101, "é", '"}'):
        given = client.get(
            "/health/live", headers={b"X-Request-ID": odd.encode()}
        ).headers["X-Request-ID"]
        assert given not in (odd, "")


def test_a_body_that_is_too_large_is_refused_by_its_head(serve: Serve) -> None:
    small = serve(max_body_bytes=1000)
    response = small.post("/v1/embeddings", json={"input": "a" * 1000})
    assert response.status_code == 413
    assert "1000 bytes" in response.json()["error"]["message"]


def test_a_body_that_does_not_say_its_size_is_refused_once_it_is_too_large(
    serve: Serve,
) -> None:
    taken = 0

    def endless() -> Any:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield b" " * 100

    response = serve(max_body_bytes=1000).post("/v1/embeddings", content=endless())
    assert response.status_code == 413
    assert response.headers["connection"] == "close"


def gate_of(client: TestClient) -> Gate:
    gate: Any = client.app.middleware_stack  # type: ignore[attr-defined]  # FastAPI's
    while not isinstance(gate, Gate):
        gate = gate.app
    return gate


def test_bodies_together_are_bounded_too(serve: Serve) -> None:
    bounded = serve(max_body_bytes=1000, queue_bytes=1000)
    gate = gate_of(bounded)
    gate.held_bytes = 990
    response = bounded.post("/v1/embeddings", json={"input": "a"})
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "1"
    assert gate.held_bytes == 990
    gate.held_bytes = 0
    assert bounded.post("/v1/embeddings", json={"input": "a"}).status_code == 200
    assert gate.held_bytes == 0


Fetched = list[str]


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch, png: Callable[[int], bytes]) -> Fetched:
    """The URLs that were fetched; there is an image of 10 kB behind each, a while later."""
    urls: Fetched = []

    async def fetch_image(url: str, _: ServeConfig) -> bytes:
        urls.append(url)
        await asyncio.sleep(0.01)
        return png(0) + bytes(10_000)

    monkeypatch.setattr(gate_module, "fetch_image", fetch_image)
    return urls


def images(count: int) -> dict[str, Any]:
    return {
        "input": [
            {"image": f"https://img.shop.com/{number}"} for number in range(count)
        ]
    }


def test_an_images_url_gives_the_vector_of_its_bytes(
    client: TestClient, served: Embedder, png: Callable[[int], bytes], fetched: Fetched
) -> None:
    data = client.post("/v1/embeddings", json=images(1)).json()["data"]
    np.testing.assert_allclose(
        [data[0]["embedding"]], served.encode([png(0)]), atol=1e-5
    )
    assert fetched == ["https://img.shop.com/0"]
    assert gate_of(client).held_bytes == 0


def test_fetched_images_count_as_a_body_does(serve: Serve, fetched: Fetched) -> None:
    small = serve(max_body_bytes=50_000)
    response = small.post("/v1/embeddings", json=images(100))
    assert (response.status_code, response.headers["connection"]) == (413, "close")
    assert "the images of its URLs" in response.json()["error"]["message"]
    assert len(fetched) < 20  # no more than were on their way
    assert gate_of(small).held_bytes == 0


def test_fetched_images_of_all_requests_are_bounded_together(
    serve: Serve, fetched: Fetched
) -> None:
    bounded = serve(max_body_bytes=50_000, queue_bytes=100_000)
    gate = gate_of(bounded)
    gate.held_bytes = 95_000
    response = bounded.post("/v1/embeddings", json=images(2))
    assert (response.status_code, response.headers["Retry-After"]) == (429, "1")
    assert gate.held_bytes == 95_000


def test_a_full_queue_has_nothing_fetched(serve: Serve, fetched: Fetched) -> None:
    full = serve(max_items=2, queue_items=2)
    engine = full.app.state.engine  # type: ignore[attr-defined]  # FastAPI's
    engine.queue.num_items = 2
    response = full.post("/v1/embeddings", json=images(1))
    engine.queue.num_items = 0
    assert (response.status_code, fetched) == (429, [])


def test_pages_of_other_origins_may_ask_only_when_they_are_named(
    client: TestClient, serve: Serve
) -> None:
    headers = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
    }
    assert (
        "access-control-allow-origin"
        not in client.options("/v1/embeddings", headers=headers).headers
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(API_KEYS, KEY)  # which a browser's first question does not bring
        shop = serve(cors=["https://shop.example"])
    allowed = shop.options("/v1/embeddings", headers=headers)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (
        200,
        "https://shop.example",
    )
    assert "access-control-allow-credentials" not in allowed.headers
    other = {**headers, "Origin": "https://evil.example"}
    assert (
        "access-control-allow-origin"
        not in shop.options("/v1/embeddings", headers=other).headers
    )
    refused = shop.post("/v1/embeddings", headers={"Origin": "https://shop.example"})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (
        401,
        "https://shop.example",
    )


STAINLESS = (  # what OpenAI's client adds
    "x-stainless-arch",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-timeout",
)


@pytest.mark.parametrize(
    "names",
    [
        ",".join(("authorization", "content-type", *STAINLESS)),
        "x-client-name,x-api-key",
    ],
)
def test_a_browsers_question_may_name_any_header(serve: Serve, names: str) -> None:
    shop = serve(cors=["https://shop.example"])
    headers = {
        "Origin": "https://shop.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": names,
    }
    allowed = shop.options("/v1/embeddings", headers=headers)
    assert allowed.status_code == 200
    assert set(names.split(",")) <= set(
        allowed.headers["access-control-allow-headers"].lower().split(",")
    )
    answer = shop.post(
        "/v1/embeddings",
        json={"input": "a"},
        headers={"Origin": "https://shop.example"},
    )
    assert "X-Unimodal-Ignored" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "path", ["/v1/embeddings/", "/v2/embed/", "/embeddings//", "/v1/embed/"]
)
def test_a_slash_at_the_end_is_not_a_redirect(client: TestClient, path: str) -> None:
    body = (
        {"input": ["a"]}
        if "embeddings" in path
        else {"texts": ["a"], "input_type": "classification"}
    )
    assert client.post(path, json=body, follow_redirects=False).status_code == 200


def test_a_full_queue_is_429_with_the_time_to_wait(serve: Serve) -> None:
    full = serve(max_items=2, queue_items=2)
    engine = full.app.state.engine  # type: ignore[attr-defined]  # FastAPI's
    engine.queue.num_items = 2
    response = full.post("/v1/embeddings", json={"input": "a"})
    engine.queue.num_items = 0
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) >= 1
    assert response.json()["error"]["code"] == "rate_limit_exceeded"


def test_what_breaks_inside_is_500_without_a_word_about_it(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    broken = serve()
    app: Any = broken.app

    async def fail() -> None:
        raise RuntimeError("secret path /srv/models")

    app.add_api_route("/broken", fail)

    response = broken.get("/broken")
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "something went wrong in the server."
    assert "x-request-id" in response.headers
    assert "secret path" in caplog.text  # in the log it is


def test_metrics_count_every_request_that_was_sent(
    serve: Serve, texts: list[str]
) -> None:
    counted = serve()
    for _ in range(3):
        counted.post("/v1/embeddings", json={"input": texts})
    counted.post("/v1/embeddings", json={"input": []})
    for path in ("/a", "/b"):
        counted.get(path)
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(counted.get("/metrics").text)
        for sample in family.samples
    }
    assert samples["unimodal_requests_total", "/v1/embeddings", "200", "POST"] == 3
    assert samples["unimodal_requests_total", "/v1/embeddings", "400", "POST"] == 1
    assert samples["unimodal_requests_total", "404", "GET", "other"] == 2
    assert samples["unimodal_request_seconds_count", "/v1/embeddings"] == 4
    assert samples["unimodal_items_total", "text"] == 3 * len(texts)
    assert samples["unimodal_queue_items",] == 0
    assert samples["unimodal_batch_size_count", "text"] >= 3


def test_a_request_is_one_line_of_the_log_without_what_was_sent(
    locked: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "unimodal"):
        headers = {"Authorization": f"Bearer {KEY}", "X-Request-ID": "order-18"}
        locked.post(
            "/v1/embeddings?note=1",
            json={"input": ["private words", "more"]},
            headers=headers,
        )
        locked.get("/health/live")
    (record,) = caplog.records
    line = json.loads(JsonLines().format(record))
    facts = {key: line[key] for key in ("level", "method", "path", "status", "items")}
    assert facts == {
        "level": "info",
        "method": "POST",
        "path": "/v1/embeddings",
        "status": 200,
        "items": 2,
    }
    assert line["ms"] > 0
    assert "private" not in str(line)
    assert KEY not in str(line)


def test_a_path_forges_no_line_of_a_text_log(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "unimodal"):
        client.get("/a%0A12:00:00 INFO forged %1B[2J")
    line = TextLines().format(caplog.records[0])
    assert r" path=/a\n12:00:00 INFO forged \x1b[2J " in line
    assert line.isprintable()


def test_a_signal_that_comes_amid_a_request_is_logged_without_its_id(
    served: Embedder,
) -> None:
    engine = Engine(served, ServeConfig(model="tiny"))
    server = Server(uvicorn.Config(FastAPI()), engine, delay_seconds=0)
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    logger = logging.getLogger("unimodal.serve.server")
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)

    def amid_a_request() -> None:
        request_id.set("order-19")
        server.handle_exit(signal.SIGTERM, None)

    copy_context().run(amid_a_request)
    logger.removeHandler(handler)
    logger.setLevel(level)
    assert "not ready any more" in lines.getvalue()
    assert "order-19" not in lines.getvalue()


def test_it_is_not_ready_before_the_model_has_run_nor_when_it_goes_down(
    serve: Serve, embedder: Embedder
) -> None:
    may_run = threading.Event()
    encode_prepared = embedder.encode_prepared

    def held_back(batch: Sequence[Prepared], copy: int = 0) -> Vectors:
        may_run.wait()
        return encode_prepared(batch, copy)

    embedder.encode_prepared = held_back  # type: ignore[method-assign]  # a model that loads slowly
    client = serve(embedder)
    assert client.get("/health/ready").json() == {
        "status": "not ready",
        "reason": "warming up",
    }
    assert client.get("/.well-known/ready").status_code == 503
    assert client.get("/health/live").status_code == 200
    may_run.set()
    assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200
    assert client.get("/health/ready").json() == {"status": "ready"}
    assert client.get("/.well-known/ready").status_code == 204
    app: Any = client.app
    app.state.engine.lifecycle.draining = True
    response = client.get("/health/ready")
    assert (response.status_code, response.headers["connection"]) == (503, "close")
    assert "unimodal_ready 0.0" in client.get("/metrics").text
    app.state.engine.lifecycle.draining = False


def test_the_documents_need_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "//" not in page.text.replace("https://shop.com", "")
    assert "<script" not in page.text
    assert "/v1/embeddings" in page.text
    assert client.get("/", follow_redirects=False).headers["location"] == "/docs"


def test_vectors_do_not_depend_on_who_else_asks(
    client: TestClient,
    served: Embedder,
    texts: list[str],
    data_uri: Callable[[int], str],
) -> None:
    alone = np.array(
        [
            client.post("/v1/embeddings", json={"input": text}).json()["data"][0][
                "embedding"
            ]
            for text in texts
        ]
    )
    mixed: list[Any] = [*texts, {"image": data_uri(0)}, *texts]
    together = client.post("/v1/embeddings", json={"input": mixed}).json()["data"]
    assert (
        np.abs(
            np.array([entry["embedding"] for entry in together[: len(texts)]]) - alone
        ).max()
        <= 1e-5
    )
