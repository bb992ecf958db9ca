"""Checkpoints of a run: a model directory with the optimiser's state beside it, whole or not there at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from unimodal.checkpoint import replace_folder, write_model, write_tensors
from unimodal.model import DualEncoder
from unimodal.preprocess import Tokenizer

from . import distributed
from .config import TrainConfig
from .sharding import full_tensor, shard_like
from .step import trained_parameters

# What may differ between a run and its resumption: nothing here changes a weight beyond rounding (and dropout's masks).
FREE_KEYS = (
    "run", "device", "workers", "timeout", "parallel", "step", "log_every", "save_every", "keep", "tensorboard",
    "wandb", "eval",
)  # fmt: skip


def save_checkpoint(
    run: Path,
    step: int,
    model: DualEncoder,
    tokenizer: Tokenizer,
    moments: Mapping[str, Mapping[str, Tensor]],
    state: dict[str, Any],
    keep: int,
) -> Path:
    """Write RUN/checkpoints/step-N by way of a temporary folder; then remove all but the newest `keep`.

    model and moments (`moments_of`) are whole: one rank writes them.
    """
    folder = run / "checkpoints" / f"step-{step:08d}"
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_model(part, model, tokenizer)
    write_tensors(
        part / "optimizer.safetensors",
        {f"{name}/{key}": value for name, entry in moments.items() for key, value in entry.items()},
    )
    (part / "state.json").write_text(json.dumps({"step": step, **state}, indent=2) + "\n", encoding="utf-8")
    replace_folder(part, folder)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return folder


def moments_of(model: DualEncoder, optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
    """The optimiser's state by name of parameter, whole, on the host of rank 0; every rank calls it."""
    names = _in_optimizer_order(model, optimizer)
    found: dict[str, dict[str, Tensor]] = {}
    for number, entry in optimizer.state_dict()["state"].items():
        whole = {key: full_tensor(value) for key, value in entry.items()}
        if distributed.rank() == 0:
            found[names[number][0]] = {key: value.cpu() for key, value in whole.items()}
    return found


def checkpoints(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if path.suffix == "")


def read_state(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of the run beside weights and moments: its step and its shards."""
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state


def load_moments(folder: Path, model: DualEncoder, optimizer: Optimizer) -> None:
    """Put the optimiser's state back; raises ValueError if it has some for what this run does not train."""
    entries: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(folder / "optimizer.safetensors").items():
        parameter, _, key = name.rpartition("/")
        entries.setdefault(parameter, {})[key] = tensor
    trained = _in_optimizer_order(model, optimizer)
    unknown = entries.keys() - {name for name, _ in trained}
    if unknown:
        raise ValueError(f"{folder} has optimiser state for {sorted(unknown)[0]!r}, which this recipe does not train.")
    current = optimizer.state_dict()
    current["state"] = {
        number: {key: shard_like(parameter, tensor) for key, tensor in entries[name].items()}
        for number, (name, parameter) in enumerate(trained)
        if name in entries
    }
    optimizer.load_state_dict(current)


def write_config(run: Path, config: TrainConfig) -> None:
    """Write RUN/config.yaml: the run can be repeated from it alone."""
    part = run / "config.yaml.part"
    part.write_text(yaml.safe_dump(_values(config), sort_keys=False), encoding="utf-8")
    os.replace(part, run / "config.yaml")


def check_resumable(run: Path, config: TrainConfig) -> None:
    """Raise ValueError naming the first value in which the recipe differs from the run that it resumes."""
    file = run / "config.yaml"
    if not file.is_file():
        raise ValueError(f"{run} holds no config.yaml to resume from; start without --resume, or check the path.")
    before, now = yaml.safe_load(file.read_text(encoding="utf-8")), _values(config)
    for key, was, is_now in _differences(before, now, ""):
        if key.split(".")[0] not in FREE_KEYS:
            raise ValueError(
                f"{run} was started with {key}={was!r} and the recipe says {is_now!r}; resume with the "
                "former, or start a run from its weights (model=null init=RUN/checkpoints/step-N)."
            )


def _values(config: TrainConfig) -> dict[str, Any]:
    """All values; preprocessing that was not given is left out, for then pretrained towers bring their own."""
    values = config.model_dump(mode="json")
    if config.model is not None and "preprocess" not in config.model.model_fields_set:
        del values["model"]["preprocess"]
    return values


def _differences(before: Any, now: Any, path: str) -> list[tuple[str, Any, Any]]:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [] if before == now else [(path, before, now)]
    keys = list(dict.fromkeys([*before, *now]))
    return [
        found
        for key in keys
        for found in _differences(before.get(key), now.get(key), f"{path}.{key}" if path else str(key))
    ]


def _in_optimizer_order(model: DualEncoder, optimizer: Optimizer) -> list[tuple[str, nn.Parameter]]:
    names = {id(parameter): name for name, parameter in trained_parameters(model)}
    return [(names[id(parameter)], parameter) for group in optimizer.param_groups for parameter in group["params"]]
