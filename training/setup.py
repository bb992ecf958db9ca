"""All that happens before the first step: checkpoint, data, model, optimizer and folder."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from unimodal import distributed
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.shards.find import below, find_shards
from unimodal.weights import load_tensors

from .config import Stage, TrainConfig
from .data.dataset import StepDataset
from .model import make_model, prepare_model
from .optim import make_optimizer
from .run.choice import choose_checkpoint
from .run.ledger import check_shards, cut_shards, write_shards
from .run.log import JsonlWriter, MetricsLog, NoLog, RunLog, read_rows
from .run.mirror import clear
from .run.moments import load_moments
from .run.resume import (
    RunState,
    read_state,
    remove_run,
    write_config,
)
from .run.saving import Saver
from .sharding import shard, whole_copy

# Keys that may differ between ranks.
_OWN_KEYS = (
    "device",
    "workers",
    "storage",
    "log_every",
    "keep",
    "mirror",
    "tensorboard",
    "wandb",
)


@dataclass
class Seen:
    """Batches of a source since the run began or was resumed."""

    num_batches: int = 0
    num_idle: int = 0  # those with nothing to learn from
    first: str = ""  # describes the first of those


@dataclass
class Run:
    """A run while it trains."""

    config: TrainConfig
    folder: Path
    stages: list[Stage]
    device: torch.device
    dataset: StepDataset
    model: DualEncoder  # what trains; in shards with FSDP2
    # What is validated and saved at the end: the model, or a copy that gather_weights fills.
    whole: DualEncoder
    tokenizer: Tokenizer
    optimizer: Optimizer
    saver: Saver
    log: RunLog
    skipped: JsonlWriter
    nonfinite: JsonlWriter
    step: int  # steps that are done
    num_skipped: int  # corrupt samples in them
    num_samples: int  # samples in them
    changes: list[str]  # of weights at a resume, one sentence per change
    # By task and source.
    sources: dict[tuple[str, str], Seen] = field(default_factory=dict)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return distributed.rank() == 0


def join_ranks(
    device: str | None, timeout: float, start_timeout: float
) -> torch.device:
    """Join the process group that torchrun announced, if any; returns the device of this rank.

    timeout, start_timeout: as for `init_process_group`.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" in os.environ and not distributed.is_initialized():
        # Host tensors go through gloo whatever the device: agreeing on a number must not wait for
        # the GPU.
        backend = "cpu:gloo,cuda:nccl" if name.startswith("cuda") else "cpu:gloo"
        distributed.init_process_group(backend, timeout, start_timeout)
    if name == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        torch.cuda.set_device(local)
        return torch.device("cuda", local)
    return torch.device(name)


def begin(
    config: TrainConfig, device: torch.device, resume: bool, overwrite: bool
) -> Run:
    """Make or load everything; the same on every rank. Nothing is written before all of it fits.

    Raises ValueError for a mistake in the recipe, and OSError for a storage that cannot be reached.
    """
    folder = Path(config.run)
    stages = config.plan
    newest = choose_checkpoint(folder, config, resume, overwrite)
    _find_all_shards(config, stages)  # an error here comes before a model is fetched
    model, tokenizer = make_model(config, newest)
    model = prepare_model(model, config, device)
    dataset = StepDataset(
        stages,
        config.data_root,
        model.config,
        tokenizer,
        config.seed,
        distributed.rank(),
        distributed.world_size(),
        config.storage,
    )
    state, changes = _resume_state(newest, folder, dataset)
    if newest is not None:
        load_tensors(model, newest / "model.safetensors")
    distributed.check_same(_what_ranks_share(config, dataset, state.step))

    whole = model
    if config.parallel == "fsdp":
        whole = whole_copy(model)
        model = shard(model)
    optimizer = make_optimizer(model, stages[0].optim, config.towers)
    if newest is not None:
        load_moments(newest, model, optimizer)

    is_main = distributed.rank() == 0
    if is_main:
        if newest is None:
            _make_folder(folder, config, is_new=overwrite or not resume)
        write_config(folder, config)  # some keys may change at a resume
        write_shards(folder, dataset)
        for change in changes:
            print(change, file=sys.stderr)
    distributed.barrier()

    is_sharded = whole is not model
    saver = Saver(
        folder, tokenizer, config.keep, config.mirror, newest, sharded=is_sharded
    )
    log: RunLog = NoLog()
    skipped = JsonlWriter(folder / "skipped.jsonl")
    if is_main:
        log = MetricsLog(folder, config, state.step, state.log)
        _list_cut_shards(folder, dataset, skipped)
    return Run(
        config=config,
        folder=folder,
        stages=stages,
        device=device,
        dataset=dataset,
        model=model,
        whole=whole,
        tokenizer=tokenizer,
        optimizer=optimizer,
        saver=saver,
        log=log,
        skipped=skipped,
        nonfinite=JsonlWriter(folder / "nonfinite.jsonl"),
        step=state.step,
        num_skipped=state.num_skipped,
        num_samples=state.num_samples,
        changes=[*state.changes, *changes],
    )


def _find_all_shards(config: TrainConfig, stages: list[Stage]) -> None:
    """Raise an error for a path without shards."""
    tasks = [task for stage in stages for task in stage.tasks.values()]
    sources = [source for task in tasks for source in task.sources.values()]
    for path in {path for source in sources for path in source.paths}:
        find_shards(below(config.data_root, path), config.storage.patience)


def _resume_state(
    newest: Path | None, folder: Path, dataset: StepDataset
) -> tuple[RunState, list[str]]:
    """Read the state of a checkpoint, once its data is known to fit.

    Returns the state, and a sentence for each change of it.
    """
    if newest is None:
        return RunState(), []
    state = read_state(newest)
    check_shards(folder, state.shards, dataset)
    return state, dataset.plan.resume(state.mixtures, state.step)


def _list_cut_shards(folder: Path, dataset: StepDataset, skipped: JsonlWriter) -> None:
    """Write rows of step 0 into skipped.jsonl, unless an earlier start of the run has."""
    cut = cut_shards(dataset)
    if not cut:
        return
    if not any(row["step"] == 0 for row in read_rows(folder / "skipped.jsonl")):
        skipped.append(cut)


def _make_folder(folder: Path, config: TrainConfig, is_new: bool) -> None:
    """Make RUN; for a new run, remove what an earlier one wrote into it and into the mirror."""
    if is_new:
        remove_run(folder)
        if config.mirror:
            try:
                clear(config.mirror)
            except OSError as error:
                warnings.warn(
                    f"mirror {config.mirror} could not be cleared ({error}).",
                    stacklevel=2,
                )
    folder.mkdir(parents=True, exist_ok=True)


def _what_ranks_share(
    config: TrainConfig, dataset: StepDataset, step: int
) -> dict[str, Any]:
    """By name, all that must be the same on every rank: wrong negatives would be silent."""
    shared = {
        key: value for key, value in config.model_dump().items() if key not in _OWN_KEYS
    }
    values: dict[str, Any] = {}
    _flatten(shared, "", values)
    for path, fingerprint in dataset.fingerprints().items():
        values[f"the shards of {path!r}"] = fingerprint
    values["the first step"] = step
    values["the order of batches"] = dataset.digest(config.total_steps)
    return values


def _flatten(value: Any, name: str, values: dict[str, Any]) -> None:
    """Add the leaves of nested dicts to `values`, by their dotted names."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _flatten(inner, f"{name}.{key}" if name else str(key), values)
    else:
        values[name] = value
