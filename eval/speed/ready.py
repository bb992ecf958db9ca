"""A server of ours, or a plain one, whose model takes no time or a known time, to measure the rest.

    python -m unimodal.eval.speed.ready ours 8000 TOKENIZER LAUNCH EACH [key=value ...]
    python -m unimodal.eval.speed.ready plain 8000

LAUNCH and EACH: seconds of a forward pass, and of each text in it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import cache

import numpy as np

from unimodal.config import apply_overrides, parse_config
from unimodal.embedder import Embedder, Prepared
from unimodal.model import build_model
from unimodal.model_config import ModelConfig, TextTowerConfig
from unimodal.preprocess.tokenizers import load_tokenizer
from unimodal.serve.config import ServeConfig
from unimodal.vectors import Vectors

from .peers import run_plain

DIM = 768


class ReadyEmbedder(Embedder):
    """Tokenizes texts; a forward pass then waits and returns fixed vectors."""

    launch = 0.0
    each = 0.0  # seconds

    def encode_prepared(self, batch: Sequence[Prepared], copy: int = 0) -> Vectors:
        """(B, DIM) unit vectors."""
        if self.launch or self.each:
            time.sleep(self.launch + self.each * len(batch))
        return ready_vectors()[: len(batch)]


@cache
def ready_vectors() -> Vectors:
    """(4096, DIM) unit vectors."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((4096, DIM), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def ready_embedder(tokenizer: str, launch: float, each: float) -> ReadyEmbedder:
    """A real tokenizer, and a tower that is never used."""
    tiny = {
        "vocab_size": 40_000,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    text = TextTowerConfig(
        name="bert", tokenizer=tokenizer, max_length=128, kwargs=tiny
    )
    tokenise, text = load_tokenizer(text)
    embedder = ReadyEmbedder(
        build_model(ModelConfig(embed_dim=DIM, text=text)), tokenise, device="cpu"
    )
    embedder.launch = launch
    embedder.each = each
    return embedder


def main(kind: str, port: str, *arguments: str) -> None:
    """Serve until a signal arrives."""
    if kind == "plain":
        run_plain(lambda texts: ready_vectors()[: len(texts)], int(port))
        return
    from unimodal.serve.app import create_app
    from unimodal.serve.engine.engine import Engine
    from unimodal.serve.server import bind_socket, run

    tokenizer, launch, each, *options = arguments
    values = apply_overrides({"model": "ready", "port": int(port)}, options)
    config = parse_config(ServeConfig, values)
    engine = Engine(ready_embedder(tokenizer, float(launch), float(each)), config)
    app = create_app(engine, config)
    run(app, engine, config, bind_socket(config.host, config.port))


if __name__ == "__main__":
    main(*sys.argv[1:])
