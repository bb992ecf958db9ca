"""Where a run begins: its folder, and the checkpoint that all ranks resume from."""

from __future__ import annotations

import secrets
import sys
import time
import warnings
from pathlib import Path

from unimodal import distributed
from unimodal.files import PART

from ..config import TrainConfig
from ..main_rank import on_main
from .mirror import fetch, has_checkpoints
from .resume import (
    SHARDS,
    check_resumable,
    checkpoint_folder,
    checkpoints,
    newest_good,
    step_of,
)

_LOOKS = 25  # in five seconds, for a file that another machine writes


def choose_checkpoint(
    folder: Path, config: TrainConfig, resume: bool, overwrite: bool
) -> Path | None:
    """The checkpoint to resume from, the same on every rank; None to start.

    Rank 0 reads checkpoints through, and fetches one from the mirror that is later than those that
    are whole. Raises ValueError for a run that may not be resumed or overwritten.
    """
    check_shared(folder)
    if not resume and not overwrite and _holds_anything(folder):
        raise ValueError(
            f"{folder} exists already; resume with --resume, start again with --overwrite, or set "
            "run=."
        )
    newest = _agree_on_newest(folder, config, resume, overwrite)
    if resume and (newest is not None or (folder / "config.yaml").is_file()):
        check_resumable(folder, config)
    if resume and newest is None and distributed.rank() == 0:
        print(
            f"{folder} has no checkpoint to resume from: starting with the first step",
            file=sys.stderr,
        )
    return newest


def check_shared(folder: Path) -> None:
    """Make RUN, and raise ValueError on every rank unless all ranks see the same folder.

    Raises OSError if rank 0 cannot write into it.
    """
    ranks = distributed.world_size()
    if ranks == 1:
        return
    is_main = distributed.rank() == 0
    failure = None
    number = secrets.randbelow(1 << 50) if is_main else 0
    (shared_number,) = distributed.all_reduce_sum([number])
    # A name that no file system has looked up before.
    mark = folder / f"rank-0-{int(shared_number)}{PART}"
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
    missing = _ranks_without(mark)
    if is_main:
        mark.unlink(missing_ok=True)
    if missing:
        raise ValueError(
            f"run {folder} is not the same folder on rank 0 and rank {missing[0]}; set run= to a "
            "folder that all machines share."
        )


def _ranks_without(mark: Path) -> list[int]:
    """The ranks that do not see a file; a network file system has five seconds to show it."""
    ranks = range(distributed.world_size())
    for _ in range(_LOOKS):
        is_missing = not mark.exists()
        votes = [is_missing and rank == distributed.rank() for rank in ranks]
        missing = distributed.all_reduce_sum(votes)
        if not any(missing):
            return []
        time.sleep(0.2)
    return [rank for rank in ranks if missing[rank]]


def _holds_anything(folder: Path) -> bool:
    """Whether a folder holds more than a run leaves that failed before its first step."""
    if not folder.is_dir():
        return folder.exists()
    return any(not _is_leftover(path, folder) for path in folder.iterdir())


def _is_leftover(path: Path, run: Path) -> bool:
    if path.name in ("config.yaml", SHARDS, "tensorboard") or path.suffix == PART:
        return True
    if path.is_file():
        return path.stat().st_size == 0
    return path.name == "checkpoints" and not checkpoints(run)


def _agree_on_newest(
    folder: Path, config: TrainConfig, resume: bool, overwrite: bool
) -> Path | None:
    """Let rank 0 choose the newest checkpoint; returns it on every rank."""
    chosen: list[Path] = []
    failures: list[Exception] = []

    def choose() -> None:
        try:
            newest = _newest(folder, config) if resume else None
            if newest is not None:
                chosen.append(newest)
            if not resume and config.mirror:
                _check_mirror(config.mirror, overwrite)
        except (ValueError, OSError) as error:
            failures.append(error)

    on_main(choose, config.timeout)
    # Summed over the ranks; of the others it is 0.
    number = step_of(chosen[0]) + 1 if chosen else 0
    (agreed,) = distributed.all_reduce_sum([-1 if failures else number])
    if failures:
        raise failures[0]
    if agreed < 0:
        raise ValueError(
            "rank 0 found no checkpoint that the run can resume from; see its message."
        )
    return checkpoint_folder(folder, int(agreed) - 1) if agreed else None


def _newest(folder: Path, config: TrainConfig) -> Path | None:
    """The newest good checkpoint of the folder or the mirror; None if there is none at all."""
    local = None
    broken = None
    try:
        local = newest_good(folder)
    except ValueError as error:
        broken = error
    remote = _fetch_later(folder, config, local) if config.mirror else None
    if remote is not None and local is not None:
        print(
            f"{config.mirror} has {remote.name}: resuming from it, not from {local.name} of "
            f"{folder}",
            file=sys.stderr,
        )
    if remote is None and broken is not None:
        raise broken
    return remote or local


def _fetch_later(folder: Path, config: TrainConfig, local: Path | None) -> Path | None:
    """Fetch a checkpoint of the mirror that is later than the local one."""
    after = -1 if local is None else step_of(local)
    try:
        return fetch(config.mirror, folder, config, after=after)
    except OSError as error:
        if local is None:
            raise
        warnings.warn(
            f"mirror {config.mirror} cannot be reached ({error}); resuming from {local.name} of "
            f"{folder}, whatever the mirror holds.",
            stacklevel=2,
        )
        return None


def _check_mirror(mirror: str, overwrite: bool) -> None:
    try:
        if has_checkpoints(mirror) and not overwrite:
            raise ValueError(
                f"{mirror} holds a run; resume with --resume, start again with --overwrite, or set "
                "mirror=."
            )
    except OSError as error:
        warnings.warn(
            f"mirror {mirror} cannot be reached ({error}); training starts without it.",
            stacklevel=2,
        )
