"""The dual encoder: two towers, one space.

B batch, S image size, L tokens, D embedding dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .model_config import ModelConfig
from .towers.image import ImageTower, build_image_tower
from .towers.text import TextTower, build_text_tower

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # CLIP (Radford et al., 2021, section 2.5)
INITIAL_LOGIT_BIAS = -10.0  # SigLIP (Zhai et al., 2023, section 3.2)


class DualEncoder(nn.Module):
    """An image tower, a text tower or both, each projected to `embed_dim`, and the tasks' logit
    scales (as logs) and, where their loss is the sigmoid one, biases."""

    def __init__(
        self, config: ModelConfig, image: ImageTower | None, text: TextTower | None
    ) -> None:
        super().__init__()
        self.config = config
        self.image = image
        self.text = text
        dim = config.embed_dim
        self.image_projection = (
            _projection(config.image.projection, image.width, dim, "image")
            if config.image and image
            else None
        )
        self.text_projection = (
            _projection(config.text.projection, text.width, dim, "text")
            if config.text and text
            else None
        )
        self.logit_scales = nn.ParameterDict(
            {
                task: nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
                for task in config.logit_scales
            }
        )
        self.logit_biases = nn.ParameterDict(
            {
                task: nn.Parameter(torch.tensor(INITIAL_LOGIT_BIAS))
                for task in config.logit_biases
            }
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def encode_image(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, S, S) uint8 -> (B, D) unit vectors."""
        if self.image is None or self.image_projection is None:
            raise ValueError("this model has no image tower; it embeds text alone.")
        dtype = next(self.image.parameters()).dtype
        normalised = self._normalise(pixels, _at_least_fp32(dtype)).to(dtype)
        return F.normalize(
            self.image_projection(self.image(normalised)).to(_at_least_fp32(dtype)),
            dim=-1,
        )

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids: (B, L) int64, mask: (B, L) bool, true at real tokens -> (B, D) unit vectors."""
        if self.text is None or self.text_projection is None:
            raise ValueError("this model has no text tower; it embeds images alone.")
        dtype = _at_least_fp32(next(self.text.parameters()).dtype)
        return F.normalize(self.text_projection(self.text(ids, mask)).to(dtype), dim=-1)

    def _normalise(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        # Not buffers: a model cast to bf16 would round the mean and the deviation with it.
        spec = self.config.preprocess
        mean = (
            255
            * torch.tensor(spec.mean, dtype=dtype, device=pixels.device)[:, None, None]
        )  # (3, 1, 1)
        std = (
            255
            * torch.tensor(spec.std, dtype=dtype, device=pixels.device)[:, None, None]
        )
        return (pixels.to(dtype) - mean) / std

    def set_grad_checkpointing(self) -> None:
        """Recompute each block's activations in the backward pass: less memory, about a third more
        time.
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
    """Make a model from names: pretrained towers are loaded, others drawn from torch's random
    generator.

    The model's own `config` has everything spelt out that a name stood for, so that the model
    directory needs no hub.
    """
    image = text = None
    update: dict[str, object] = {}
    if config.image is not None:
        keep = "preprocess" in config.model_fields_set or (
            not config.image.pretrained and config.image.library == "timm"
        )
        image, update["preprocess"], update["image"] = build_image_tower(
            config.image, config.preprocess, keep
        )
    if config.text is not None:
        text, update["text"] = build_text_tower(config.text)
    return DualEncoder(config.model_copy(update=update), image, text)


def length_sorted_chunks(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Cut texts into chunks, longest first, of at most `token_budget` padded tokens each (at least
    one text).
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    chunks: list[list[int]] = []
    start = 0
    while start < len(order):
        count = max(1, token_budget // max(1, lengths[order[start]]))
        chunks.append(order[start : start + count])
        start += count
    return chunks


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
