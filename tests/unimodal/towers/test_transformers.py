"""transformers towers: what its model gives, pooled, and errors that name the nearest name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, T5Config, T5EncoderModel
from transformers.utils import logging

from unimodal.config import parse_config
from unimodal.model_config import (
    TextTowerConfig,
)
from unimodal.preprocess.tokenizers import pad_ids
from unimodal.towers.transformers import (
    TransformersTower,
    build_text_tower,
    read_settings,
)

BERT = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}

SPECIAL = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "cls_token_id",
    "sep_token_id",
)

TRANSFORMERS = {
    "bert": BERT,
    "roberta": BERT,
    "mpnet": BERT,
    "electra": {**BERT, "embedding_size": 16},
    "distilbert": {
        "vocab_size": 99,
        "dim": 32,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 64,
    },
    "modernbert": {**BERT, **dict.fromkeys(SPECIAL, 1)},
    "qwen3": {**BERT, "num_key_value_heads": 1, "head_dim": 16},
}


def text_tower(**config: Any) -> TransformersTower:
    torch.manual_seed(0)
    return build_text_tower(TextTowerConfig(**{"max_length": 16, **config}))[0].eval()


def ids_and_mask(*lengths: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return pad_ids(
        [torch.randint(5, 99, (n,), generator=generator).tolist() for n in lengths],
        0,
        length,
    )


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "attention"])
def test_a_transformers_tower_never_sees_the_padding(name: str, pooling: str) -> None:
    tower = text_tower(name=name, kwargs=TRANSFORMERS[name], pooling=pooling).double()
    lengths = (9, 3, 1, 6)
    together = tower(*ids_and_mask(*lengths))
    assert together.shape == (4, tower.width)
    generator = torch.Generator().manual_seed(1)
    for row, length in enumerate(lengths):
        ids = torch.randint(5, 99, (length,), generator=generator)[
            None
        ]  # as ids_and_mask drew them
        alone = tower(ids, torch.ones_like(ids, dtype=torch.bool))
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformers_tower_is_built_again_from_its_resolved_config_as_json(
    name: str,
) -> None:
    torch.manual_seed(0)
    tower, resolved = build_text_tower(
        TextTowerConfig(name=name, kwargs=TRANSFORMERS[name], max_length=16)
    )
    again = parse_config(
        TextTowerConfig, json.loads(json.dumps(resolved.model_dump(mode="json")))
    )
    rebuilt, resolved_again = build_text_tower(again)
    assert resolved_again == resolved
    rebuilt.load_state_dict(tower.state_dict())
    assert torch.equal(
        tower.eval()(*ids_and_mask(9, 3)), rebuilt.eval()(*ids_and_mask(9, 3))
    )


def test_every_parameter_of_a_transformers_tower_gets_a_gradient() -> None:
    tower = text_tower(name="bert", kwargs=BERT)
    tower(*ids_and_mask(9, 3)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"name": "bertt/nowhere"},
            "text.name 'bertt/nowhere' is neither a transformers folder, a hub id",
        ),
        (
            {"name": "bert", "pretrained": True},
            "'bert' is a model type without weights",
        ),
        (
            {"name": "bert", "kwargs": BERT, "pooling": "native"},
            "'native' is for open_clip towers",
        ),
        (
            {"name": "bert", "kwargs": BERT, "max_length": 513},
            "max_length 513 is over bert's 512 positions",
        ),
        (
            {"name": "roberta", "kwargs": BERT, "max_length": 511},
            "max_length 511 is over roberta's 510 positions",
        ),
        (
            {"name": "t5", "kwargs": {"vocab_size": 9, "d_model": 8, "num_layers": 1}},
            "'t5' is an encoder-decoder",
        ),
    ],
)
def test_a_text_tower_that_cannot_be_made_is_refused(
    config: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=message) as caught:
        text_tower(**config)
    assert "\n" not in str(caught.value)


def test_a_t5_encoder_that_was_saved_alone_is_refused_by_its_kind(
    tmp_path: Path,
) -> None:
    config = T5Config(
        vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2
    )
    T5EncoderModel(config).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="is an encoder-decoder, which is not supported"
    ):
        text_tower(name=str(tmp_path), pretrained=True)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_the_longest_text_that_is_allowed_can_be_encoded(name: str) -> None:
    kwargs = {**BERT, "max_position_embeddings": 20}
    longest = 20 if name == "bert" else 20 - 2
    tower = text_tower(name=name, kwargs=kwargs, max_length=longest)
    assert tower(*ids_and_mask(longest)).isfinite().all()


@pytest.mark.parametrize("has_bars", [True, False])
def test_reading_a_model_leaves_the_switches_of_transformers_as_they_were(
    tmp_path: Path, has_bars: bool
) -> None:
    BertConfig(**BERT).save_pretrained(tmp_path)
    (logging.enable_progress_bar if has_bars else logging.disable_progress_bar)()
    verbosity = logging.get_verbosity()
    try:
        read_settings(str(tmp_path), {})
        assert logging.is_progress_bar_enabled() is has_bars
        assert logging.get_verbosity() == verbosity
    finally:
        logging.enable_progress_bar()
