"""The blocks of the README and of docs/guides run, page by page, in order, each page in a folder
with a demo in it.

A word behind the language of a block says how: `no-run` never, `long` only in `make test-all`,
where the demo is the real one. In `make test` a demo of a few products stands in for it, whose
model has hardly learned anything.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from training.config import TrainConfig
from unimodal.cli.demo import index_catalogue
from unimodal.cli.train import run_training_by
from unimodal.config import read_config
from unimodal.demo.catalogue import build_catalogue, training_texts
from unimodal.preprocess.tokenizers import train_tokenizer
from unimodal.shards.config import PackRecipe
from unimodal.shards.write import pack_all

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs" / "guides").glob("*.md"))]
BLOCK = re.compile(r"^```(bash|python)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
WORDS = {"no-run", "long"}


class Block(NamedTuple):
    """A block of a page that can be run."""

    language: str
    words: frozenset[str]
    code: str


def blocks_of(page: Path) -> list[Block]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [
        Block(language, frozenset(words.split()), code)
        for language, words, code in found
    ]


def run(blocks: list[Block], folder: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("PYTHONPATH", None)
    for block in blocks:
        (folder / "block.py").write_text(block.code, encoding="utf-8")
        shell = ["bash", "-euo", "pipefail", "-c", block.code]
        command = shell if block.language == "bash" else [sys.executable, "block.py"]
        result = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert result.returncode == 0, f"{block.code}\n{result.stdout}\n{result.stderr}"


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `unimodal demo` leaves in runs/demo, of 256 products and after two steps."""
    folder = tmp_path_factory.mktemp("small") / "runs" / "demo"
    data = folder / "data"
    build_catalogue(data, size=64, num_train=256, num_val=32, num_test=64, workers=1)
    train_tokenizer(training_texts(data), folder / "tokenizer.json", vocab_size=2000)
    pack_all(
        read_config(
            PackRecipe, "demo-shards", [f"data_root={data}", f"out={folder / 'shards'}"]
        )
    )
    changes = {
        "run": folder,
        "data_root": folder / "shards",
        "model.text.tokenizer": folder / "tokenizer.json",
        "steps": 2,
        "tasks.pictures.global_batch": 32,
        "tasks.texts.global_batch": 32,
        "workers": 0,
        "eval": "null",
    }
    config = read_config(
        TrainConfig, "demo", [f"{key}={value}" for key, value in changes.items()]
    )
    model = run_training_by(config, resume=True)
    index_catalogue(model, data, folder / "store")
    return folder


@pytest.fixture(scope="module")
def real_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/demo after `unimodal demo`."""
    folder = tmp_path_factory.mktemp("real")
    run([Block("bash", frozenset(), "unimodal demo")], folder)
    return folder / "runs" / "demo"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.timeout(1500)
def test_the_short_blocks_of_a_page_run(
    page: Path, small_demo: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_demo, tmp_path / "runs" / "demo")
    run([block for block in blocks_of(page) if not block.words], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.timeout(3600)
def test_all_blocks_of_a_page_run(page: Path, real_demo: Path, tmp_path: Path) -> None:
    shutil.copytree(real_demo, tmp_path / "runs" / "demo")
    run([block for block in blocks_of(page) if "no-run" not in block.words], tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_words_behind_a_blocks_language_are_known(page: Path) -> None:
    assert {word for block in blocks_of(page) for word in block.words} <= WORDS


def test_the_readme_has_blocks_for_every_room() -> None:
    code = "\n".join(
        block.code for block in blocks_of(README) if "no-run" not in block.words
    )
    for word in (
        "unimodal.load",
        "unimodal embed",
        "unimodal train",
        "unimodal eval",
        "shards pack",
        "torchrun",
        "unimodal index",
        "unimodal search",
        "unimodal serve",
    ):
        assert word in code


def test_the_suite_of_the_readme_is_one(tmp_path: Path) -> None:
    from eval.suites import read_suite

    blocks = re.findall(
        r"^```yaml\n(tasks:.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S
    )
    (tmp_path / "own.yaml").write_text(blocks[0], encoding="utf-8")
    suite = read_suite(tmp_path / "own.yaml")
    assert [task.kind for task in suite.tasks.values()] == [
        "image-text",
        "text-retrieval",
        "beir",
        "webdataset",
    ]
