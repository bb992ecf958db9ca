"""timm towers: what timm's model gives, pooled, and errors that name the nearest name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from unimodal.model_config import (
    ImageTowerConfig,
    PreprocessConfig,
)
from unimodal.towers.timm import TimmTower, build_image_tower

SMALL = PreprocessConfig(image_size=32)

CONVNET = {
    "layers": [1, 1, 1, 1],
    "channels": [8, 16, 24, 40],
    "norm_layer": "groupnorm1",
}


def image_tower(**config: Any) -> TimmTower:
    torch.manual_seed(0)
    return build_image_tower(ImageTowerConfig(**config), SMALL, True)[0].eval()


def noise() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


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
    states = tower.backbone.forward_features(noise())  # type: ignore[operator]
    assert states.shape[1] == 4 + 4  # a class token, 3 registers, 2 x 2 patches
    torch.testing.assert_close(tower(noise()), states[:, 4:].mean(dim=1))
    tower.pooling = "cls"
    torch.testing.assert_close(tower(noise()), states[:, 0])


@torch.no_grad()
def test_the_mean_of_a_convnet_is_over_all_places_of_its_map() -> None:
    tower = image_tower(name="resnet18", kwargs=CONVNET, pooling="mean")
    states = tower.backbone.forward_features(noise())  # type: ignore[operator]
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
            "needs a class token, and resnet18 has none",
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
