"""open_clip's models, by the names that open_clip itself gives them.

open_clip:NAME                 an architecture of open_clip's, with random weights
open_clip:NAME/TAG             the same with published weights, or a file of them
open_clip:hf-hub:OWNER/NAME    a repository at the hub
open_clip:local-dir:FOLDER     a folder as open_clip saves one
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


def from_open_clip(spec: str) -> tuple[DualEncoder, Tokenizer]:
    """Both towers of an open_clip model with their own pooling, projection, tokenizer and
    preprocessing.

    spec: "ViT-B-32", "ViT-B-32/openai", "hf-hub:OWNER/NAME" or "local-dir:FOLDER".

    Raises ValueError for an unknown name, and for weights that neither lie here nor can be fetched.
    """
    name, pretrained, settings = check_source(spec)
    if not pretrained:
        warnings.warn(
            f"open_clip:{spec} names no weights, so they are random, and others each time; give "
            f"a tag, such as open_clip:{spec}/{next(iter(_tags(name)), 'FILE')}.",
            stacklevel=3,
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
    model = build_model(
        ModelConfig(
            embed_dim=settings["embed_dim"],
            image=ImageTowerConfig(
                library="open_clip", name=name, pretrained=pretrained, projection="none"
            ),
            text=text,
        )
    )
    return model, tokenizer


def check_source(spec: str) -> tuple[str, bool | str, dict[str, Any]]:
    """Look whether a model is there, without fetching its weights.

    spec: as for `from_open_clip`.

    Returns open_clip's name of it, what `pretrained` is for its weights, and its architecture.

    Raises ValueError for an unknown name or tag, and for weights that neither lie here nor can be
    fetched.
    """
    if has_schema(spec):
        if spec.startswith("hf-hub:"):
            _find_repository(spec.removeprefix("hf-hub:"), f"the model {spec!r} lies")
        return spec, True, open_clip_settings(spec)

    name, slash, tag = spec.partition("/")
    settings = open_clip_settings(name)
    if slash and not tag:
        raise ValueError(
            f"open_clip:{spec} has no tag after the slash; {nearest('', _tags(name))}"
        )
    if tag:
        _find_weights(name, tag)
    return name, tag or False, settings


def _tags(name: str) -> list[str]:
    import open_clip

    return list(open_clip.list_pretrained_tags_by_model(name))


def _find_weights(name: str, tag: str) -> None:
    import open_clip

    weights = open_clip.get_pretrained_cfg(name, tag)
    if not weights and not Path(tag).is_file():
        raise ValueError(
            f"open_clip has no weights {tag!r} of {name!r}, nor is it a file; "
            f"{nearest(tag, _tags(name))}"
        )
    repository = (weights or {}).get("hf_hub", "").rpartition("/")[0]
    if repository:  # else it is a file, a URL, or no such tag
        _find_repository(repository, f"the weights {tag!r} of {name!r} lie")


def _find_repository(repository: str, what: str) -> None:
    """Ask the hub once for no file at all: open_clip itself would try for a minute where there is
    no network.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(repository, allow_patterns=[])
    except LocalEntryNotFoundError as error:
        why = shorten(str(error), 160, placeholder=" …")
        raise ValueError(
            f"{what} at the hub, which gave none ({why}); check the name and the connection."
        ) from None
    except (
        Exception
    ):  # a refusal, or a proxy's, in the terms of one of many HTTP clients
        return  # open_clip says it with the file's name
