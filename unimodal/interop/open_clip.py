"""open_clip's models: `open_clip:NAME` (random weights) or `open_clip:NAME/TAG` (pretrained)."""

from __future__ import annotations

from textwrap import shorten

from ..config import ImageTowerConfig, ModelConfig, TextTowerConfig
from ..model import DualEncoder, build_model
from ..preprocess import Tokenizer, load_tokenizer
from ..towers.image import open_clip_settings


def from_open_clip(spec: str) -> tuple[DualEncoder, Tokenizer]:
    """Both towers of an open_clip model with their own pooling, projection, tokenizer and preprocessing.

    spec: "ViT-B-32" or "ViT-B-32/openai". Raises ValueError for an unknown name, and for weights that neither lie here
    nor can be fetched.
    """
    name, _, tag = spec.partition("/")
    settings = open_clip_settings(name)
    if tag:
        _find_weights(name, tag)
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


def _find_weights(name: str, tag: str) -> None:
    """Ask the hub once for no file at all: open_clip itself would try for a minute where there is no network."""
    import open_clip
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository = (open_clip.get_pretrained_cfg(name, tag) or {}).get("hf_hub", "").rpartition("/")[0]
    if not repository:
        return  # a file, a URL, or no such tag
    try:
        snapshot_download(repository, allow_patterns=[])
    except LocalEntryNotFoundError as error:
        why = shorten(str(error), 160, placeholder=" …")
        raise ValueError(f"the weights {tag!r} of {name!r} lie at the hub, which gave none ({why}).") from None
    except Exception:  # a refusal, or a proxy's, in the terms of one of many HTTP clients
        return  # open_clip says it with the file's name
