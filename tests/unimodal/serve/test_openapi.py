"""What the description says is what the server does, whatever it is sent."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from starlette.testclient import TestClient

from tests.unimodal.serve.conftest import Serve


def test_every_route_is_described(client: TestClient) -> None:
    spec = client.get("/openapi.json").json()
    assert {
        "/v1/embeddings",
        "/v1/models",
        "/v1/embed",
        "/v2/embed",
        "/embed",
        "/vectorize",
        "/health/ready",
        "/metrics",
    } <= spec["paths"].keys()
    body = spec["components"]["schemas"]["EmbeddingsBody"]
    assert {"input", "messages", "dimensions", "late_chunking"} <= body[
        "properties"
    ].keys()
    assert body["additionalProperties"]  # ignored, and named in a header


@pytest.mark.parametrize("examples", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_nothing_that_can_be_sent_gives_a_5xx(serve: Serve, examples: int) -> None:
    client = serve(names=["*"])
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    statuses: Counter[int] = Counter()

    def ask(case: Any) -> None:
        sent = case.as_transport_kwargs(base_url="http://testserver")
        response = client.request(
            sent["method"],
            sent["url"],
            params=sent.get("params"),
            headers=dict(sent.get("headers") or {}),
            json=sent.get("json"),
            content=sent.get("data"),
        )
        statuses[response.status_code] += 1
        assert response.status_code < 500, f"{sent} -> {response.text}"

    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in (
            schemathesis.GenerationMode
        ):  # what fits the description, and what does not
            if mode == schemathesis.GenerationMode.NEGATIVE and not operation.body:
                continue  # nothing to get wrong
            fuzz = given(case=operation.as_strategy(generation_mode=mode))(ask)
            settings(
                max_examples=examples,
                derandomize=True,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )(fuzz)()
    assert {200, 400} <= statuses.keys()
