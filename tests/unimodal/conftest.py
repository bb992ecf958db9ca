"""Tiny models, images and texts that the library's tests share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor

from unimodal.embedder import Embedder, Item
from unimodal.model import DualEncoder, build_model
from unimodal.model_config import (
    ImageTowerConfig,
    ModelConfig,
    PreprocessConfig,
    TextTowerConfig,
)
from unimodal.preprocess.tokenizers import (
    Tokenizer,
    load_tokenizer,
    pad_ids,
    train_tokenizer,
)

WORDS = (
    "a red green small large ball hat cup shoe lamp on under the old table beside two other "
    "things of wood"
)


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer([WORDS, "search query: document: 0123456789"], file, vocab_size=120)
    return file


@pytest.fixture(scope="session")
def bert_kwargs() -> dict[str, object]:
    return {
        "vocab_size": 120,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }


@pytest.fixture(scope="session")
def text_config(
    tokenizer_file: Path, bert_kwargs: dict[str, object]
) -> TextTowerConfig:
    return TextTowerConfig(
        name="bert", tokenizer=str(tokenizer_file), max_length=32, kwargs=bert_kwargs
    )


@pytest.fixture(scope="session")
def image_config() -> ImageTowerConfig:
    return ImageTowerConfig(
        name="test_vit", kwargs={"depth": 2, "embed_dim": 48, "num_heads": 2}
    )


@pytest.fixture(scope="session")
def tiny(image_config: ImageTowerConfig, text_config: TextTowerConfig) -> ModelConfig:
    """A ViT for images of 32 x 32 and a BERT, into 24 dimensions."""
    return ModelConfig(
        embed_dim=24,
        image=image_config,
        text=text_config,
        preprocess=PreprocessConfig(image_size=32),
        prompts={"query": "search query: ", "document": "document: "},
        logit_scales=("pictures", "texts"),
        matryoshka_dims=(8, 16),
    )


@pytest.fixture
def tokenizer(text_config: TextTowerConfig) -> Tokenizer:
    return load_tokenizer(text_config)[0]


@pytest.fixture
def model(tiny: ModelConfig) -> DualEncoder:
    torch.manual_seed(0)
    return build_model(tiny).eval()


@pytest.fixture
def embedder(model: DualEncoder, tokenizer: Tokenizer) -> Embedder:
    return Embedder(model, tokenizer, device="cpu")


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Ten texts of 1 to 28 words, no two alike, not in the order of their lengths."""
    words = WORDS.split()
    rng = np.random.default_rng(0)
    return [
        " ".join(rng.choice(words, size=1 + 27 * (n * 7 % 10) // 9)) for n in range(10)
    ]


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Six images of noise of odd sizes."""
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(
            rng.integers(0, 256, (20 + 9 * n, 50 - 7 * n, 3), dtype=np.uint8)
        ).resize((37 + n, 61 - 5 * n))
        for n in range(6)
    ]


@pytest.fixture(scope="session")
def mixture(texts: list[str], images: list[Image.Image]) -> list[Item]:
    """All texts, then all images."""
    return [*texts, *images]


@pytest.fixture(scope="session")
def open_clip_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a small architecture, as open_clip's own files describe one."""
    settings = {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    }
    file = tmp_path_factory.mktemp("open_clip") / "tiny-clip.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    open_clip.add_model_config(file)
    return file.stem


def encode_token_lists(
    model: DualEncoder, token_ids: Sequence[Sequence[int]]
) -> Tensor:
    """Texts of any lengths -> (B, D) unit vectors, padded as the tower wants it."""
    assert model.config.text is not None
    text = model.config.text
    length = text.max_length if text.pad_to_max_length else None
    ids, mask = pad_ids(token_ids, text.pad_id, length)
    return model.encode_text(ids.to(model.device), mask.to(model.device))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 on this machine, which fsspec's s3:// means meanwhile."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "endpoint_url": f"http://{host}:{port}",
        "key": "key",
        "secret": "secret",
    }
    monkeypatch.setitem(fsspec.config.conf, "s3", settings)
    fsspec.filesystem("s3").clear_instance_cache()
    yield settings["endpoint_url"]
    server.stop()
