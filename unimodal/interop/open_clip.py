"""open_clip's models: `open_clip:NAME` (random weights) or `open_clip:NAME/TAG` (pretrained)."""

from __future__ import annotations

from ..config import ImageTowerConfig, ModelConfig, TextTowerConfig
from ..model import DualEncoder, build_model
from ..preprocess import Tokenizer, load_tokenizer
from ..towers.image import open_clip_settings


def from_open_clip(spec: str) -> tuple[DualEncoder, Tokenizer]:
    """Both towers of an open_clip model with their own pooling, projection, tokenizer and preprocessing.

    spec: "ViT-B-32" or "ViT-B-32/openai". Raises ValueError for an unknown name.
    """
    name, _, tag = spec.partition("/")
    settings = open_clip_settings(name)
    text = TextTowerConfig(
        library="open_clip", name=name, pretrained=tag or False, pooling="native", projection="none",
        max_length=settings["text_cfg"].get("context_length", 77),
    )  # fmt: skip
    tokenizer, text = load_tokenizer(text)
    model = build_model(
        ModelConfig(
            embed_dim=settings["embed_dim"],
            image=ImageTowerConfig(library="open_clip", name=name, pretrained=tag or False, projection="none"),
            text=text,
        )
    )
    return model, tokenizer
