"""What docs/guides/serve.md tells a client to send is answered."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from unimodal.serve.api.search import SearchBody

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "serve.md").read_text(
    encoding="utf-8"
)


def requests() -> list[tuple[str, Any]]:
    """(path, body) of each curl command."""
    pairs = []
    for block in re.findall(r"^```bash[^\n]*\n(.*?)^```", GUIDE, re.M | re.S):
        for command in re.split(r"^(?=curl )", block, flags=re.M):
            words = shlex.split(command)
            if words[:1] == ["curl"]:
                pairs.append(
                    (urlsplit(words[1]).path, json.loads(words[words.index("-d") + 1]))
                )
    return pairs


def with_images(value: Any, uri: str) -> Any:
    if isinstance(value, dict):
        return {key: with_images(item, uri) for key, item in value.items()}
    if isinstance(value, list):
        return [with_images(item, uri) for item in value]
    return uri if isinstance(value, str) and value.startswith("data:") else value


@pytest.mark.parametrize(("path", "body"), requests())
def test_a_request_of_the_guide_is_answered(
    client: TestClient, data_uri: Callable[[int], str], path: str, body: Any
) -> None:
    if path == "/v1/search":
        assert SearchBody.model_validate(body).filters
    else:
        assert client.post(path, json=with_images(body, data_uri(1))).status_code == 200


def test_every_route_that_embeds_is_in_the_guide(client: TestClient) -> None:
    embedding = {
        path
        for path, way in client.get("/openapi.json").json()["paths"].items()
        if "post" in way
    }
    assert embedding <= set(re.findall(r"`POST (/[^`?]*)`", GUIDE))
