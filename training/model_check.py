"""Whether the files of a run's model exist, and whether it has the towers that the tasks need.

A dry run checks this without importing torch and without fetching weights.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from unimodal.config import parse_config
from unimodal.hub import check_files
from unimodal.model_config import ModelConfig

from .config import TrainConfig

_WEIGHTS = ("*.safetensors",)
_SETTINGS = ("config.json",)
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "*.spm",
    "*.bpe.model",
)


# The towers that each kind of task needs.
TOWERS_OF_KIND = {"image-text": ("image", "text"), "text-text": ("text",)}


def check_start(config: TrainConfig) -> None:
    """Refuse a recipe whose model a run could not make.

    Raises ValueError for an `init`, a tokenizer or pretrained weights that do not exist, and for a
    model that lacks a tower.
    """
    if config.init is not None:
        check_towers(config, _towers_of(config.init))
    elif config.model is not None:
        _check_names(config.model)


def check_towers(config: TrainConfig, towers: Collection[str]) -> None:
    """Raise ValueError unless the model that a run starts from has both sides of every task.

    towers: "image", "text" or both.
    """
    for stage in config.plan:
        for name, task in stage.tasks.items():
            missing = [
                tower for tower in TOWERS_OF_KIND[task.kind] if tower not in towers
            ]
            if not missing:
                continue

            way_out = "start from another model"
            kind, colon, source = str(config.init).partition(":")
            if colon and kind == "hf" and missing[0] == "image":
                way_out = (
                    f"leave init out and give the towers by name: model.text.name={source} "
                    "model.text.pretrained=true model.image.name=... model.embed_dim=..."
                )
            raise ValueError(
                f"init {str(config.init)!r} has no {missing[0]} tower, which task {name!r} "
                f"needs; {way_out}."
            )


def _towers_of(init: str) -> tuple[str, ...]:
    """The towers of a model, by its files."""
    kind, colon, name = init.partition(":")

    if colon and kind == "hf":
        check_files(name, f"init {init!r}", (*_WEIGHTS, "*/*.safetensors"))
        return ("text",)

    if colon and kind == "open_clip":
        # Only open_clip knows its names, and it imports torch.
        from unimodal.formats.open_clip import check_source

        check_source(name)
        return ("image", "text")

    check_files(init, f"init {init!r}", _WEIGHTS)
    file = Path(init) / "config.json"
    if not Path(init).is_dir():
        return ("image", "text")  # a hub id: its config.json is not fetched for this
    if not file.is_file():
        raise ValueError(
            f"init {init!r} has no config.json; give a model directory, or hf:FOLDER for "
            "other models."
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file} is not JSON ({error}); save the model again."
        ) from None
    model = parse_config(
        ModelConfig,
        values if isinstance(values, dict) else {"": values},
        source=str(file),
    )
    return tuple(kind for kind in ("image", "text") if getattr(model, kind) is not None)


def _check_names(model: ModelConfig) -> None:
    text = model.text
    image = model.image

    if text is not None and text.library == "transformers":
        if text.tokenizer:
            _check_tokenizer(text.tokenizer, "model.text.tokenizer")
        else:
            _check_tokenizer(text.name, "the tokenizer of model.text.name")
        is_model_type = "/" not in text.name and not Path(text.name).is_dir()
        if not is_model_type:
            patterns = _WEIGHTS if text.pretrained else _SETTINGS
            check_files(text.name, f"model.text.name {text.name!r}", patterns)
    elif text is not None and text.tokenizer:
        _check_tokenizer(text.tokenizer, "model.text.tokenizer")

    if image is not None and image.pretrained and image.library == "timm":
        # Only timm knows its names, and it imports torch.
        from unimodal.towers.timm import check_timm_weights

        check_timm_weights(image)

    for tower in (image, text):
        if tower is not None and tower.library == "open_clip":
            from unimodal.formats.open_clip import check_source

            source = tower.name
            if isinstance(tower.pretrained, str):
                source = f"{tower.name}/{tower.pretrained}"
            check_source(source)


def _check_tokenizer(name: str, key: str) -> None:
    if Path(name).is_file():
        return
    if name.endswith(".json"):
        raise ValueError(
            f"{key} {name!r} is not there; check the path, or give a folder or a hub id."
        )
    check_files(name, f"{key} {name!r}", _TOKENIZERS)
