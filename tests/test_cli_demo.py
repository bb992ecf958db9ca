"""How the demo ends: its products in a store, the commands to search it, and an offer to whoever sits at a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from unimodal.checkpoint import save_model
from unimodal.cli.demo import index_catalogue, offer_search
from unimodal.config import ModelConfig
from unimodal.demo.catalogue import build_catalogue, read_products, training_texts
from unimodal.model import build_model
from unimodal.preprocess import load_tokenizer, train_tokenizer
from unimodal.search.store import open_store

OFFER = """
import sys, typer
from pathlib import Path
from unimodal.cli.demo import offer_search
try:
    offer_search(Path("model"), Path("store"))
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalogue of 12 products, a model that has learned nothing, and the store of both."""
    folder = tmp_path_factory.mktemp("demo")
    build_catalogue(folder / "data", size=32, num_train=24, num_val=4, num_test=12, workers=1)
    train_tokenizer(training_texts(folder / "data"), folder / "tokenizer.json", vocab_size=300)
    config = ModelConfig.model_validate({
        "embed_dim": 16,
        "image": {"name": "test_vit", "kwargs": {"depth": 1, "embed_dim": 32, "num_heads": 2}},
        "text": {"name": "bert", "tokenizer": str(folder / "tokenizer.json"), "max_length": 32, "kwargs": {
            "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 64}},
        "preprocess": {"image_size": 32},
    })  # fmt: skip
    torch.manual_seed(0)
    assert config.text is not None
    save_model(folder / "model", build_model(config).eval(), load_tokenizer(config.text)[0])
    index_catalogue(folder / "model", folder / "data", folder / "store")
    return folder


def test_the_demos_products_are_in_its_store_with_their_texts_pictures_and_prices(demo: Path) -> None:
    store = open_store(str(demo / "store"))
    assert store.count() == 12
    assert store.schema.vectors == ("text", "image", "fused")
    assert store.schema.words
    assert store.schema.thumbnails
    rows = {row["id"]: row for batch in store.scan(columns=["id", "title", "price"]) for row in batch.to_pylist()}
    for product in read_products(demo / "data", "test"):
        assert rows[product.id]["title"] == product.title
        assert rows[product.id]["price"] == pytest.approx(product.price)
    store.close()


def test_a_second_demo_embeds_nothing_again(demo: Path) -> None:
    files = {file: file.stat().st_mtime_ns for file in demo.rglob("*.parquet")}
    index_catalogue(demo / "model", demo / "data", demo / "store")
    assert files == {file: file.stat().st_mtime_ns for file in demo.rglob("*.parquet")}
    assert len(files) == 1


def test_without_a_terminal_the_commands_are_said_and_nothing_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    offer_search(Path("runs/demo/model"), Path("runs/demo/store"))
    assert capsys.readouterr().err.splitlines() == [
        'search it: unimodal search runs/demo/store "a navy mug with stripes" '
        '--where "price < 50" --fields title,price',
        "serve it, with a page: unimodal serve runs/demo/model --store runs/demo/store",
    ]


class Terminal:
    """The offer, made at a terminal in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", OFFER], cwd=folder, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        os.close(slave)
        self.said = ""

    def wait_for(self, pattern: str, seconds: float = 120) -> re.Match[str]:
        """Read until it has said something like this."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.said)):
            assert time.monotonic() < end, self.said
            if select.select([self.master], [], [], 0.2)[0]:
                self.said += os.read(self.master, 4096).decode(errors="replace")
        return match

    def answer(self, text: str) -> None:
        os.write(self.master, text.encode())


@pytest.fixture
def terminal(demo: Path) -> Iterator[Terminal]:
    terminal = Terminal(demo)
    yield terminal
    if terminal.process.poll() is None:
        terminal.process.kill()
    os.close(terminal.master)


def test_at_a_terminal_no_means_no(terminal: Terminal) -> None:
    terminal.wait_for(r"Serve it now.*\[Y/n\]")
    terminal.answer("n\n")
    assert terminal.process.wait(timeout=60) == 0


def test_at_a_terminal_yes_serves_the_page_until_ctrl_c(terminal: Terminal) -> None:
    terminal.wait_for(r"\[Y/n\]")
    terminal.answer("\n")
    address = terminal.wait_for(r"http://127\.0\.0\.1:\d+")[0]
    end = time.monotonic() + 60
    while True:
        try:
            page = urllib.request.urlopen(address, timeout=30).read().decode()
            break
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.1)
    assert "Find it by words" in page
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(timeout=60) == 0
