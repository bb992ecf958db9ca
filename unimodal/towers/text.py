"""Text towers: a transformers backbone or the text half of an open_clip model, by name.

B batch, L tokens, W width of the tower.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..config import TextTowerConfig
from .image import open_clip_model
from .pooling import POOLING, AttentionPool


class TextTower(nn.Module):
    """Token ids and mask (B, L) -> (B, width)."""

    def __init__(self, backbone: nn.Module, width: int, pooling: str, is_open_clip: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.pooling = pooling
        self.attention_pool = AttentionPool(width) if pooling == "attention" else None
        self._is_open_clip = is_open_clip

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids: (B, L) int64, mask: (B, L) bool, true at real tokens -> (B, width)."""
        if self._is_open_clip:
            output = self.backbone(ids)
            if self.pooling == "native":
                return output  # type: ignore[no-any-return]  # nn.Module calls are untyped
            tokens = output[1]  # (B, L, W)
        else:
            # No mask where nothing is padded: the attention then takes its fastest path.
            attention_mask = None if bool(mask.all()) else mask.long()
            tokens = self.backbone(input_ids=ids, attention_mask=attention_mask).last_hidden_state  # (B, L, W)
        pool = self.attention_pool if self.attention_pool is not None else POOLING[self.pooling]
        return pool(tokens, mask)  # type: ignore[no-any-return]


def build_text_tower(config: TextTowerConfig) -> tuple[TextTower, TextTowerConfig]:
    """Make the tower, and its config with the architecture spelt out, so that it can be built again without a hub.

    Raises ValueError for an unknown name, or a pooling that the backbone does not offer.
    """
    return (_from_transformers if config.library == "transformers" else _from_open_clip)(config)


def _from_transformers(config: TextTowerConfig) -> tuple[TextTower, TextTowerConfig]:
    from transformers import AutoConfig, AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.utils.logging import disable_progress_bar

    if config.pooling == "native":
        raise ValueError("text.pooling 'native' is for open_clip towers; use 'mean', 'cls', 'last' or 'attention'.")
    if config.name in CONFIG_MAPPING and not Path(config.name).is_dir():
        if config.pretrained:
            raise ValueError(f"text.name {config.name!r} is a model type without weights; give a hub id or a folder.")
        settings = AutoConfig.for_model(config.name, **config.kwargs)
        backbone = AutoModel.from_config(settings)
    else:
        try:
            settings = AutoConfig.from_pretrained(config.name, **config.kwargs)
            if config.pretrained:
                disable_progress_bar()  # it would draw a bar for a file that is read in a blink
                backbone = AutoModel.from_pretrained(config.name, config=settings, use_safetensors=True)
            else:
                backbone = AutoModel.from_config(settings)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"text.name {config.name!r} is neither a transformers folder, a hub id that can be reached, nor "
                f"a model type such as 'bert' ({' '.join(str(error).split())[:160]})."
            ) from None
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # its parameters would never get a gradient
    backbone = backbone.float()
    if settings.is_encoder_decoder:
        raise ValueError(f"text.name {config.name!r} is an encoder-decoder, which is not supported; use an encoder.")
    positions = _num_positions(backbone)
    if positions is not None and config.max_length > positions:
        raise ValueError(
            f"text.max_length {config.max_length} is over {config.name}'s {positions} positions; lower it."
        )
    spelt_out = {
        key: value
        for key, value in settings.to_dict().items()
        if key not in ("_name_or_path", "architectures", "transformers_version", "model_type", "dtype", "torch_dtype")
    }
    if "attn_implementation" in config.kwargs:  # to_dict leaves it out, and another kernel rounds otherwise
        spelt_out["attn_implementation"] = config.kwargs["attn_implementation"]
    resolved = config.model_copy(
        update={"name": settings.model_type, "pretrained": False, "kwargs": spelt_out, "tokenizer": ""}
    )
    return TextTower(backbone, settings.hidden_size, config.pooling, False), resolved


def _num_positions(backbone: nn.Module) -> int | None:
    """The length of a table of learned positions; None where positions are computed."""
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        return None
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)  # RoBERTa counts from pad


def _from_open_clip(config: TextTowerConfig) -> tuple[TextTower, TextTowerConfig]:
    model = open_clip_model(config.name, config.pretrained, config.kwargs)
    backbone: Any = model.text
    # Its attention mask has one size, and towers without one (SigLIP) were trained with the padding in sight.
    # A transformers tower inside open_clip takes any length: the tokenizer's is what it was trained at.
    length = backbone.context_length if hasattr(backbone, "positional_embedding") else config.max_length
    resolved = config.model_copy(update={"pretrained": False, "pad_to_max_length": True, "max_length": length})
    width = model.embed_dim
    if config.pooling != "native":
        if not hasattr(backbone, "token_embedding"):
            raise ValueError(
                f"text.pooling {config.pooling!r} is not offered by open_clip's {config.name}; use 'native'."
            )
        backbone.output_tokens = True
        width = backbone.width
        backbone.text_projection = None
    return TextTower(backbone, width, config.pooling, True), resolved
