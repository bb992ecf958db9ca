"""All that happens before the first step: what a run goes on from, its data, model and optimiser,
its folder.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from unimodal import distributed
from unimodal.files import PART
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.shards.find import below, find_shards
from unimodal.weights import load_tensors

from .config import Stage, TrainConfig
from .data.loader import StepDataset
from .main_rank import on_main
from .optim import make_optimizer
from .prepare import make_model, prepare_model
from .run.ledger import check_shards, cut_shards, write_shards
from .run.log import Lines, MetricsLog, read_rows
from .run.mirror import clear, fetch, has_checkpoints
from .run.moments import load_moments
from .run.resume import (
    SHARDS,
    RunState,
    check_resumable,
    checkpoint_folder,
    checkpoints,
    newest_good,
    read_state,
    remove_run,
    step_of,
    write_config,
)
from .run.saving import Saver
from .sharding import shard, whole_copy

_LOOKS = 25  # in five seconds, for a file that another machine writes
# A rank may have its own.
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
    first: str = ""  # what was said of the first of those


@dataclass
class Run:
    """What a run has in hand while it goes."""

    config: TrainConfig
    folder: Path
    stages: list[Stage]
    device: torch.device
    dataset: StepDataset
    model: DualEncoder  # what trains; in shards with FSDP2
    # what is validated and saved at the end: the model, or a copy that gather_weights fills
    whole: DualEncoder
    tokenizer: Tokenizer
    optimizer: Optimizer
    saver: Saver
    log: MetricsLog | None  # on rank 0
    skipped: Lines
    nonfinite: Lines
    step: int  # how many are done
    num_skipped: int  # corrupt samples in them
    num_samples: int  # samples in them
    changes: list[str]  # of weights, at a resume: a sentence each
    sources: dict[tuple[str, str], Seen] = field(
        default_factory=dict
    )  # by task and source


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
    """Make or load everything; the same on every rank. Nothing is written before all of it is known
    to fit.

    Raises ValueError for what the recipe gets wrong, and OSError for a storage that cannot be
    reached.
    """
    folder = Path(config.run)
    stages = config.plan
    newest = _choose_checkpoint(folder, config, resume, overwrite)
    for path in {
        path
        for stage in stages
        for task in stage.tasks.values()
        for source in task.sources.values()
        for path in source.paths
    }:
        find_shards(
            below(config.data_root, path), config.storage.patience
        )  # said before a model is fetched
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
    state, changes = _state_of(newest, folder, dataset)
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
    if distributed.rank() == 0:
        if newest is None:
            _make_folder(folder, config, overwrite or not resume)
        write_config(
            folder, config
        )  # as it is now: what may change at a resume may have
        write_shards(folder, dataset)
        for change in changes:
            print(change, file=sys.stderr)
    distributed.barrier()
    saver = Saver(
        folder,
        tokenizer,
        config.keep,
        config.mirror,
        newest,
        sharded=whole is not model,
    )
    log = (
        MetricsLog(folder, config, state.step, state.log)
        if distributed.rank() == 0
        else None
    )
    skipped = Lines(folder / "skipped.jsonl")
    if log is not None:
        _list_cut_shards(folder, dataset, skipped)
    return Run(
        config,
        folder,
        stages,
        device,
        dataset,
        model,
        whole,
        tokenizer,
        optimizer,
        saver,
        log,
        skipped,
        Lines(folder / "nonfinite.jsonl"),
        state.step,
        state.num_skipped,
        state.num_samples,
        [*state.changes, *changes],
    )


def check_shared(folder: Path) -> None:
    """Raise ValueError, on every rank, unless RUN is one folder for all; it is made, and else left
    as it is.

    Raises OSError if rank 0 cannot write into it.
    """
    ranks = distributed.world_size()
    if ranks == 1:
        return
    is_main = distributed.rank() == 0
    failure = None
    number = secrets.randbelow(1 << 50) if is_main else 0
    mark = (
        folder / f"rank-0-{int(distributed.all_reduce_sum([number])[0])}{PART}"
    )  # a name that no file system has looked up
    try:
        if is_main:
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
    except OSError as error:
        failure = error
    if distributed.all_reduce_sum([failure is not None])[0]:
        raise failure or ValueError(
            f"rank 0 cannot write into run {folder}; set run= to a folder where it can."
        )
    for _ in range(
        _LOOKS
    ):  # a network's file system may believe for a while that it is not there
        is_missing = not mark.exists()
        missing = distributed.all_reduce_sum(
            [is_missing and rank == distributed.rank() for rank in range(ranks)]
        )
        if not any(missing):
            break
        time.sleep(0.2)
    if is_main:
        mark.unlink(missing_ok=True)
    if any(missing):
        raise ValueError(
            f"run {folder} is not the same folder on rank 0 and rank {missing.index(1)}; set "
            "run= to a folder that all machines share."
        )


def _holds_anything(folder: Path) -> bool:
    """Whether a folder holds more than what a run leaves that failed before its first step."""
    if not folder.is_dir():
        return folder.exists()
    for path in folder.iterdir():
        is_leftover = (
            path.name in ("config.yaml", SHARDS, "tensorboard") or path.suffix == PART
        )
        is_empty = (
            path.stat().st_size == 0
            if path.is_file()
            else path.name == "checkpoints" and not checkpoints(folder)
        )
        if not is_leftover and not is_empty:
            return True
    return False


def _choose_checkpoint(
    folder: Path, config: TrainConfig, resume: bool, overwrite: bool
) -> Path | None:
    """The checkpoint to go on from, the same on every rank, of a run that may be gone on with; None
    to start anew.

    Rank 0 reads checkpoints through, and fetches one from the mirror that is later than those that
    are whole.
    """
    check_shared(folder)
    if not resume and not overwrite and _holds_anything(folder):
        raise ValueError(
            f"{folder} exists already; go on with --resume, start anew with --overwrite, "
            "or set run=."
        )
    newest = _agree_on_newest(folder, config, resume, overwrite)
    if resume and (newest is not None or (folder / "config.yaml").is_file()):
        check_resumable(folder, config)
    if resume and newest is None and distributed.rank() == 0:
        print(
            f"{folder} has no checkpoint to go on from: starting with the first step",
            file=sys.stderr,
        )
    return newest


def _agree_on_newest(
    folder: Path, config: TrainConfig, resume: bool, overwrite: bool
) -> Path | None:
    chosen: list[Path] = []
    failures: list[Exception] = []

    def choose() -> None:
        try:
            found = _newest(folder, config) if resume else None
            chosen.extend([found] if found is not None else [])
            if not resume and config.mirror:
                _check_mirror(config.mirror, overwrite)
        except (ValueError, OSError) as error:
            failures.append(error)

    on_main(choose, config.timeout)
    (number,) = distributed.all_reduce_sum(
        [-1 if failures else step_of(chosen[0]) + 1 if chosen else 0]
    )
    if failures:
        raise failures[0]
    if number < 0:
        raise ValueError(
            "rank 0 found no checkpoint that the run can go on from; see what it says."
        )
    return checkpoint_folder(folder, int(number) - 1) if number else None


def _newest(folder: Path, config: TrainConfig) -> Path | None:
    """The newest good checkpoint, be it in the folder or in the mirror; None where there is none at
    all.
    """
    found = None
    broken = None
    try:
        found = newest_good(folder)
    except ValueError as error:
        broken = error
    later = None
    if config.mirror:
        try:
            later = fetch(
                config.mirror,
                folder,
                config,
                after=step_of(found) if found is not None else -1,
            )
        except OSError as error:
            if found is None:
                raise
            warnings.warn(
                f"mirror {config.mirror} cannot be reached ({error}); going on from {found.name} "
                f"of {folder}, whatever is there.",
                stacklevel=2,
            )
    if later is not None and found is not None:
        said = (
            f"{config.mirror} has {later.name}: going on from it, not from {found.name} of "
            f"{folder}"
        )
        print(said, file=sys.stderr)
    if later is None and broken is not None:
        raise broken
    return later or found


def _state_of(
    newest: Path | None, folder: Path, dataset: StepDataset
) -> tuple[RunState, list[str]]:
    """What a checkpoint says of the run, once the data is known to fit it; and what changes of it,
    a sentence each.
    """
    if newest is None:
        return RunState(), []
    state = read_state(newest)
    check_shards(folder, state.shards, dataset)
    return state, dataset.plan.resume(state.mixtures, state.step)


def _list_cut_shards(folder: Path, dataset: StepDataset, skipped: Lines) -> None:
    """Write rows of step 0 into skipped.jsonl, unless an earlier start of the run has."""
    cut = cut_shards(dataset)
    if cut and not any(row["step"] == 0 for row in read_rows(folder / "skipped.jsonl")):
        skipped.append(cut)


def _check_mirror(mirror: str, overwrite: bool) -> None:
    try:
        if has_checkpoints(mirror) and not overwrite:
            raise ValueError(
                f"{mirror} holds a run; go on with --resume, start anew with "
                "--overwrite, or set mirror=."
            )
    except OSError as error:
        warnings.warn(
            f"mirror {mirror} cannot be reached ({error}); training starts without it.",
            stacklevel=2,
        )


def _make_folder(folder: Path, config: TrainConfig, anew: bool) -> None:
    if anew:  # what is there was asked to be lost, or is nothing
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
    """By name, all that must be the same on every rank: wrong negatives are silent otherwise."""
    values: dict[str, Any] = {}

    def flatten(value: Any, name: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                flatten(inner, f"{name}.{key}" if name else str(key))
        else:
            values[name] = value

    flatten(
        {
            key: value
            for key, value in config.model_dump().items()
            if key not in _OWN_KEYS
        },
        "",
    )
    for path, fingerprint in dataset.fingerprints().items():
        values[f"the shards of {path!r}"] = fingerprint
    return {
        **values,
        "the first step": step,
        "the order of batches": dataset.digest(config.total_steps),
    }
