"""A tiny world to train in: coloured squares with captions, pairs of texts with hard negatives, a
tokenizer.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.config import TrainConfig
from unimodal.config import merge, parse_config
from unimodal.preprocess.tokenizers import train_tokenizer
from unimodal.shards.config import PackConfig
from unimodal.shards.write import pack

Recipe = Callable[..., TrainConfig]

COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 60, 200),
    "yellow": (220, 210, 40),
}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
THINGS = ("mug", "chair", "lamp", "shoe", "ball", "book")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The Chromium of this machine, driven by playwright; skips where one of them is missing."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("there is no chromium here")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards/pictures (79 samples in 4 uneven tars), shards/pairs (61 in 3) and
    tokenizer.json.
    """
    folder = tmp_path_factory.mktemp("world")
    draw = np.random.default_rng(0)
    (folder / "images").mkdir()
    images = []
    pairs = []
    for number in range(79):
        name, colour = list(COLOURS.items())[number % 4]
        thing = THINGS[number % len(THINGS)]
        pixels = np.clip(
            np.array(colour) + draw.normal(0, 20, (20, 20, 3)), 0, 255
        ).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{number}.png")
        images.append(
            {
                "image": f"images/{number}.png",
                "captions": [f"a {name} {thing} number {number}", f"{name} {thing}"],
            }
        )
    for number in range(61):
        name = list(COLOURS)[number % 4]
        thing = THINGS[number % len(THINGS)]
        text = f"this {thing} is {name} " + "and it is very well made " * (number % 5)
        negatives = [f"this {thing} is not {name}", f"nothing like {thing} {number}"]
        pairs.append(
            {
                "query": f"{name} {thing} {number}",
                "document": text + str(number),
                "negatives": negatives,
            }
        )
    for name, rows in (("pictures", images), ("pairs", pairs)):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    options: dict[str, dict[str, Any]] = {
        "pictures": {"image": "image", "captions": ["captions"]},
        "pairs": {"query": "query", "document": "document", "negatives": "negatives"},
    }
    for name, fields in options.items():
        config = parse_config(
            PackConfig, {"input": f"{name}.jsonl", "samples_per_shard": 24, **fields}
        )
        pack(config, folder / "shards" / name, folder)
    texts = [caption for row in images for caption in row["captions"]] + [
        str(row["document"]) for row in pairs
    ]
    train_tokenizer(texts, folder / "tokenizer.json", vocab_size=200)
    return folder


@pytest.fixture
def recipe(world: Path, tmp_path: Path) -> Recipe:
    """A function from changes to a recipe of a model small enough to train in a second."""

    def make(changes: dict[str, Any] | None = None) -> TrainConfig:
        base = {
            "run": str(tmp_path / "run"),
            "data_root": str(world / "shards"),
            "model": {
                "embed_dim": 16,
                "image": {
                    "name": "vit_tiny_patch16_224",
                    "kwargs": {
                        "patch_size": 8,
                        "embed_dim": 24,
                        "depth": 2,
                        "num_heads": 2,
                    },
                },
                "text": {
                    "name": "bert",
                    "tokenizer": str(world / "tokenizer.json"),
                    "max_length": 24,
                    "kwargs": {
                        "vocab_size": 200,
                        "hidden_size": 24,
                        "num_hidden_layers": 2,
                        "num_attention_heads": 2,
                        "intermediate_size": 32,
                        "hidden_dropout_prob": 0.0,
                        "attention_probs_dropout_prob": 0.0,
                        "max_position_embeddings": 32,
                    },
                },
                "preprocess": {"image_size": 16},
            },
            "tasks": {
                "pictures": {
                    "kind": "image-text",
                    "global_batch": 24,
                    "streams": 12,
                    "max_length": 16,
                    "sources": {"squares": {"path": "pictures"}},
                },
                "pairs": {
                    "kind": "text-text",
                    "global_batch": 12,
                    "streams": 12,
                    "max_length": 24,
                    "num_negatives": 1,
                    "sources": {"pairs": {"path": "pairs"}},
                },
            },
            "steps": 8,
            "optim": {"lr": 1e-3, "warmup_steps": 2},
            "workers": 0,
            "device": "cpu",
            "log_every": 1,
            "save_every": 100,
            "step": {"token_budget": 128},
        }
        return parse_config(TrainConfig, merge(base, changes or {}))

    return make


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards from elsewhere stay in the folder of the test."""
    monkeypatch.setenv("UNIMODAL_CACHE", str(tmp_path / "cache of shards"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Write what was skipped, and why, into the file $SKIPPED_TESTS: `make test` shows it last."""
    file = os.environ.get("SKIPPED_TESTS")
    if file:
        Path(file).write_text(
            describe_skipped(terminalreporter.stats.get("skipped", [])),
            encoding="utf-8",
        )


def describe_skipped(reports: Iterable[Any]) -> str:
    """A line for each reason, with the number of tests and the files that they are in."""
    files: dict[str, Counter[str]] = {}
    for report in reports:
        _, _, reason = report.longrepr
        counts = files.setdefault(str(reason).removeprefix("Skipped: "), Counter())
        counts[report.nodeid.partition("::")[0]] += 1
    lines = [
        "not run: tests marked slow (make test-all), matrix (make matrix) and torture "
        "(make torture)"
    ]
    for reason, counts in sorted(files.items()):
        places = ", ".join(
            f"{count} in {name}" for name, count in sorted(counts.items())
        )
        lines.append(f"skipped: {reason}: {places}")
    if not files:
        lines.append("skipped: nothing")
    return "\n".join(lines) + "\n"
