"""Image towers whose backbone timm builds.

B batch, S image size, L tokens, W width of the tower.
"""

from __future__ import annotations

from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from ..config import nearest
from ..hub import check_files
from ..model_config import ImageTowerConfig, PreprocessConfig
from ..weights import check_finite, check_fit
from .pooling import AttentionPool, cls_pool, mean_pool


class TimmTower(nn.Module):
    """Normalised pixels (B, 3, S, S) -> (B, width)."""

    def __init__(self, backbone: nn.Module, width: int, pooling: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.pooling = pooling
        self.attention_pool = AttentionPool(width) if pooling == "attention" else None
        self._num_prefix = _num_prefix_tokens(backbone)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, S, S), normalised -> (B, width)."""
        if self.pooling == "native":
            return self.backbone(pixels)  # type: ignore[no-any-return]  # nn.Module is untyped
        tokens = self._tokens(pixels)  # (B, L, W)
        if self.attention_pool is not None:
            return self.attention_pool(tokens, None)  # type: ignore[no-any-return]
        if self.pooling == "cls":
            return cls_pool(tokens, None)
        # The mean is over patches only: class and register tokens come first.
        return mean_pool(tokens[:, self._num_prefix :], None)

    def _tokens(self, pixels: Tensor) -> Tensor:
        states: Tensor = self.backbone.forward_features(pixels)  # type: ignore[operator]
        if states.ndim == 4:  # a feature map (B, W, h, w) has h * w tokens
            return states.flatten(2).transpose(1, 2)
        return states


def build_image_tower(
    config: ImageTowerConfig, preprocess: PreprocessConfig, keep_preprocess: bool
) -> tuple[TimmTower, PreprocessConfig, ImageTowerConfig]:
    """Build a timm tower.

    keep_preprocess: use `preprocess` as given; otherwise pretrained weights bring their own mean,
        standard deviation and size.

    Returns the tower, its preprocessing, and the config that builds it again without a hub.

    Raises ValueError for an unknown name, or a pooling that the backbone does not offer.
    """
    import timm

    name = _full_name(config)
    settings = timm.get_pretrained_cfg(name)
    if config.pretrained and not keep_preprocess and settings is not None:
        preprocess = _preprocess_of(settings)

    kwargs: dict[str, Any] = dict(config.kwargs)
    if settings is not None and settings.fixed_input_size:
        kwargs.setdefault("img_size", preprocess.image_size)
    backbone = _build_backbone(name, bool(config.pretrained), kwargs)
    if config.pooling == "cls" and not _num_prefix_tokens(backbone):
        raise ValueError(
            f"image.pooling 'cls' needs a class token, and {config.name} has none; use "
            "'native' or 'mean'."
        )

    width = backbone.num_features
    if config.pooling == "native":
        width = _native_width(backbone, preprocess.image_size)
    tower = TimmTower(backbone, width, config.pooling)
    return tower, preprocess, config.model_copy(update={"pretrained": False})


def check_timm_weights(config: ImageTowerConfig) -> None:
    """Check that timm's pretrained weights are available, without downloading them.

    Raises ValueError for an unknown name or tag, and for weights that are neither on this machine
    nor at the hub.
    """
    import timm

    name = _full_name(config)
    settings = timm.get_pretrained_cfg(name)
    if settings is None or not settings.hf_hub_id:
        return
    if "pretrained_cfg_overlay" in config.kwargs:  # which names other weights
        return
    check_files(
        settings.hf_hub_id,
        f"the weights of image.name {name!r}",
        ("*.safetensors", "*.bin"),
    )


def _full_name(config: ImageTowerConfig) -> str:
    """The name of a timm model with its tag; raises ValueError for an unknown one."""
    import timm

    architecture, _, tag = config.name.partition(".")
    if not timm.is_model(architecture):
        raise ValueError(
            f"image.name {config.name!r} is not a timm model; "
            f"{nearest(architecture, timm.list_models())}"
        )
    if isinstance(config.pretrained, str):
        tag = config.pretrained

    models = timm.list_models(f"{architecture}.*", pretrained=True)
    tags = [model.partition(".")[2] for model in models]
    if (tag and tag not in tags) or (config.pretrained and not tags):
        way_out = nearest(tag, tags) if tags else "set pretrained to false."
        raise ValueError(f"timm has no weights {tag!r} of {architecture}; {way_out}")
    return f"{architecture}.{tag}" if tag else architecture


def _preprocess_of(settings: Any) -> PreprocessConfig:
    """The preprocessing that pretrained weights were trained with."""
    is_bilinear = settings.interpolation == "bilinear"
    return PreprocessConfig(
        image_size=settings.input_size[1],
        interpolation="bilinear" if is_bilinear else "bicubic",
        mean=settings.mean,
        std=settings.std,
    )


def _num_prefix_tokens(backbone: nn.Module) -> int:
    return int(getattr(backbone, "num_prefix_tokens", 0))


def _native_width(backbone: Any, image_size: int) -> int:
    """Run the backbone once: heads differ in what they put between features and classifier."""
    with torch.no_grad():
        vectors = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    backbone.train()
    return int(vectors.shape[-1])


def _build_backbone(name: str, pretrained: bool, kwargs: dict[str, Any]) -> Any:
    """Build a timm model without its head.

    Raises ValueError for pretrained weights that are not complete or do not fit.
    """
    import timm

    backbone = timm.create_model(name, num_classes=0, **kwargs)
    if not pretrained:
        return backbone

    # Without a head timm ignores missing and unknown tensors; with its head it is strict.
    try:
        # What is drawn afterwards must not depend on this second model.
        with torch.random.fork_rng(devices=[]):
            with_head = timm.create_model(name, pretrained=True, **kwargs)
    except (RuntimeError, OSError) as error:
        why = shorten(" ".join(str(error).split()), 300, placeholder=" ...")
        raise ValueError(
            f"timm's weights of {name} cannot be loaded ({why}); remove image.kwargs that "
            "change the architecture, check the connection, or set image.pretrained to false."
        ) from None

    weights = with_head.state_dict()
    wanted = backbone.state_dict()
    source = f"the checkpoint of timm's {name}"
    check_fit(source, wanted.keys() - weights.keys(), (), {})
    kept = {key: weights[key] for key in wanted}
    check_finite(source, kept)
    backbone.load_state_dict(kept)
    return backbone
