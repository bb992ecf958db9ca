"""open_clip towers: each half gives open_clip's vectors, in every pooling that it offers."""

from __future__ import annotations

import copy
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unimodal.conftest import encode_token_lists
from unimodal.formats.open_clip import load as load_open_clip
from unimodal.model_config import (
    ImageTowerConfig,
    PreprocessConfig,
    TextTowerConfig,
)
from unimodal.preprocess.images import image_to_pixels
from unimodal.preprocess.tokenizers import Tokenizer, load_tokenizer, pad_ids
from unimodal.towers.open_clip import (
    OpenClipImageTower,
    OpenClipTextTower,
    _without_warnings,
    build_image_tower,
    build_text_tower,
)

SMALL = PreprocessConfig(image_size=32)


def image_tower(**config: Any) -> OpenClipImageTower:
    torch.manual_seed(0)
    return build_image_tower(ImageTowerConfig(**config), SMALL, True)[0].eval()


def text_tower(**config: Any) -> OpenClipTextTower:
    torch.manual_seed(0)
    return build_text_tower(TextTowerConfig(**{"max_length": 16, **config}))[0].eval()


def noise() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def ids_and_mask(*lengths: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return pad_ids(
        [torch.randint(5, 99, (n,), generator=generator).tolist() for n in lengths],
        0,
        length,
    )


@pytest.mark.parametrize("pooling", ["native", "mean", "attention"])
def test_an_open_clip_image_tower_gives_vectors_as_wide_as_it_says(
    open_clip_name: str, pooling: str
) -> None:
    tower = image_tower(name=open_clip_name, library="open_clip", pooling=pooling)
    assert tower.width == (32 if pooling == "native" else 64)
    assert tower(noise()).shape == (2, tower.width)


@torch.no_grad()
def test_the_mean_of_an_open_clip_vit_is_over_its_patches(open_clip_name: str) -> None:
    tower = image_tower(name=open_clip_name, library="open_clip", pooling="mean")
    backbone: Any = copy.deepcopy(tower.backbone)
    backbone.pool_type = "avg"
    backbone.output_tokens = False
    torch.testing.assert_close(tower(noise()), backbone(noise()))


@pytest.mark.parametrize("pooling", ["native", "cls", "mean", "last", "attention"])
def test_an_open_clip_text_tower_gives_vectors_as_wide_as_it_says(
    open_clip_name: str, pooling: str
) -> None:
    tower = text_tower(name=open_clip_name, library="open_clip", pooling=pooling)
    vectors = tower(*ids_and_mask(9, 3, length=16))
    assert vectors.shape == (2, tower.width)


@torch.no_grad()
def test_the_last_token_of_an_open_clip_text_is_the_end_of_text(
    open_clip_name: str,
) -> None:
    native = text_tower(name=open_clip_name, library="open_clip", pooling="native")
    last = text_tower(name=open_clip_name, library="open_clip", pooling="last")
    backbone: Any = native.backbone
    backbone.text_projection = None
    last.load_state_dict(native.state_dict())
    ids, mask = pad_ids([[49406, 5, 6, 49407], [49406, 9, 49407]], 0, 16)
    torch.testing.assert_close(last(ids, mask), native(ids, mask), rtol=0, atol=1e-6)


def test_a_pooling_that_an_open_clip_tower_lacks_is_refused(
    open_clip_name: str,
) -> None:
    with pytest.raises(
        ValueError, match=f"'cls' is not offered by open_clip's {open_clip_name}"
    ):
        image_tower(name=open_clip_name, library="open_clip", pooling="cls")


def open_clip_itself(name: str, ours: nn.Module) -> Any:
    import open_clip

    theirs = open_clip.create_model(
        name, load_weights=False, pretrained_text=False, force_custom_text=True
    ).eval()
    theirs.visual.load_state_dict(ours.image.backbone.state_dict())  # type: ignore[union-attr]
    theirs.text.load_state_dict(ours.text.backbone.state_dict())  # type: ignore[union-attr]
    return theirs


@torch.no_grad()
def test_an_open_clip_model_of_ours_equals_open_clip_on_images_and_texts(
    open_clip_name: str, images: list[Any], texts: list[str]
) -> None:
    import open_clip

    torch.manual_seed(0)
    model, tokenizer = load_open_clip(f"open_clip:{open_clip_name}")
    theirs = open_clip_itself(open_clip_name, model.eval())
    transform = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(**theirs.visual.preprocess_cfg),
        is_train=False,
    )
    expected = theirs.encode_image(
        torch.stack([transform(image) for image in images]), normalize=True
    )
    pixels = torch.stack(
        [image_to_pixels(image, model.config.preprocess) for image in images]
    )
    torch.testing.assert_close(model.encode_image(pixels), expected, rtol=0, atol=1e-6)
    expected = theirs.encode_text(
        open_clip.get_tokenizer(open_clip_name)(texts), normalize=True
    )
    torch.testing.assert_close(
        encode_token_lists(model, tokenizer(texts)), expected, rtol=0, atol=1e-6
    )


@torch.no_grad()
@pytest.mark.parametrize("clean", [None, "canonicalize"])
def test_an_open_clip_model_with_a_transformers_text_tower_equals_open_clip(
    tmp_path: Path,
    tokenizer_file: Path,
    texts: list[str],
    bert_kwargs: dict[str, Any],
    clean: str | None,
) -> None:
    import open_clip
    from transformers import BertConfig, PreTrainedTokenizerFast

    folder = tmp_path / "bert"
    BertConfig(**bert_kwargs).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file), pad_token="[PAD]"
    ).save_pretrained(folder)
    name = f"tiny-bert-clip-{clean}"
    settings = {
        "embed_dim": 32,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 32,
            "patch_size": 16,
        },
        "text_cfg": {
            "hf_model_name": str(folder),
            "hf_model_pretrained": False,
            "hf_tokenizer_name": str(folder),
            "hf_proj_type": "mlp",
            "context_length": 12,
            **({"tokenizer_kwargs": {"clean": clean}} if clean else {}),
        },
    }
    (tmp_path / f"{name}.json").write_text(json.dumps(settings), encoding="utf-8")
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    model, tokenizer = load_open_clip(f"open_clip:{name}")
    nasty = [*texts, "A &amp; B,  red\n ball!", "It's “old”."]
    expected = open_clip_itself(name, model.eval()).encode_text(
        open_clip.get_tokenizer(name)(nasty), normalize=True
    )
    torch.testing.assert_close(
        encode_token_lists(model, tokenizer(nasty)), expected, rtol=0, atol=1e-6
    )
    assert model.config.text is not None
    assert model.config.text.max_length == 12


def test_a_fixed_length_tower_is_always_padded_to_it(open_clip_name: str) -> None:
    text = TextTowerConfig(library="open_clip", name=open_clip_name)
    tokenizer, text = load_tokenizer(text)
    _, resolved = build_text_tower(text)
    assert isinstance(tokenizer, Tokenizer)
    assert resolved.pad_to_max_length
    assert resolved.max_length == 16


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"name": "ViT-B-33"},
            "'ViT-B-33' is not an open_clip model; did you mean 'ViT-B-32'",
        ),
        ({"name": "ViT-B-32", "pretrained": True}, "set pretrained to one of .*openai"),
        ({"name": "ViT-B-32", "pretrained": "opena"}, "'opena'"),
    ],
)
def test_a_tower_that_cannot_be_built_is_refused(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        image_tower(library="open_clip", **config)
    with pytest.raises(ValueError, match=message):
        text_tower(library="open_clip", **config)


def test_warnings_of_open_clip_are_dropped_in_the_thread_that_builds_only(
    open_clip_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    filters = list(logging.getLogger().filters)
    with _without_warnings():
        logging.warning("dropped")  # where open_clip logs
        thread = threading.Thread(target=logging.warning, args=("kept",))
        thread.start()
        thread.join()
    text_tower(library="open_clip", name=open_clip_name)
    assert [record.message for record in caplog.records] == ["kept"]
    assert logging.getLogger().filters == filters
