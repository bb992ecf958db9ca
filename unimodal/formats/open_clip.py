"""open_clip's models, by the names that open_clip itself gives them.

open_clip:NAME                 one of open_clip's architectures, with random weights
open_clip:NAME/TAG             the same with published weights, or a file of them
open_clip:hf-hub:OWNER/NAME    a repository at the hub
open_clip:local-dir:FOLDER     a folder that open_clip saved
"""

from __future__ import annotations

import warnings
from pathlib import Path
from textwrap import shorten
from typing import Any

from ..config import nearest
from ..model import DualEncoder, build_model
from ..model_config import ImageTowerConfig, ModelConfig, TextTowerConfig
from ..preprocess.tokenizers import Tokenizer, load_tokenizer
from ..towers.open_clip import has_schema, open_clip_settings

PREFIX = "open_clip:"


def detect(source: str) -> bool:
    """Whether the source is "open_clip:NAME"."""
    return source.startswith(PREFIX)


def load(source: str) -> tuple[DualEncoder, Tokenizer]:
    """Load both towers of an open_clip model, with its own pooling, tokenizer and preprocessing.

    source: "open_clip:NAME", such as "open_clip:ViT-B-32/openai".

    Raises ValueError for an unknown name, and for weights that are neither on this machine nor at
    the hub.
    """
    spec = source.removeprefix(PREFIX)
    name, pretrained, settings = check_source(spec)
    if not pretrained:
        tag = next(iter(_tags(name)), "FILE")
        warnings.warn(
            f"{source} names no weights, so they are random and differ each time; give "
            f"a tag, such as {source}/{tag}.",
            stacklevel=4,  # the caller of unimodal.load
        )

    text = TextTowerConfig(
        library="open_clip",
        name=name,
        pretrained=pretrained,
        pooling="native",
        projection="none",
        max_length=settings["text_cfg"].get("context_length", 77),
    )
    tokenizer, text = load_tokenizer(text)
    image = ImageTowerConfig(
        library="open_clip", name=name, pretrained=pretrained, projection="none"
    )
    config = ModelConfig(embed_dim=settings["embed_dim"], image=image, text=text)
    return build_model(config), tokenizer


def check_source(spec: str) -> tuple[str, bool | str, dict[str, Any]]:
    """Check that a model is available, without downloading its weights.

    spec: "ViT-B-32", "ViT-B-32/openai", "hf-hub:OWNER/NAME" or "local-dir:FOLDER".

    Returns open_clip's name of the model, the value of `pretrained` for its weights, and its
    architecture.

    Raises ValueError for an unknown name or tag, and for weights that are neither on this machine
    nor at the hub.
    """
    if has_schema(spec):
        if spec.startswith("hf-hub:"):
            _check_repository(spec.removeprefix("hf-hub:"), f"the model {spec!r}")
        return spec, True, open_clip_settings(spec)

    name, slash, tag = spec.partition("/")
    settings = open_clip_settings(name)
    if slash and not tag:
        raise ValueError(
            f"open_clip:{spec} has no tag after the slash; {nearest('', _tags(name))}"
        )
    if tag:
        _check_weights(name, tag)
    return name, tag or False, settings


def _tags(name: str) -> list[str]:
    import open_clip

    return list(open_clip.list_pretrained_tags_by_model(name))


def _check_weights(name: str, tag: str) -> None:
    import open_clip

    weights = open_clip.get_pretrained_cfg(name, tag) or {}
    if not weights and not Path(tag).is_file():
        raise ValueError(
            f"open_clip has no weights {tag!r} of {name!r}, nor is it a file; "
            f"{nearest(tag, _tags(name))}"
        )
    repository = weights.get("hf_hub", "").rpartition("/")[0]
    if repository:  # else a file or a URL
        _check_repository(repository, f"the weights {tag!r} of {name!r}")


def _check_repository(repository: str, subject: str) -> None:
    """Ask the hub once, for no file at all: without a network open_clip would try for a minute."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(repository, allow_patterns=[])
    except LocalEntryNotFoundError as error:
        why = shorten(str(error), 160, placeholder=" …")
        raise ValueError(
            f"{subject}: the hub did not give {repository} ({why}); check the name and the "
            "connection."
        ) from None
    except Exception:  # a refusal in the terms of one of many HTTP clients
        return  # open_clip reports it with the file's name
