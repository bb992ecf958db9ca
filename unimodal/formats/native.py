"""The model directory: config.json, model.safetensors, tokenizer.json, README.md. Nothing pickled,
no remote code.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..files import replacing_folder, sync, write_text
from ..model import DualEncoder, build_model
from ..model_config import ModelConfig
from ..preprocess.tokenizers import Tokenizer, load_tokenizer
from ..weights import check_finite, check_fit
from .card import count_parameters, model_card, read_config


def save_model(
    folder: Path,
    model: DualEncoder,
    tokenizer: Tokenizer | None,
    card: str = "",
    *,
    overwrite: bool = False,
) -> None:
    """Write a model directory, whole or not at all: into a temporary folder that is renamed once it
    is on the disk.

    card: README.md, the model card. Raises ValueError if the folder exists and is not to be
    overwritten; OSError if it cannot be written (a full disk), and then nothing is left behind.
    """
    if folder.exists() and not overwrite:
        raise ValueError(
            f"{folder} exists already; choose another folder or ask for it to be overwritten."
        )
    card = card or model_card(model.config, count_parameters(model))
    with replacing_folder(folder) as part:
        for write in model_writers(
            part, model.config, model.state_dict(), tokenizer, card
        ):
            write()


def model_writers(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    card: str,
) -> list[Callable[[], None]]:
    """What writes the files of a model directory into a folder that is there, a call a file; each
    may raise OSError.

    weights: a state_dict. card: README.md.
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
    except (
        Exception
    ) as error:  # for a full disk the tokenizers library raises nothing more exact
        raise OSError(
            f"the tokenizer could not be written to {folder}: {error}"
        ) from error


def load_model(folder: Path) -> tuple[DualEncoder, Tokenizer | None]:
    """Read a model directory.

    Raises ValueError if a file is missing or broken, or if a tensor is missing, unknown or of
    another shape.
    """
    config_file = folder / "config.json"
    weights_file = folder / "model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise ValueError(
                f"{folder} is no model directory: {file.name} is missing; give a folder "
                "written by unimodal."
            )
    config = read_config(config_file)
    tokenizer = (
        load_tokenizer(config.text, folder)[0] if config.text is not None else None
    )
    model = build_model(config)
    load_tensors(model, weights_file)
    return model.eval(), tokenizer


def write_tensors(
    file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors as safetensors and force them to the disk; tied tensors are written once
    each.

    metadata: of the file's head. Raises OSError if they cannot be written.
    """
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(_apart(tensors), file, metadata)
        file.chmod(
            stat.S_IMODE(mode)
        )  # safetensors makes a file of its own that only its owner can read
    except SafetensorError as error:  # a full disk
        raise OSError(f"{file} could not be written: {error}") from error
    sync(file)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor contiguous on the host and in memory of its own, as the format wants it; copied
    where it is not.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        found[name] = tensor
    return found


def load_tensors(module: nn.Module, file: Path) -> None:
    """Load safetensors into a module.

    Raises ValueError unless names and shapes match exactly and all values are finite.
    """
    try:
        found = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} is not a readable safetensors file ({error}); copy it again."
        ) from None
    wanted = module.state_dict()
    misshapen = {
        name: (found[name].shape, tensor.shape)
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    }
    check_fit(
        str(file), wanted.keys() - found.keys(), found.keys() - wanted.keys(), misshapen
    )
    check_finite(str(file), found)
    module.load_state_dict(found)
