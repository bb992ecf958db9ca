"""Fixtures of the torture suite: its figures, the process that starts runs, a source of several
epochs.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import COLOURS, THINGS
from tests.torture.nursery import Life, Nursery
from training.config import TrainConfig

Figure = Callable[[str, float, str], None]
Start = Callable[..., Life]

_FIGURES: list[dict[str, Any]] = []
# Samples of the shards of `many`: uneven, 1,204 in all.
SIZES = (260, 7, 181, 260, 93, 212, 1, 190)


@pytest.fixture
def figure() -> Figure:
    """Record a figure (name, value, unit), printed at the end and written to $TORTURE_JSON."""

    def note(name: str, value: float, unit: str) -> None:
        _FIGURES.append({"name": name, "value": value, "unit": unit})

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of figures."""
    if not _FIGURES:
        return
    if file := os.environ.get("TORTURE_JSON"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(_FIGURES, indent=1) + "\n", encoding="utf-8")
    terminalreporter.section("figures")
    for row in _FIGURES:
        terminalreporter.write_line(
            f"{row['value']:>16,.6g} {row['unit']:<10} {row['name']}"
        )


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread: tensors this small are faster without threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """Starts runs without the time of their imports."""
    with Nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery


@pytest.fixture
def start(nursery: Nursery) -> Iterator[Start]:
    """A function that starts `unimodal train` of a recipe; words and options as for
    `Nursery.start`.
    """
    lives: list[Life] = []

    def begin(config: TrainConfig, *words: str, **options: Any) -> Life:
        file = Path(config.run).with_suffix(".yaml")
        # ranks of one run start one after the other, and the first may already read this file
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_text(
            yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8"
        )
        unfinished.rename(file)
        lives.append(nursery.start("train", str(file), *words, **options))
        return lives[-1]

    yield begin
    for life in lives:
        life.bury()


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight uneven tars with 1,204 small images, each with two captions."""
    folder = tmp_path_factory.mktemp("many")
    draw = np.random.default_rng(1)
    number = 0
    for shard, size in enumerate(SIZES):
        with tarfile.open(folder / f"{shard:06}.tar", "w") as tar:
            for _ in range(size):
                add_sample(
                    tar, f"{number:06}", make_image(number, draw), captions_of(number)
                )
                number += 1
    return folder


def stretched(seconds: float) -> float:
    """A limit of wall time on an idle machine, adapted to the load of this one."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def make_image(number: int, draw: np.random.Generator, format: str = "PNG") -> bytes:
    """A noisy square of 20 x 20 in the colour that its caption names."""
    colour = list(COLOURS.values())[number % len(COLOURS)]
    pixels = np.clip(np.array(colour) + draw.normal(0, 20, (20, 20, 3)), 0, 255).astype(
        np.uint8
    )
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def captions_of(number: int) -> bytes:
    """The .json of an image."""
    colour = list(COLOURS)[number % len(COLOURS)]
    thing = THINGS[number % len(THINGS)]
    return json.dumps(
        {"captions": [f"a {colour} {thing} number {number}", f"{colour} {thing}"]}
    ).encode()


def add_sample(
    tar: tarfile.TarFile,
    key: str,
    image: bytes,
    captions: bytes,
    extension: str = "png",
) -> None:
    """Append an image and its captions to a tar."""
    for name, content in ((f"{key}.{extension}", image), (f"{key}.json", captions)):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
