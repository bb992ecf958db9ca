"""open_clip's models of every kind give its vectors, and need none of its files once saved."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_for_hf
from PIL import Image
from safetensors.torch import load_file, save_file

import unimodal
from unimodal.embedder import Embedder, Item
from unimodal.formats import native
from unimodal.formats.open_clip import load as load_open_clip
from unimodal.model import build_model
from unimodal.model_config import ImageTowerConfig, ModelConfig, TextTowerConfig
from unimodal.preprocess.tokenizers import load_tokenizer
from unimodal.towers.open_clip import open_clip_settings

VISION = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}

SMALL = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}

BACKBONES: dict[str, dict[str, Any]] = {
    "roberta": {**SMALL, "max_position_embeddings": 66, "pad_token_id": 0},
    "xlm-roberta": {**SMALL, "max_position_embeddings": 66, "pad_token_id": 0},
    "mt5": {
        "vocab_size": 120,
        "d_model": 32,
        "d_kv": 16,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 2,
    },
    "m2m_100": {
        "vocab_size": 120,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "pad_token_id": 0,
    },
}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "clip": {
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    },
    "coca": {
        "vision_cfg": {
            **VISION,
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 2,
            "embed_cls": True,
            "output_tokens": True,
        },
        "multimodal_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
        "custom_text": True,
    },
    **{
        kind: {"text_cfg": {"hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"}}
        for kind in BACKBONES
    },
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def architecture(kind: str, folder: Path, tokenizer_file: Path) -> dict[str, Any]:
    """A small architecture of a kind; a transformers text tower lies in a folder of its own."""
    settings: dict[str, Any] = {
        "embed_dim": 32,
        "vision_cfg": VISION,
        **ARCHITECTURES[kind],
    }
    if kind in BACKBONES:
        from transformers import AutoConfig, PreTrainedTokenizerFast

        AutoConfig.for_model(kind, **BACKBONES[kind]).save_pretrained(folder)
        PreTrainedTokenizerFast(
            tokenizer_file=str(tokenizer_file), pad_token="[PAD]"
        ).save_pretrained(folder)
        names = {
            "hf_model_name": str(folder),
            "hf_tokenizer_name": str(folder),
            "hf_model_pretrained": False,
        }
        settings["text_cfg"] = {**settings["text_cfg"], **names, "context_length": 12}
    return settings


def saved_by_open_clip(settings: dict[str, Any], folder: Path) -> Any:
    """A model of random weights in a folder as open_clip writes one, and that model."""
    folder.mkdir()
    spec = f"local-dir:{folder}"
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": settings}), encoding="utf-8"
    )
    if "hf_tokenizer_name" in settings["text_cfg"]:
        shutil.copytree(
            settings["text_cfg"]["hf_tokenizer_name"], folder, dirs_exist_ok=True
        )
    torch.manual_seed(0)
    theirs = open_clip.create_model(
        spec,
        load_weights=False,
        pretrained_text=False,
        force_custom_text=True,
        force_preprocess_cfg={"mean": (0.5, 0.5, 0.5), "interpolation": "bilinear"},
    ).eval()
    tokenizer = open_clip.get_tokenizer(spec)
    if isinstance(tokenizer, open_clip.tokenizer.HFTokenizer):
        save_for_hf(theirs, tokenizer, settings, str(folder), safe_serialization=True)
    else:
        save_file(theirs.state_dict(), folder / "open_clip_model.safetensors")
        preprocess = {"mean": (0.5, 0.5, 0.5), "interpolation": "bilinear"}
        content = {"model_cfg": settings, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(
            json.dumps(content), encoding="utf-8"
        )
    return theirs


@torch.no_grad()
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_folder_of_open_clip_s_gives_its_vectors_and_is_not_needed_again(
    tmp_path: Path,
    tokenizer_file: Path,
    kind: str,
    texts: list[str],
    images: list[Image.Image],
) -> None:
    settings = architecture(kind, tmp_path / "backbone", tokenizer_file)
    theirs = saved_by_open_clip(settings, tmp_path / "theirs")
    spec = f"local-dir:{tmp_path / 'theirs'}"
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**theirs.visual.preprocess_cfg),
        is_train=False,
    )
    expected_images = theirs.encode_image(
        torch.stack([transform(image) for image in images]), normalize=True
    )
    expected_texts = theirs.encode_text(
        open_clip.get_tokenizer(spec)(texts), normalize=True
    )

    embedder = unimodal.load(f"open_clip:{spec}", device="cpu")
    np.testing.assert_allclose(
        embedder.encode(texts), expected_texts, rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        embedder.encode(images), expected_images, rtol=0, atol=1e-6
    )
    assert embedder.config.preprocess.mean == (0.5, 0.5, 0.5)

    native.save(tmp_path / "ours", embedder.models[0], embedder.tokenizer)
    shutil.rmtree(tmp_path / "theirs")
    shutil.rmtree(tmp_path / "backbone", ignore_errors=True)
    again = unimodal.load(tmp_path / "ours", device="cpu")
    items: list[Item] = [*texts, *images]
    assert np.array_equal(again.encode(items), embedder.encode(items))
    assert again.fingerprint() == embedder.fingerprint()
    assert str(tmp_path) not in (tmp_path / "ours" / "config.json").read_text(
        encoding="utf-8"
    )
    native.save(tmp_path / "again", again.models[0], again.tokenizer)
    assert (tmp_path / "again" / "config.json").read_bytes() == (
        tmp_path / "ours" / "config.json"
    ).read_bytes()


def test_a_named_model_with_a_transformers_text_tower_comes_back_offline(
    tmp_path: Path, tokenizer_file: Path, mixture: list[Item]
) -> None:
    settings = architecture("roberta", tmp_path / "backbone", tokenizer_file)
    (tmp_path / "tiny-roberta-clip.json").write_text(
        json.dumps(settings), encoding="utf-8"
    )
    open_clip.add_model_config(tmp_path / "tiny-roberta-clip.json")
    made = Embedder(*load_open_clip("open_clip:tiny-roberta-clip"), device="cpu")
    native.save(tmp_path / "ours", made.models[0], made.tokenizer)
    shutil.rmtree(tmp_path / "backbone")
    assert np.array_equal(
        unimodal.load(tmp_path / "ours", device="cpu").encode(mixture),
        made.encode(mixture),
    )


@pytest.mark.parametrize("name", ["roberta-ViT-B-32", "nllb-clip-base"])
def test_the_image_half_of_a_model_needs_no_text_tower_of_the_hub(name: str) -> None:
    small = {"vision_cfg": VISION, "embed_dim": 32}
    config = ImageTowerConfig(
        library="open_clip", name=name, kwargs=small, projection="none"
    )
    model = build_model(ModelConfig(embed_dim=32, image=config))
    assert model.encode_image(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (
        1,
        32,
    )
    assert "hf_model_name" not in str(model.config.image)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("local-dir:/no/where", r"cannot build 'local-dir:/no/where' "),
        ("local-dir:", r"cannot build 'local-dir:' \(Empty path"),
        (
            "hf-hub:someone/nothing",
            r"the model 'hf-hub:someone/nothing': the hub",
        ),
        ("ViT-B-33", r"'ViT-B-33' is not an open_clip model; did you mean 'ViT-B-32'"),
    ],
)
def test_a_model_that_is_not_there_is_refused_in_one_short_sentence(
    name: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        unimodal.load(f"open_clip:{name}")
    assert len(str(caught.value)) < 500


def test_an_open_clip_folder_whose_text_tower_has_no_tokenizer_is_refused(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    settings = architecture("roberta", tmp_path / "backbone", tokenizer_file)
    saved_by_open_clip(settings, tmp_path / "theirs")
    for file in (tmp_path / "theirs").glob("*token*"):
        file.unlink()
    with pytest.raises(
        ValueError, match=r"no tokenizer found for 'local-dir:.*theirs'"
    ):
        unimodal.load(f"open_clip:local-dir:{tmp_path / 'theirs'}", device="cpu")


def test_a_tokenizer_of_the_hub_that_cannot_be_reached_is_said() -> None:
    with pytest.raises(ValueError, match="no tokenizer found for 'nllb-clip-base' "):
        load_tokenizer(TextTowerConfig(library="open_clip", name="nllb-clip-base"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, r"\(Required pretrained weights"),
        (
            {"visual.ln_pre.weight": None},
            r"Missing key\(s\) in state_dict: \"visual.ln_pre.weight\"",
        ),
        (
            {"visual.more": torch.ones(2)},
            r"Unexpected key\(s\) in state_dict: \"visual.more\"",
        ),
        (
            {"visual.ln_pre.weight": torch.ones(2)},
            "size mismatch for visual.ln_pre.weight",
        ),
        (
            {"visual.ln_pre.weight": torch.full((64,), torch.inf)},
            "1 tensor with values that are not finite",
        ),
    ],
)
def test_weights_of_a_folder_that_are_not_whole_are_refused(
    tmp_path: Path,
    tokenizer_file: Path,
    change: dict[str, torch.Tensor | None] | None,
    message: str,
) -> None:
    saved_by_open_clip(
        architecture("clip", tmp_path, tokenizer_file), tmp_path / "theirs"
    )
    file = tmp_path / "theirs" / "open_clip_model.safetensors"
    tensors: dict[str, torch.Tensor | None] = {**load_file(file), **(change or {})}
    file.unlink()
    if change is not None:
        save_file(
            {name: tensor for name, tensor in tensors.items() if tensor is not None},
            file,
        )
    with pytest.raises(ValueError, match=message) as caught:
        unimodal.load(f"open_clip:local-dir:{tmp_path / 'theirs'}")
    assert len(str(caught.value)) < 600


def test_a_folder_s_architecture_must_be_whole(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(
        '{"model_cfg": {"embed_dim": 8}}', encoding="utf-8"
    )
    with pytest.raises(
        ValueError, match=r"open_clip_config.json without text_cfg, vision_cfg"
    ):
        open_clip_settings(f"local-dir:{tmp_path}")


def test_random_weights_are_said(open_clip_name: str, tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning,
        match=f"open_clip:{open_clip_name} names no weights, so they are random",
    ):
        load_open_clip(f"open_clip:{open_clip_name}")
    with pytest.raises(
        ValueError, match=f"open_clip:{open_clip_name}/ has no tag after the slash"
    ):
        load_open_clip(f"open_clip:{open_clip_name}/")

    (tmp_path / "notes.txt").write_text("no weights")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "cut.safetensors").write_bytes(b"12345678901")
    for file in tmp_path.iterdir():
        with pytest.raises(ValueError, match=f"open_clip cannot build .*{file.name}"):
            load_open_clip(f"open_clip:{open_clip_name}/{file}")


def test_an_open_clip_model_keeps_its_preprocessing_and_length(
    open_clip_name: str,
) -> None:
    model, tokenizer = load_open_clip(f"open_clip:{open_clip_name}")
    assert model.config.preprocess.image_size == 32
    assert model.config.preprocess.resize == "crop"
    assert model.config.text is not None
    assert (model.config.text.max_length, model.config.text.clean) == (16, "clip")
    assert len(tokenizer(["word " * 100])[0]) == 16
