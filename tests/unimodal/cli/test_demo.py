"""How the demo ends: its products in a store, the commands to search it, and an offer to whoever
sits at a terminal.
"""

from __future__ import annotations

import os
import pty
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import pytest
import torch
import typer
from starlette.testclient import TestClient

from unimodal.cli.demo import index_catalogue, offer_search
from unimodal.demo.catalogue import build_catalogue, read_products, training_texts
from unimodal.embedder import load
from unimodal.formats import native
from unimodal.model import build_model
from unimodal.model_config import ModelConfig
from unimodal.preprocess.tokenizers import load_tokenizer, train_tokenizer
from unimodal.search.stores.open import open_store
from unimodal.serve.app import create_app
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalogue of 12 products, a model that has learned nothing, and the store of
    both.
    """
    folder = tmp_path_factory.mktemp("demo")
    build_catalogue(
        folder / "data", size=32, num_train=24, num_val=4, num_test=12, workers=1
    )
    train_tokenizer(
        training_texts(folder / "data"), folder / "tokenizer.json", vocab_size=300
    )
    config = ModelConfig.model_validate(
        {
            "embed_dim": 16,
            "image": {
                "name": "test_vit",
                "kwargs": {"depth": 1, "embed_dim": 32, "num_heads": 2},
            },
            "text": {
                "name": "bert",
                "tokenizer": str(folder / "tokenizer.json"),
                "max_length": 32,
                "kwargs": {
                    "vocab_size": 300,
                    "hidden_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "intermediate_size": 32,
                    "max_position_embeddings": 64,
                },
            },
            "preprocess": {"image_size": 32},
        }
    )
    torch.manual_seed(0)
    assert config.text is not None
    native.save(
        folder / "model", build_model(config).eval(), load_tokenizer(config.text)[0]
    )
    index_catalogue(folder / "model", folder / "data", folder / "store")
    return folder


def test_the_demos_products_are_in_its_store_with_their_texts_images_and_prices(
    demo: Path,
) -> None:
    store = open_store(str(demo / "store"))
    assert store.count() == 12
    assert store.schema.vectors == ("text", "image", "fused")
    assert store.schema.words
    assert store.schema.thumbnails
    rows = {
        row["id"]: row
        for batch in store.scan(columns=["id", "title", "price"])
        for row in batch.to_pylist()
    }
    for product in read_products(demo / "data", "test"):
        assert rows[product.id]["title"] == product.title
        assert rows[product.id]["price"] == pytest.approx(product.price)
    store.close()


def test_a_second_demo_embeds_nothing_again(demo: Path) -> None:
    files = {file: file.stat().st_mtime_ns for file in demo.rglob("*.parquet")}
    index_catalogue(demo / "model", demo / "data", demo / "store")
    assert files == {file: file.stat().st_mtime_ns for file in demo.rglob("*.parquet")}
    assert len(files) == 1


def test_without_a_terminal_the_commands_are_said_and_nothing_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer_search(Path("runs/demo/model"), Path("runs/demo/store"))
    assert capsys.readouterr().err.splitlines() == [
        'search it: unimodal search runs/demo/store "a navy mug with stripes" '
        '--where "price < 50" --fields title,price',
        "serve it, with a page: unimodal serve runs/demo/model --store runs/demo/store",
    ]


@contextmanager
def terminal(typed: str) -> Iterator[None]:
    """Somebody at a terminal who types this."""
    master, slave = pty.openpty()
    os.write(master, typed.encode())
    with (
        open(slave, encoding="utf-8") as keyboard,
        open(os.dup(slave), "w", encoding="utf-8") as screen,
        redirect_stderr(screen),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "stdin", keyboard)
        yield
    os.close(master)


def test_at_a_terminal_no_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "unimodal.serve.server.serve", lambda config: pytest.fail("it is served")
    )
    with terminal("n\n"):
        offer_search(Path("model"), Path("store"))


def test_at_a_terminal_yes_serves_the_page(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[ServeConfig] = []

    def serve(config: ServeConfig) -> int:
        """What tests of `unimodal serve` run whole."""
        served.append(config)
        return 3

    monkeypatch.setattr("unimodal.serve.server.serve", serve)
    with terminal("\n"), pytest.raises(typer.Exit) as end:
        offer_search(demo / "model", demo / "store")
    assert end.value.exit_code == 3
    (config,) = served
    assert config.port == 0  # any that is free
    store = open_store(config.store)
    with TestClient(
        create_app(Engine(load(config.model), config), config, store)
    ) as client:
        assert "Search by words" in client.get("/").text
        assert (
            client.get(
                "/v1/search", params={"q": "a navy mug", "where": "price > 0"}
            ).json()["count"]
            == 10
        )
    store.close()
