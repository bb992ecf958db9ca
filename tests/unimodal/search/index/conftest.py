"""Fixtures of indexing: a catalogue, the calls of the model, processes of one run."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.unimodal.search.index.products import (
    NUM,
    Catalogue,
)
from unimodal.embedder import Embedder


@pytest.fixture
def catalogue(tmp_path: Path, texts: list[str], images: list[Image.Image]) -> Catalogue:
    """A function that writes ten products, with some of their fields replaced (None: without the
    row).
    """
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")

    def write(**changes: dict[str, Any] | None) -> str:
        rows = []
        for number, text in enumerate(texts[:NUM]):
            photo = f"{number}.png" if number < len(images) else None
            row = {"id": f"p{number}", "title": text, "photo": photo, "price": number}
            change = changes.get(f"p{number}", {})
            rows += [] if change is None else [row | change]
        (tmp_path / "rows.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
        return str(tmp_path / "rows.jsonl")

    return write


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts or images each call of the model had."""
    counts: list[int] = []
    encode = Embedder.encode

    def counted(self: Embedder, inputs: Any, **options: Any) -> Any:
        counts.append(len(inputs))
        return encode(self, inputs, **options)

    monkeypatch.setattr(Embedder, "encode", counted)
    return counts


@pytest.fixture
def world() -> dict[str, str]:
    """The environment of two ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free.getsockname()[1]),
        }


@pytest.fixture(scope="session")
def noted_opens() -> list[list[str]]:
    """Holds the list that gets the name of each file that Python opens, while there is one."""
    listeners: list[list[str]] = []

    def note(event: str, values: tuple[Any, ...]) -> None:
        if event == "open" and listeners and isinstance(values[0], (str, Path)):
            listeners[0].append(str(values[0]))

    sys.addaudithook(note)  # it cannot be taken off again
    return listeners


@pytest.fixture
def opened(noted_opens: list[list[str]]) -> Iterator[list[str]]:
    """The names of the files that Python opens during the test."""
    names: list[str] = []
    noted_opens.append(names)
    yield names
    noted_opens.clear()
