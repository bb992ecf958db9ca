"""What a run starts from is looked for, and refused, before anything is loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Recipe
from training.config import TrainConfig
from training.loop import train
from training.model_check import check_start
from unimodal.config import merge, parse_config
from unimodal.formats import native
from unimodal.model import build_model
from unimodal.model_config import ModelConfig, TextTowerConfig
from unimodal.preprocess.tokenizers import load_tokenizer


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache of the hub")
    )


@pytest.fixture
def text_model(recipe: Recipe, tmp_path: Path) -> Path:
    """A transformers folder with weights and a tokenizer."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    model = recipe().model
    assert model is not None
    assert model.text is not None
    BertModel(BertConfig(**model.text.kwargs)).save_pretrained(tmp_path / "bert")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=model.text.tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def start_from(recipe: Recipe, init: str, **changes: Any) -> TrainConfig:
    values = recipe().model_dump(exclude_unset=True)
    return parse_config(
        TrainConfig, merge({**values, "model": None, "init": init}, changes)
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"text": {"tokenizer": "nowhere/tokenizer.json"}},
            "text.tokenizer 'nowhere/tokenizer.json' is not there; check",
        ),
        (
            {"text": {"tokenizer": "someone/nothing"}},
            "text.tokenizer 'someone/nothing' is not a folder here and the hub",
        ),
        (
            {"text": {"tokenizer": "./nowhere"}},
            "text.tokenizer './nowhere' does not exist; check the path, or give a hub id",
        ),
        (
            {"text": {"name": "someone/bert", "pretrained": True}},
            "text.name 'someone/bert' is not a folder here and",
        ),
        (
            {"text": {"name": "someone/bert"}},
            "text.name 'someone/bert' is not a folder here and",
        ),
        (
            {"image": {"pretrained": True}},
            "the weights of image.name 'vit_tiny_patch16_224.*' is not a folder here and",
        ),
        (
            {"image": {"pretrained": "nosuch"}},
            "timm has no weights 'nosuch' of vit_tiny_patch16_224; did you mean|there",
        ),
        (
            {"image": {"library": "open_clip", "name": "ViT-B-33", "kwargs": {}}},
            "'ViT-B-33' is not an open_clip model",
        ),
        (
            {
                "image": {
                    "library": "open_clip",
                    "name": "ViT-B-32",
                    "pretrained": "openai",
                    "kwargs": {},
                }
            },
            "the weights 'openai' of 'ViT-B-32': the hub",
        ),
        (
            {
                "image": {
                    "library": "open_clip",
                    "name": "ViT-B-32",
                    "pretrained": "opena",
                    "kwargs": {},
                }
            },
            "open_clip has no weights 'opena' of 'ViT-B-32', nor is it a file; did you "
            "mean 'openai'",
        ),
    ],
)
def test_a_tower_or_a_tokenizer_that_is_not_there_is_refused(
    recipe: Recipe, model: dict[str, Any], message: str
) -> None:
    config = recipe({"model": model})
    with pytest.raises(ValueError, match=message) as caught:
        check_start(config)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_what_is_there_passes(recipe: Recipe, text_model: Path) -> None:
    check_start(recipe())
    check_start(
        recipe(
            {
                "model": {
                    "text": {
                        "name": str(text_model),
                        "pretrained": True,
                        "tokenizer": "",
                    }
                }
            }
        )
    )


@pytest.mark.parametrize(
    "init",
    ["nowhere", "./nowhere", "hf:nowhere/at/all", "someone/model", "hf:someone/model"],
)
def test_a_model_to_start_from_that_is_not_there_is_refused(
    recipe: Recipe, init: str
) -> None:
    with pytest.raises(ValueError, match=f"init '{init}' (is|does) not "):
        check_start(start_from(recipe, init))


def test_a_folder_that_is_not_a_model_is_refused(
    recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=r"has none of \*.safetensors; copy the whole folder"
    ):
        check_start(start_from(recipe, str(tmp_path)))
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(
        ValueError, match=r"has no config.json; give a model directory, or hf:FOLDER"
    ):
        check_start(start_from(recipe, str(tmp_path)))
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "bert"}), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"config.json: unknown key 'model_type'"):
        check_start(start_from(recipe, str(tmp_path)))


def test_a_text_model_for_image_tasks_is_refused_with_a_way_out_that_works(
    recipe: Recipe, text_model: Path
) -> None:
    config = start_from(recipe, f"hf:{text_model}", tasks={"pairs": None})
    message = (
        "has no image tower, which task 'pictures' needs; leave init out and give the "
        "towers by name: "
    )
    for refuse in (check_start, train):
        with pytest.raises(ValueError, match=message) as caught:
            refuse(config)
    name = re.search(
        r"model.text.name=(\S+) model.text.pretrained=true", str(caught.value)
    )
    assert name is not None
    text = {"name": name[1], "pretrained": True, "tokenizer": "", "kwargs": None}
    assert train(
        recipe({"model": {"text": text}, "steps": 1, "tasks": {"pairs": None}})
    ).is_dir()


def test_a_model_of_ours_without_an_image_tower_is_refused_for_image_tasks_alone(
    recipe: Recipe, text_model: Path, tmp_path: Path
) -> None:
    text = TextTowerConfig(name=str(text_model), max_length=24)
    tokenizer, text = load_tokenizer(text)
    native.save(
        tmp_path / "ours", build_model(ModelConfig(embed_dim=16, text=text)), tokenizer
    )
    init = str(tmp_path / "ours")
    with pytest.raises(
        ValueError,
        match="has no image tower, which task 'pictures' needs; start from another model",
    ):
        check_start(start_from(recipe, init))
    check_start(start_from(recipe, init, tasks={"pictures": None}))
    assert train(start_from(recipe, init, tasks={"pictures": None}, steps=1)).is_dir()
