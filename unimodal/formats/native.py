"""Our own format, the model directory.

It holds config.json, model.safetensors, tokenizer.json and README.md: nothing pickled, no code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from ..files import replacing_folder, write_text
from ..hub import local_folder
from ..model import DualEncoder, build_model
from ..model_config import ModelConfig
from ..preprocess.tokenizers import Tokenizer, load_tokenizer
from ..weights import load_tensors, write_tensors
from .card import count_parameters, model_card, read_config


def detect(source: str) -> bool:
    """Whether the source is a folder or a hub id, which have no prefix."""
    return ":" not in source or Path(source).is_dir()


def load(source: str | Path) -> tuple[DualEncoder, Tokenizer | None]:
    """Load a model directory.

    source: a folder, or a hub id.

    Raises ValueError if a file is missing or broken, or if a tensor is missing, unknown or of
    another shape.
    """
    folder = local_folder(str(source), str(source))
    config_file = folder / "config.json"
    weights_file = folder / "model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise ValueError(
                f"{folder} is not a model directory: {file.name} is missing; give a folder "
                "that unimodal has saved."
            )

    config = read_config(config_file)
    tokenizer = None
    if config.text is not None:
        tokenizer, _ = load_tokenizer(config.text, folder)
    model = build_model(config)
    load_tensors(model, weights_file)
    return model.eval(), tokenizer


def save(
    folder: Path,
    model: DualEncoder,
    tokenizer: Tokenizer | None,
    card: str = "",
    *,
    overwrite: bool = False,
) -> None:
    """Save a model directory, whole or not at all.

    card: README.md, the model card; empty: made from the configuration.

    Raises ValueError if the folder exists and `overwrite` is not set, and OSError if it cannot be
    written (a full disk); nothing is left behind then.
    """
    if folder.exists() and not overwrite:
        raise ValueError(
            f"{folder} already exists; choose another folder, or ask to overwrite it."
        )
    card = card or model_card(model.config, count_parameters(model))
    with replacing_folder(folder) as part:
        weights = model.state_dict()
        for write in model_writers(part, model.config, weights, tokenizer, card):
            write()


def model_writers(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    card: str,
) -> list[Callable[[], None]]:
    """Return one function per file that writes it into an existing folder.

    Each may raise OSError.

    weights: a state_dict.
    card: README.md.
    """
    text = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    writers: list[Callable[[], None]] = [
        lambda: write_text(folder / "config.json", text),
        lambda: write_tensors(folder / "model.safetensors", weights),
        lambda: write_text(folder / "README.md", card),
    ]
    if tokenizer is not None:
        writers.append(lambda: _save_tokenizer(tokenizer, folder))
    return writers


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    try:
        tokenizer.save(folder)
    except OSError:
        raise
    except Exception as error:  # the library has no type of its own for a full disk
        raise OSError(
            f"the tokenizer could not be written to {folder}: {error}"
        ) from error
