"""An engine that runs in a test, and a model that is watched."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from unimodal.embedder import Embedder, Prepared
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine
from unimodal.serve.engine.jobs import Embedded, Failed
from unimodal.vectors import Vectors

PATIENCE = 20.0  # seconds until something that should happen at once counts as lost


class Watched:
    """Replaces an embedder's forward pass: notes its batches, holds it up, or makes it fail."""

    def __init__(self, embedder: Embedder) -> None:
        self.batches: list[int] = []
        self.opened = threading.Event()
        self.opened.set()
        self.fault: Callable[[Sequence[Prepared]], Exception | None] = lambda batch: (
            None
        )
        self._forward = embedder.encode_prepared
        embedder.encode_prepared = self  # type: ignore[method-assign, assignment]

    def __call__(self, batch: Sequence[Prepared], copy: int = 0) -> Vectors:
        self.batches.append(len(batch))
        assert self.opened.wait(PATIENCE)
        error = self.fault(batch)
        if error is not None:
            raise error
        return self._forward(batch, copy)


@contextmanager
def started(embedder: Embedder, **values: Any) -> Iterator[Engine]:
    """An engine that is warm and has counted nothing."""
    engine = Engine(embedder, ServeConfig(model="m", **values))
    engine.start()
    until(lambda: engine.ready()[1] != "warming up")
    if isinstance(embedder.encode_prepared, Watched):
        embedder.encode_prepared.batches.clear()
    try:
        yield engine
    finally:
        if isinstance(embedder.encode_prepared, Watched):
            embedder.encode_prepared.opened.set()
        engine.close()


def until(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


async def soon(happened: Callable[[], Any]) -> None:
    """As `until`, while the event loop runs."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.002)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE))


def vectors_of(outcomes: Sequence[Embedded | Failed]) -> Vectors:
    assert all(isinstance(outcome, Embedded) for outcome in outcomes), outcomes
    return np.stack(
        [outcome.vector for outcome in outcomes if isinstance(outcome, Embedded)]
    )


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def is_text(batch: Sequence[Prepared]) -> bool:
    return isinstance(batch[0], list)
