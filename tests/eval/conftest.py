"""mteb without the network and outside the home folder, its data sets small, and a tiny model for
them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.eval.mteb_hub import WORDS, write_hub
from unimodal.embedder import Embedder
from unimodal.model import build_model
from unimodal.model_config import (
    ImageTowerConfig,
    ModelConfig,
    PreprocessConfig,
    TextTowerConfig,
)
from unimodal.preprocess.tokenizers import load_tokenizer, train_tokenizer

TinyEmbedder = Callable[[int], Embedder]


@pytest.fixture(scope="session")
def mteb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package; it takes seconds to import, so this is done once, and only by tests that ask for
    it.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("mteb")
        patch.setitem(os.environ, "MTEB_CACHE", str(folder / "cache"))
        import datasets
        import huggingface_hub

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        datasets.disable_progress_bars()
        import mteb

        yield mteb


@pytest.fixture(scope="session")
def hub(mteb: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder laid out as the hub: what `folder` of load_mteb_task takes."""
    return write_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="session")
def tiny_embedder(tmp_path_factory: pytest.TempPathFactory) -> TinyEmbedder:
    """A function from a seed to a model of random weights for texts and images,
    in 24 dimensions.
    """
    tokenizer = tmp_path_factory.mktemp("tiny") / "tokenizer.json"
    train_tokenizer([WORDS, "query: title 0123456789"], tokenizer, vocab_size=120)
    text = TextTowerConfig(
        name="bert",
        tokenizer=str(tokenizer),
        max_length=24,
        kwargs={
            "vocab_size": 120,
            "hidden_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 32,
        },
    )
    config = ModelConfig(
        embed_dim=24,
        text=text,
        preprocess=PreprocessConfig(image_size=16),
        image=ImageTowerConfig(
            name="test_vit", kwargs={"depth": 1, "embed_dim": 48, "num_heads": 2}
        ),
        prompts={"query": "query: "},
    )

    def make(seed: int) -> Embedder:
        torch.manual_seed(seed)
        return Embedder(
            build_model(config).eval(), load_tokenizer(text)[0], device="cpu"
        )

    return make
