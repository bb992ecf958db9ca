"""Image towers: a timm backbone or the image half of an open_clip model, by name.

B batch, S image size, L tokens, W width of the tower.
"""

from __future__ import annotations

from textwrap import shorten
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..config import nearest
from ..hub import check_files
from ..model_config import ImageTowerConfig, PreprocessConfig
from ..weights import check_finite, check_fit
from .light_imports import import_timm
from .open_clip import open_clip_model, without_folder
from .pooling import POOLING, AttentionPool

_RESIZE: dict[str, Literal["crop", "pad", "squash"]] = {
    "shortest": "crop",
    "longest": "pad",
    "squash": "squash",
}


class ImageTower(nn.Module):
    """Normalised pixels (B, 3, S, S) -> (B, width)."""

    def __init__(
        self,
        backbone: nn.Module,
        width: int,
        pooling: str,
        num_prefix: int,
        is_open_clip: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.pooling = pooling
        self.attention_pool = AttentionPool(width) if pooling == "attention" else None
        self._num_prefix = num_prefix
        self._is_open_clip = is_open_clip

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, S, S), mean and deviation taken out -> (B, width)."""
        if self.pooling == "native":
            return self.backbone(pixels)  # type: ignore[no-any-return]  # nn.Module calls are untyped
        tokens = self._tokens(pixels)  # (B, L, W)
        if self.attention_pool is not None:
            return self.attention_pool(tokens, None)  # type: ignore[no-any-return]
        # The mean is over patches alone: class and register tokens come first.
        return POOLING[self.pooling](
            tokens if self.pooling == "cls" else tokens[:, self._num_prefix :], None
        )

    def _tokens(self, pixels: Tensor) -> Tensor:
        if self._is_open_clip:
            return self.backbone(pixels)[1]  # type: ignore[no-any-return]  # (pooled, tokens); the class token is not in it
        states: Tensor = self.backbone.forward_features(pixels)  # type: ignore[operator]
        return (
            states.flatten(2).transpose(1, 2) if states.ndim == 4 else states
        )  # a map (B, W, h, w) has h * w tokens


def build_image_tower(
    config: ImageTowerConfig, preprocess: PreprocessConfig, keep_preprocess: bool
) -> tuple[ImageTower, PreprocessConfig, ImageTowerConfig]:
    """Make the tower, the preprocessing it wants, and its config, by which it can be built again
    without a hub.

    keep_preprocess: use `preprocess` as given; otherwise pretrained weights bring their own mean,
    deviation and size. Raises ValueError for an unknown name, or a pooling that the backbone does
    not offer.
    """
    return (_from_timm if config.library == "timm" else _from_open_clip)(
        config, preprocess, keep_preprocess
    )


def _timm_name(config: ImageTowerConfig) -> str:
    """The name of a model with its tag; raises ValueError for an unknown one."""
    timm = import_timm()

    architecture, _, tag = config.name.partition(".")
    if not timm.is_model(architecture):
        raise ValueError(
            f"image.name {config.name!r} is not a timm model; "
            f"{nearest(architecture, timm.list_models())}"
        )
    if isinstance(config.pretrained, str):
        tag = config.pretrained
    tags = [
        model.partition(".")[2]
        for model in timm.list_models(f"{architecture}.*", pretrained=True)
    ]
    if (tag and tag not in tags) or (config.pretrained and not tags):
        way_out = nearest(tag, tags) if tags else "set pretrained to false."
        raise ValueError(f"timm has no weights {tag!r} of {architecture}; {way_out}")
    return f"{architecture}.{tag}" if tag else architecture


def _from_timm(
    config: ImageTowerConfig, preprocess: PreprocessConfig, keep_preprocess: bool
) -> tuple[ImageTower, PreprocessConfig, ImageTowerConfig]:
    timm = import_timm()

    name = _timm_name(config)
    settings = timm.get_pretrained_cfg(name)
    if config.pretrained and not keep_preprocess and settings is not None:
        preprocess = PreprocessConfig(
            image_size=settings.input_size[1],
            interpolation="bilinear"
            if settings.interpolation == "bilinear"
            else "bicubic",
            mean=settings.mean,
            std=settings.std,
        )
    kwargs: dict[str, Any] = dict(config.kwargs)
    if settings is not None and settings.fixed_input_size:
        kwargs.setdefault("img_size", preprocess.image_size)
    backbone = _timm_backbone(name, bool(config.pretrained), kwargs)
    if config.pooling == "cls" and not getattr(backbone, "num_prefix_tokens", 0):
        raise ValueError(
            f"image.pooling 'cls' needs a class token and {config.name} has none; use "
            "'native' or 'mean'."
        )
    width = backbone.num_features
    if (
        config.pooling == "native"
    ):  # heads differ in what they put between features and classifier: one look tells
        with torch.no_grad():
            width = backbone.eval()(
                torch.zeros(1, 3, preprocess.image_size, preprocess.image_size)
            ).shape[-1]
        backbone.train()
    tower = ImageTower(
        backbone,
        width,
        config.pooling,
        getattr(backbone, "num_prefix_tokens", 0),
        False,
    )
    return tower, preprocess, config.model_copy(update={"pretrained": False})


def check_timm_weights(config: ImageTowerConfig) -> None:
    """Look whether timm's pretrained weights are there, without fetching them.

    Raises ValueError for an unknown name or tag, and for weights that neither lie here nor can be
    fetched.
    """
    timm = import_timm()

    name = _timm_name(config)
    settings = timm.get_pretrained_cfg(name)
    is_elsewhere = (
        settings is not None
        and settings.hf_hub_id
        and "pretrained_cfg_overlay" not in config.kwargs
    )
    if is_elsewhere:
        check_files(
            settings.hf_hub_id,
            f"the weights of image.name {name!r}",
            ("*.safetensors", "*.bin"),
        )


def _timm_backbone(name: str, pretrained: bool, kwargs: dict[str, Any]) -> Any:
    """A timm model without its head; raises ValueError unless its weights, where it has some, are
    whole and fit.
    """
    timm = import_timm()

    backbone = timm.create_model(name, num_classes=0, **kwargs)
    if not pretrained:
        return backbone

    # Without a head timm skips what is missing or unknown; with the head it is strict.
    try:
        with torch.random.fork_rng(
            devices=[]
        ):  # what is drawn after it does not depend on this second model
            with_head = timm.create_model(name, pretrained=True, **kwargs)
    except (RuntimeError, OSError) as error:
        why = shorten(" ".join(str(error).split()), 300, placeholder=" ...")
        raise ValueError(
            f"timm's weights of {name} cannot be loaded ({why}); take back image.kwargs that "
            "change the architecture, make the hub reachable, or set image.pretrained to false."
        ) from None
    found = with_head.state_dict()
    wanted = backbone.state_dict()
    check_fit(f"the checkpoint of timm's {name}", wanted.keys() - found.keys(), (), {})
    kept = {key: found[key] for key in wanted}
    check_finite(f"the checkpoint of timm's {name}", kept)
    backbone.load_state_dict(kept)
    return backbone


def _from_open_clip(
    config: ImageTowerConfig, preprocess: PreprocessConfig, keep_preprocess: bool
) -> tuple[ImageTower, PreprocessConfig, ImageTowerConfig]:
    model, kwargs = open_clip_model(
        config.name, config.pretrained, config.kwargs, "image"
    )
    backbone = model.visual
    size = backbone.image_size
    found = backbone.preprocess_cfg
    if not keep_preprocess:
        preprocess = PreprocessConfig(
            image_size=size[0] if isinstance(size, tuple) else size,
            mean=found["mean"],
            std=found["std"],
            interpolation=found["interpolation"],
            resize=_RESIZE[found["resize_mode"]],
            transparency="open_clip",
        )
    width = model.embed_dim
    if config.pooling != "native":
        if config.pooling == "cls" or not hasattr(backbone, "output_tokens"):
            raise ValueError(
                f"image.pooling {config.pooling!r} is not offered by open_clip's "
                f"{config.name}; use 'native'."
            )
        backbone.output_tokens = True
        width = backbone.ln_post.normalized_shape[0]
        backbone.proj = None
    resolved = config.model_copy(
        update={
            "name": without_folder(config.name),
            "pretrained": False,
            "kwargs": kwargs,
        }
    )
    return ImageTower(backbone, width, config.pooling, 0, True), preprocess, resolved
