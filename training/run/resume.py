"""The checkpoints of a run: the newest that is whole, and whether a recipe may resume from it."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unimodal.config import show
from unimodal.files import OLD, PART, part_of, replace_text
from unimodal.model_config import with_transparency
from unimodal.yaml_text import dump_yaml, read_yaml

from ..config import TrainConfig
from .checksums import problem_of

# What a run writes into its folder beside checkpoints/: lists, which its mirror gets too, and
# models.
LEDGER = "ledger.json"
SHARDS = "shards.jsonl"
LISTS = (
    "config.yaml",
    "metrics.jsonl",
    "skipped.jsonl",
    "nonfinite.jsonl",
    LEDGER,
    SHARDS,
)
MODELS = ("model", "best")

# Keys that may change at a resume: none of them changes a weight beyond rounding (and dropout's
# masks).
FREE_KEYS = (
    "run",
    "data_root",
    "storage",
    "device",
    "workers",
    "timeout",
    "start_timeout",
    "parallel",
    "step",
    "log_every",
    "save_every",
    "keep",
    "mirror",
    "tensorboard",
    "wandb",
    "eval",
    "max_skipped",
)
# A source may get another share of the batches to come: checkpoints keep the earlier ones
# (data/mixture.py).
_FREE_IN_SOURCES = re.compile(
    r"(stages\.\d+\.)?tasks\.[^.]+\.sources\..+\.(weight|epochs)"
)


def checkpoints(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first; `problem_of` tells whether one is whole."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted(folder for folder in folders if folder.suffix == "")


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / "checkpoints" / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(folder.name.removeprefix("step-"))


def newest_good(run: Path) -> Path | None:
    """The newest checkpoint whose checksums pass; None if there is no checkpoint.

    Warns of each broken one that is newer; raises ValueError if all are broken.
    """
    broken: list[tuple[str, str]] = []
    for folder in reversed(checkpoints(run)):
        problem = problem_of(folder)
        if not problem:
            for name, broken_problem in broken:
                warnings.warn(
                    f"checkpoint {name} is skipped: {broken_problem}; {folder.name} is used "
                    "instead.",
                    stacklevel=2,
                )
            return folder
        broken.append((folder.name, problem))
    if broken:
        name, problem = broken[0]
        raise ValueError(
            f"none of the {len(broken)} checkpoint(s) in {run} is whole ({name}: {problem}); copy "
            "a good one there, or start again with --overwrite."
        )
    return None


def remove_leftovers(run: Path) -> None:
    """Remove what a killed run left half written, and put back a model that it had moved aside."""
    for name in MODELS:
        old = run / f"{name}{OLD}"
        # The process was killed between the two renames of `replace_folder`.
        if old.is_dir() and not (run / name).exists():
            old.rename(run / name)
        _remove(old)
    parts = (part_of(run / name) for name in (*MODELS, *LISTS))
    for path in [
        *parts,
        *run.glob(f"rank-0-*{PART}"),
        *(run / "checkpoints").glob("step-*.*"),
    ]:
        _remove(path)


def remove_run(run: Path) -> None:
    """Remove what a run writes, and nothing else: the demo has its shards in the same folder."""
    for name in (
        "checkpoints",
        "tensorboard",
        "plots.png",
        *MODELS,
        *(f"{name}{OLD}" for name in MODELS),
        *LISTS,
    ):
        _remove(run / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class RunState:
    """The state.json of a checkpoint: what a run begins with beside weights and moments."""

    step: int = 0  # steps that are done
    num_skipped: int = 0  # corrupt samples in them
    num_samples: int = 0  # samples in them
    shards: dict[str, str] = field(default_factory=dict)  # the fingerprint of each path
    # How far each source is, by stage and task.
    mixtures: dict[str, Any] = field(default_factory=dict)
    # Changes of weights at a resume, one sentence per change.
    changes: list[str] = field(default_factory=list)
    log: dict[str, Any] | None = None  # sums since the last line of metrics.jsonl


def read_state(folder: Path) -> RunState:
    """The state of a checkpoint."""
    return RunState(**json.loads((folder / "state.json").read_text(encoding="utf-8")))


def write_state(folder: Path, state: RunState) -> None:
    """Write state.json; raises OSError if that fails."""
    replace_text(folder / "state.json", json.dumps(vars(state), indent=2) + "\n")


def write_config(run: Path, config: TrainConfig) -> None:
    """Write RUN/config.yaml, which is enough to repeat the run."""
    replace_text(run / "config.yaml", dump_yaml(_values(config)))


def check_resumable(run: Path, config: TrainConfig, name: str = "") -> None:
    """Raise ValueError, naming the first key, unless a recipe fits the run that it resumes.

    name: of the run, for the message; by default its folder.
    """
    file = run / "config.yaml"
    if not file.is_file():
        raise ValueError(
            f"{name or run} has no config.yaml to resume from; start without --resume, or check "
            "the path."
        )
    before = read_yaml(file)
    now = _values(config)
    if before.get("model"):
        before["model"] = with_transparency(before["model"])
    for key, was, is_now in _differences(before, now, ""):
        if key.split(".")[0] not in FREE_KEYS and not _FREE_IN_SOURCES.fullmatch(key):
            why = ""
            if {"steps", "optim"} & set(key.split(".")):
                why = " (the learning-rate schedule depends on it)"
            overrides = "" if name else start_from(run, config)
            origin = f" from its weights ({overrides})" if overrides else ""
            raise ValueError(
                f"{name or run} was started with {key}={show(was)} and the recipe says "
                f"{show(is_now)}{why}; resume with the former, or start another run{origin}."
            )


def start_from(run: Path, config: TrainConfig, last: int | None = None) -> str:
    """The overrides that start another run from this one's newest checkpoint; "" without one.

    last: the newest step that is good enough.
    """
    folders = checkpoints(run)
    if last is not None:
        folders = [folder for folder in folders if step_of(folder) <= last]
    if not folders:
        return ""
    no_model = "model=null " if config.model is not None else ""
    return f"run=ANOTHER {no_model}init={folders[-1]}"


def _values(config: TrainConfig) -> dict[str, Any]:
    """All values of a recipe, without preprocessing if pretrained towers bring their own."""
    values = config.model_dump(mode="json")
    if config.model is not None and "preprocess" not in config.model.model_fields_set:
        del values["model"]["preprocess"]
    return values


def _differences(before: Any, now: Any, path: str) -> list[tuple[str, Any, Any]]:
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before = dict(enumerate(before))
        now = dict(enumerate(now))
    if not isinstance(before, dict) or not isinstance(now, dict):
        return [] if before == now else [(path, before, now)]
    keys = list(dict.fromkeys([*before, *now]))
    return [
        found
        for key in keys
        for found in _differences(
            before.get(key), now.get(key), f"{path}.{key}" if path else str(key)
        )
    ]
