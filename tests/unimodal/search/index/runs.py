"""Runs of `index` in processes of their own, which share one import of everything and can be slowed
and killed.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

IMPORTED = [
    "unimodal.embedder",
    "unimodal.search.index.run",
    "unimodal.search.stores.lance",
    "timm",
    "transformers.models.bert",
]


class Run:
    """One process: what it answers, and its end."""

    def __init__(
        self, model: str, values: Mapping[str, Any], store: str, **options: Any
    ) -> None:
        """options: `slow`, the seconds that each call of `what` takes longer; `engine`; others are
        environment.
        """
        # Not fork: the store's threads of this process would be missing in the child.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        self._answers, theirs = context.Pipe(duplex=False)
        words = (theirs, model, dict(values), store, options)
        self.process: BaseProcess = context.Process(
            target=_index, args=words, daemon=True
        )
        self.process.start()
        theirs.close()

    def summary(self, seconds: float = 120) -> Any:
        """What `index` returned, or the OSError that it ended with."""
        assert self._answers.poll(seconds), "the run has not ended in time"
        summary = self._answers.recv()
        self.process.join(seconds)
        return summary

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.join(60)


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    """Raises AssertionError when something does not come true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it has not come true in time"
        time.sleep(0.005)


def _index(
    answers: Connection,
    model: str,
    values: dict[str, Any],
    store: str,
    options: dict[str, Any],
) -> None:
    import torch

    from unimodal.config import parse_config
    from unimodal.search.index.items import IndexConfig
    from unimodal.search.index.run import index

    if what := options.pop("what", ""):
        _slow_down(what, options.pop("slow"))
    engine = options.pop("engine", "process")
    os.environ.update(options)
    torch.set_num_threads(1)
    device = "cpu" if engine == "process" else None
    try:
        answers.send(
            index(
                model,
                parse_config(IndexConfig, values),
                store,
                device=device,
                engine=engine,
            )
        )
    except OSError as error:
        answers.send(error)


def _slow_down(what: str, seconds: float) -> None:
    from unimodal.embedder import Embedder
    from unimodal.search.index import plan as planning
    from unimodal.search.index import ray as on_ray
    from unimodal.search.index import run as indexing
    from unimodal.search.stores.base import VectorStore

    owners = {
        "encode": Embedder,
        "upsert": VectorStore,
        "delete": VectorStore,
        "write_partition": on_ray,
        "open_store": planning,
        "write_inputs": indexing,
    }
    owner: Any = owners[what]
    method = getattr(owner, what)

    def slow(*words: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return method(*words, **named)

    setattr(owner, what, slow)
