"""The model card: the README.md of a model directory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from ..config import parse_config
from ..json_text import parse_json
from ..model_config import ModelConfig, with_transparency


def model_card(
    config: ModelConfig,
    num_parameters: int,
    scores: Sequence[Mapping[str, Any]] = (),
    trained_on: str = "",
) -> str:
    """Write the README.md of a model directory: what it is, how to use it, what it scored.

    scores: rows {task, metric, value, chance, baseline}.
    """
    towers = []
    for kind, tower in (("image", config.image), ("text", config.text)):
        if tower is not None:
            towers.append(f"{kind} tower `{tower.name}` ({tower.library})")
    lines = [
        "---",
        "library_name: unimodal",
        "pipeline_tag: feature-extraction",
        "---",
        "",
        "# An embedding space for text and images",
        "",
        f"{config.embed_dim} dimensions, {num_parameters / 1e6:.1f} M parameters: "
        f"{', '.join(towers)}.",
        trained_on,
        "",
        "```python",
        "import unimodal",
        "",
        'embedder = unimodal.load("PATH OF THIS FOLDER")',
        'vectors = embedder.encode(["a text", "another text"])  # (2, D) float32 unit vectors',
        "```",
        "",
    ]
    if scores:
        lines += ["| task | metric | value | chance | BM25 |", "|---|---|---|---|---|"]
        lines += [_table_row(row) for row in scores]
    return "\n".join(lines) + "\n"


def _table_row(row: Mapping[str, Any]) -> str:
    numbers = [_number(row.get(key)) for key in ("value", "chance", "baseline")]
    if row.get("value") is None and row.get("note"):
        numbers[0] = "undefined"
    return f"| {row['task']} | {row['metric']} | {' | '.join(numbers)} |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def write_card(
    folder: Path, scores: Sequence[Mapping[str, Any]], trained_on: str
) -> None:
    """Write the card of a model directory again, with scores."""
    config = read_config(folder / "config.json")
    with safe_open(folder / "model.safetensors", "pt") as tensors:
        num_parameters = sum(
            math.prod(tensors.get_slice(name).get_shape())
            for name in tensors.keys()  # noqa: SIM118
        )
    (folder / "README.md").write_text(
        model_card(config, num_parameters, scores, trained_on), encoding="utf-8"
    )


def count_parameters(module: nn.Module) -> int:
    """Count the parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def read_config(file: Path) -> ModelConfig:
    """Read the config.json of a model directory; raises ValueError if it is not valid."""
    try:
        values = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{file} is not JSON ({error}); save the model again."
        ) from None
    if not isinstance(values, dict):
        raise ValueError(
            f"{file} holds a {type(values).__name__}, not a model's configuration; save "
            "the model again."
        )
    return parse_config(ModelConfig, with_transparency(values), source=str(file))
