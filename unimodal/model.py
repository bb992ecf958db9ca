"""The dual encoder: two towers, one space.

B batch, S image size, L tokens, D embedding dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model_config import (
    ImageTowerConfig,
    ModelConfig,
    PreprocessConfig,
    TextTowerConfig,
)
from .towers import open_clip, timm, transformers

ImageTower: TypeAlias = timm.TimmTower | open_clip.OpenClipImageTower
TextTower: TypeAlias = transformers.TransformersTower | open_clip.OpenClipTextTower

BuildImageTower: TypeAlias = Callable[
    [ImageTowerConfig, PreprocessConfig, bool],
    tuple[ImageTower, PreprocessConfig, ImageTowerConfig],
]
BuildTextTower: TypeAlias = Callable[
    [TextTowerConfig], tuple[TextTower, TextTowerConfig]
]

# The functions that build towers, by `image.library` and `text.library`.
IMAGE_TOWERS: dict[str, BuildImageTower] = {
    "timm": timm.build_image_tower,
    "open_clip": open_clip.build_image_tower,
}
TEXT_TOWERS: dict[str, BuildTextTower] = {
    "transformers": transformers.build_text_tower,
    "open_clip": open_clip.build_text_tower,
}

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # CLIP (Radford et al., 2021, section 2.5)
INITIAL_LOGIT_BIAS = -10.0  # SigLIP (Zhai et al., 2023, section 3.2)


class DualEncoder(nn.Module):
    """An image tower, a text tower or both, each projected to `embed_dim`.

    It also holds the logit scale of each task (as a log), and the bias where its loss has one.
    """

    def __init__(
        self, config: ModelConfig, image: ImageTower | None, text: TextTower | None
    ) -> None:
        super().__init__()
        self.config = config
        self.image = image
        self.text = text
        self.image_projection: nn.Module | None = None
        self.text_projection: nn.Module | None = None
        dim = config.embed_dim
        if config.image and image:
            kind = config.image.projection
            self.image_projection = _projection(kind, image.width, dim, "image")
        if config.text and text:
            kind = config.text.projection
            self.text_projection = _projection(kind, text.width, dim, "text")
        self.logit_scales = _parameters(config.logit_scales, INITIAL_LOGIT_SCALE)
        self.logit_biases = _parameters(config.logit_biases, INITIAL_LOGIT_BIAS)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode_image(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, S, S) uint8 -> (B, D) unit vectors."""
        if self.image is None or self.image_projection is None:
            raise ValueError("this model has no image tower; it embeds text only.")
        dtype = next(self.image.parameters()).dtype
        exact = _at_least_fp32(dtype)
        normalised = self._normalise(pixels, exact).to(dtype)
        projected = self.image_projection(self.image(normalised))
        return F.normalize(projected.to(exact), dim=-1)

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids: (B, L) int64, mask: (B, L) bool, true at real tokens -> (B, D) unit vectors."""
        if self.text is None or self.text_projection is None:
            raise ValueError("this model has no text tower; it embeds images only.")
        exact = _at_least_fp32(next(self.text.parameters()).dtype)
        projected = self.text_projection(self.text(ids, mask))
        return F.normalize(projected.to(exact), dim=-1)

    def _normalise(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        # Not buffers: a model cast to bf16 would round mean and deviation too.
        spec = self.config.preprocess
        options: dict[str, Any] = {"dtype": dtype, "device": pixels.device}
        mean = 255 * torch.tensor(spec.mean, **options)[:, None, None]  # (3, 1, 1)
        std = 255 * torch.tensor(spec.std, **options)[:, None, None]  # (3, 1, 1)
        return (pixels.to(dtype) - mean) / std

    def set_grad_checkpointing(self) -> None:
        """Recompute each block's activations in the backward pass.

        This takes less memory and about a third more time.
        """
        for tower in (self.image, self.text):
            if tower is None:
                continue
            backbone: Any = tower.backbone
            if hasattr(backbone, "activation_checkpointing_enable"):
                backbone.activation_checkpointing_enable()
            elif hasattr(backbone, "gradient_checkpointing_enable"):
                backbone.gradient_checkpointing_enable(
                    gradient_checkpointing_kwargs={"use_reentrant": False}
                )
            elif hasattr(backbone, "set_grad_checkpointing"):
                backbone.set_grad_checkpointing(True)
            else:
                raise ValueError(
                    f"{type(backbone).__name__} has no gradient checkpointing; set "
                    "grad_checkpointing=false."
                )


def build_model(config: ModelConfig) -> DualEncoder:
    """Build a model; pretrained towers are loaded, others drawn from torch's random generator.

    The model's own `config` spells out everything that a name stood for, so that the model
    directory needs no hub.
    """
    image: ImageTower | None = None
    text: TextTower | None = None
    update: dict[str, object] = {}

    if config.image is not None:
        keep_preprocess = "preprocess" in config.model_fields_set or (
            config.image.library == "timm" and not config.image.pretrained
        )
        build_image_tower = IMAGE_TOWERS[config.image.library]
        image, preprocess, image_config = build_image_tower(
            config.image, config.preprocess, keep_preprocess
        )
        update |= {"preprocess": preprocess, "image": image_config}
    if config.text is not None:
        build_text_tower = TEXT_TOWERS[config.text.library]
        text, text_config = build_text_tower(config.text)
        update["text"] = text_config
    return DualEncoder(config.model_copy(update=update), image, text)


def length_sorted_chunks(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut texts into chunks, longest first, of at most `token_budget` padded tokens each.

    A chunk has at least one text.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    chunks: list[list[int]] = []
    start = 0
    while start < len(order):
        longest = max(1, lengths[order[start]])
        count = max(1, token_budget // longest)
        chunks.append(order[start : start + count])
        start += count
    return chunks


def _parameters(tasks: Sequence[str], value: float) -> nn.ParameterDict:
    return nn.ParameterDict({task: nn.Parameter(torch.tensor(value)) for task in tasks})


def _projection(kind: str, width: int, dim: int, tower: str) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, dim, bias=False)
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim, bias=False)
        )
    if width != dim:
        raise ValueError(
            f"{tower}.projection 'none' needs embed_dim {dim} to equal the tower's width "
            f"{width}; use 'linear'."
        )
    return nn.Identity()


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32
