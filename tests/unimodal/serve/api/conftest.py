"""A served shop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.unimodal.serve.shop import build_shop
from unimodal.embedder import Embedder
from unimodal.serve.app import create_app
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine


@pytest.fixture(scope="module")
def shop(
    served: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    store = build_shop(tmp_path_factory.mktemp("shop") / "store", served)
    config = ServeConfig(model="tiny", max_hits=50)
    with TestClient(create_app(Engine(served, config), config, store)) as shop:
        yield shop
    store.close()
