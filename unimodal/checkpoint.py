"""The model directory: config.json, model.safetensors, tokenizer.json, README.md. Nothing pickled, no remote code."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .config import ModelConfig, parse_config, with_transparency
from .json_text import parse_json
from .model import DualEncoder, build_model
from .preprocess import Tokenizer, load_tokenizer
from .weights import check_finite, check_fit


def save_model(
    folder: Path, model: DualEncoder, tokenizer: Tokenizer | None, card: str = "", *, overwrite: bool = False
) -> None:
    """Write a model directory, whole or not at all: into a temporary folder that is renamed once it is on the disk.

    card: README.md, the model card. Raises ValueError if the folder exists and is not to be overwritten; OSError if
    it cannot be written (a full disk), and then nothing is left behind.
    """
    if folder.exists() and not overwrite:
        raise ValueError(f"{folder} exists already; choose another folder or ask for it to be overwritten.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    card = card or model_card(model.config, count_parameters(model))
    try:
        for write in model_writers(part, model.config, model.state_dict(), tokenizer, card):
            write()
        replace_folder(part, folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def model_writers(
    folder: Path, config: ModelConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer | None, card: str
) -> list[Callable[[], None]]:
    """What writes the files of a model directory into a folder that is there, a call a file; each may raise OSError.

    weights: a state_dict. card: README.md.
    """
    text = json.dumps(config.model_dump(mode="json"), indent=2) + "\n"
    writers: list[Callable[[], None]] = [
        lambda: _write(folder / "config.json", text),
        lambda: write_tensors(folder / "model.safetensors", weights),
        lambda: _write(folder / "README.md", card),
    ]
    if tokenizer is not None:
        writers.append(lambda: _save_tokenizer(tokenizer, folder))
    return writers


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    try:
        tokenizer.save(folder)
    except OSError:
        raise
    except Exception as error:  # for a full disk the tokenizers library raises nothing more exact
        raise OSError(f"the tokenizer could not be written to {folder}: {error}") from error


def load_model(folder: Path) -> tuple[DualEncoder, Tokenizer | None]:
    """Read a model directory.

    Raises ValueError if a file is missing or broken, or if a tensor is missing, unknown or of another shape.
    """
    config_file, weights_file = folder / "config.json", folder / "model.safetensors"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise ValueError(
                f"{folder} is no model directory: {file.name} is missing; give a folder written by unimodal."
            )
    config = _read_config(config_file)
    tokenizer = load_tokenizer(config.text, folder)[0] if config.text is not None else None
    model = build_model(config)
    load_tensors(model, weights_file)
    return model.eval(), tokenizer


def _read_config(file: Path) -> ModelConfig:
    try:
        values = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); save the model again.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds a {type(values).__name__}, not a model's configuration; save the model again.")
    return parse_config(ModelConfig, with_transparency(values), source=str(file))


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write named tensors as safetensors and force them to the disk; tied tensors are written once each.

    metadata: of the file's head. Raises OSError if they cannot be written.
    """
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(_apart(tensors), file, metadata)
        file.chmod(stat.S_IMODE(mode))  # safetensors makes a file of its own that only its owner can read
    except SafetensorError as error:  # a full disk
        raise OSError(f"{file} could not be written: {error}") from error
    sync(file)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor contiguous on the host and in memory of its own, as the format wants it; copied where it is not."""
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
        raise ValueError(f"{file} is not a readable safetensors file ({error}); copy it again.") from None
    wanted = module.state_dict()
    misshapen = {
        name: (found[name].shape, tensor.shape)
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    }
    check_fit(str(file), wanted.keys() - found.keys(), found.keys() - wanted.keys(), misshapen)
    check_finite(str(file), found)
    module.load_state_dict(found)


def replace_folder(part: Path, folder: Path) -> None:
    """Put a finished folder in its place; what stood there is removed only once the new one is there.

    All of it is forced to the disk first, and its name afterwards.
    """
    for path in part.rglob("*"):
        sync(path)
    sync(part)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def replace_text(file: Path, text: str) -> None:
    """Write a text file, whole or not at all, and force it and its name to the disk."""
    part = file.with_name(file.name + ".part")
    try:
        _write(part, text)
        sync(part)
        os.replace(part, file)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync(file.parent)


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def model_card(
    config: ModelConfig, num_parameters: int, scores: Sequence[Mapping[str, Any]] = (), trained_on: str = ""
) -> str:
    """The README.md of a model directory: what it is, how to use it, what it scored.

    scores: rows {task, metric, value, chance, baseline}.
    """
    named = (("image", config.image), ("text", config.text))
    towers = ", ".join(f"{kind} tower `{tower.name}` ({tower.library})" for kind, tower in named if tower is not None)
    lines = [
        "---", "library_name: unimodal", "pipeline_tag: feature-extraction", "---", "",
        "# An embedding space for text and pictures", "",
        f"{config.embed_dim} dimensions, {num_parameters / 1e6:.1f} M parameters: {towers}.",
        trained_on, "",
        "```python", "import unimodal", "", 'embedder = unimodal.load("PATH OF THIS FOLDER")',
        'vectors = embedder.encode(["a text", "another text"])  # (2, D) float32 unit vectors', "```", "",
    ]  # fmt: skip
    if scores:
        lines += ["| task | metric | value | chance | BM25 |", "|---|---|---|---|---|"]
        for row in scores:
            numbers = [
                f"{row[key]:.3f}" if row.get(key) is not None else "-" for key in ("value", "chance", "baseline")
            ]
            if row.get("value") is None and row.get("note"):
                numbers[0] = "undefined"
            lines.append(f"| {row['task']} | {row['metric']} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def write_card(folder: Path, scores: Sequence[Mapping[str, Any]], trained_on: str) -> None:
    """Write a model directory's card anew, with its scores."""
    config = _read_config(folder / "config.json")
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        num_parameters = sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    (folder / "README.md").write_text(model_card(config, num_parameters, scores, trained_on), encoding="utf-8")


def count_parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())
