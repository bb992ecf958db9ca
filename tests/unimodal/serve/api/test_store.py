"""What the server says of its store."""

from __future__ import annotations

import pytest
import torch
from starlette.testclient import TestClient

from tests.unimodal.serve.api.searching import search
from tests.unimodal.serve.shop import build_shop
from unimodal.embedder import Embedder
from unimodal.model import build_model
from unimodal.model_config import ModelConfig
from unimodal.serve.app import create_app
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine


def test_the_store_says_what_a_page_needs(shop: TestClient) -> None:
    answer = shop.get("/v1/store").json()
    assert {
        key: answer[key]
        for key in (
            "model",
            "count",
            "vectors",
            "words",
            "modalities",
            "parent",
            "max_k",
        )
    } == {
        "model": "tiny",
        "count": 30,
        "vectors": ["text", "image", "fused"],
        "words": True,
        "modalities": ["image", "text"],
        "parent": "parent",
        "max_k": 50,
    }
    assert [field["name"] for field in answer["fields"]] == [
        "title",
        "price",
        "stock",
        "category",
        "colour",
        "new",
        "parent",
    ]


def test_a_store_of_another_model_is_refused_before_anything_is_served(
    served: Embedder, tiny: ModelConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    torch.manual_seed(1)
    other = Embedder(build_model(tiny).eval(), served.tokenizer, device="cpu")
    store = build_shop(tmp_path_factory.mktemp("other") / "store", other)
    config = ServeConfig(model="tiny")
    with pytest.raises(ValueError, match="holds vectors of tiny"):
        create_app(Engine(served, config), config, store)


def test_a_store_without_thumbnails_names_none(
    served: Embedder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = build_shop(
        tmp_path_factory.mktemp("plain") / "store", served, thumbnails=False
    )
    config = ServeConfig(model="tiny")
    with TestClient(create_app(Engine(served, config), config, store)) as shop:
        assert search(shop, text="bag", k=1)[0]["thumbnail"] is None
        assert shop.get("/v1/thumbnails/p%2F5").status_code == 404
