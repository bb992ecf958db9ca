"""Files of a text model that are missing, broken or of another architecture are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unimodal
from tests.unimodal.formats.sentence_folders import (
    change_json,
    change_weights,
    write_backbone,
    write_modules,
)
from unimodal.model_config import TextTowerConfig
from unimodal.preprocess.tokenizers import load_tokenizer
from unimodal.towers.transformers import build_text_tower


@pytest.fixture
def folder(tmp_path: Path, tokenizer_file: Path, bert_kwargs: dict[str, Any]) -> Path:
    write_backbone(tmp_path / "sentences", tokenizer_file, bert_kwargs)
    write_modules(tmp_path / "sentences", {"pooling_mode_mean_tokens": True})
    return tmp_path / "sentences"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"encoder.": None},
            r"sentences lacks 32 tensors, first 'encoder.layer.0.attention.output.",
        ),
        (
            {"encoder.layer.0.mlp.gated_layers.weight": torch.ones(2)},
            r"has 1 unknown tensor, first 'encoder.*gated_la",
        ),
        (
            {"embeddings.LayerNorm.bias": torch.ones(3)},
            r"1 tensor of another shape, first .* is \(3,\) but .* \(32,\)",
        ),
        (
            {"embeddings.LayerNorm.bias": torch.full((32,), torch.nan)},
            r"1 tensor with values that are not finite",
        ),
    ],
)
def test_weights_that_are_not_the_architecture_s_are_refused(
    folder: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    change_weights(folder, changes)
    with pytest.raises(ValueError, match=message) as caught:
        unimodal.load(f"hf:{folder}", device="cpu")
    assert len(str(caught.value)) < 500
    text = TextTowerConfig(name=str(folder), pretrained=True, max_length=12)
    with pytest.raises(ValueError, match=message):
        build_text_tower(text)


def test_a_head_beside_a_whole_backbone_and_a_missing_pooler_are_no_matter(
    folder: Path, texts: list[str]
) -> None:
    expected = unimodal.load(f"hf:{folder}", device="cpu").encode(texts)
    heads = {
        "cls.predictions.bias": torch.ones(3),
        "embeddings.position_ids": torch.arange(64)[None],
    }
    change_weights(folder, {"pooler.": None, **heads})
    assert np.array_equal(
        unimodal.load(f"hf:{folder}", device="cpu").encode(texts), expected
    )


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "config.json",
            {"auto_map": {"AutoModel": "modeling.JinaBert"}},
            r"its own code \(modeling.JinaBert in config",
        ),
        (
            "config.json",
            {"auto_map": {"AutoConfig": "configuration.New"}},
            r"own code \(configuration.New in config",
        ),
        (
            "config.json",
            {"model_type": "brt"},
            r"'brt', which is not an architecture of .* did you mean 'bert'",
        ),
        (
            "config.json",
            {"model_type": "new"},
            r"'new', which is not an architecture of transformers",
        ),
        (
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["a", "b"]}},
            "a tokenizer with its own code",
        ),
        (
            "config.json",
            {"model_type": None},
            "a config.json without model_type, so its architecture is unknown",
        ),
        (
            "config.json",
            {"model_type": ["bert"]},
            r"has model_type \['bert'\], which is not an architecture",
        ),
        (
            "config.json",
            {"hidden_act": "glue"},
            r"cannot build .*config.json \(KeyError\('glue'\)",
        ),
        (
            "tokenizer_config.json",
            {"truncation_side": "left"},
            "cuts long texts at the left",
        ),
        (
            "tokenizer.json",
            {
                "truncation": {
                    "direction": "Left",
                    "max_length": 8,
                    "strategy": "LongestFirst",
                    "stride": 0,
                }
            },
            "cuts long texts at the left .*the direction of truncation in tokenizer.json",
        ),
        (
            "sentence_bert_config.json",
            {"max_seq_length": -1},
            "has max_seq_length -1 in its sentence_bert_config.json",
        ),
        (
            "sentence_bert_config.json",
            {"max_seq_length": "12"},
            "has max_seq_length '12' in its",
        ),
    ],
)
def test_a_model_of_code_that_is_not_here_is_refused(
    folder: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    change_json(folder / file, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        unimodal.load(f"hf:{folder}", device="cpu")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "has a config.json that is not an object"),
        (None, "has no config.json that names"),
    ],
)
def test_a_folder_that_does_not_say_what_model_it_is_is_refused(
    folder: Path, content: str | None, message: str
) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        unimodal.load(f"hf:{folder}", device="cpu")


def test_a_vocabulary_that_was_cut_short_is_refused(folder: Path) -> None:
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["unk_token"] = "[GONE]"
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(
        ValueError, match=r"tokenizer of .* cannot read every text .*copy them again"
    ):
        load_tokenizer(TextTowerConfig(name="bert", tokenizer=str(file)))


def test_a_tokenizer_file_that_cuts_at_the_left_is_refused(folder: Path) -> None:
    truncation = {
        "direction": "Left",
        "max_length": 8,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    change_json(folder / "tokenizer.json", truncation=truncation)
    with pytest.raises(ValueError, match=r"tokenizer.json cuts long texts at the left"):
        load_tokenizer(
            TextTowerConfig(name="bert", tokenizer=str(folder / "tokenizer.json"))
        )


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    for left in (["tokenizer.json"], ["tokenizer_config.json"]):
        for name in left:
            (folder / name).unlink()
        with pytest.raises(ValueError, match=r"no tokenizer found for .*sentences'"):
            unimodal.load(f"hf:{folder}", device="cpu")
        with pytest.raises(
            ValueError, match=r"no tokenizer found for .*set text.tokenizer"
        ):
            load_tokenizer(TextTowerConfig(name="bert", tokenizer=str(folder)))
