"""A tiny model that takes its time, served by a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from unimodal.embedder import Embedder, Prepared
from unimodal.model import build_model
from unimodal.model_config import ModelConfig
from unimodal.preprocess.tokenizers import load_tokenizer
from unimodal.serve.app import create_app
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.engine import Engine
from unimodal.serve.logs import write_logs
from unimodal.serve.server import bind_socket, run
from unimodal.vectors import Vectors

# Imported once for all servers, with torch: what building a model would import in each of them.
PRELOADED = [__name__, "timm", "transformers.models.bert.modeling_bert"]


@dataclass
class Running:
    """A server that runs."""

    process: BaseProcess
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory(self, kind: str = "VmRSS") -> float:
        """Megabytes that it holds ("VmRSS") or held at most ("VmHWM")."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as lines:
            return next(
                int(line.split()[1]) / 1024 for line in lines if line.startswith(kind)
            )


@contextmanager
def running(model: ModelConfig, seconds: float, **keys: Any) -> Iterator[Running]:
    """A server whose model takes `seconds` for each forward pass."""
    config = ServeConfig.model_validate(
        {"model": "slow", "port": 0, "names": ["*"], "log": "json", **keys}
    )
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(model, seconds, config, theirs), daemon=True
    )
    process.start()
    theirs.close()
    try:
        yield Running(process, ours.recv())
    finally:
        process.kill()
        process.join()


def _serve(
    model: ModelConfig, seconds: float, config: ServeConfig, port: Connection
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    assert model.text is not None
    embedder = Embedder(
        build_model(model).eval(), load_tokenizer(model.text)[0], device="cpu"
    )
    encode_prepared = embedder.encode_prepared

    def slowly(batch: Sequence[Prepared], copy: int = 0) -> Vectors:
        time.sleep(seconds)
        return encode_prepared(batch, copy)

    embedder.encode_prepared = slowly  # type: ignore[method-assign]
    write_logs(config.log)
    logging.getLogger("unimodal").setLevel(
        logging.WARNING
    )  # not a line for each of thousands of requests
    engine = Engine(embedder, config)
    listener = bind_socket(config.host, config.port)
    app = create_app(engine, config)
    listener.listen(4096)
    port.send(listener.getsockname()[1])
    sys.exit(run(app, engine, config, listener))
