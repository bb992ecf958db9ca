"""A copy of a run in remote storage (`mirror: s3://bucket/run`).

A checkpoint MIRROR/step-N is complete once its checksums.json is there. The run's config.yaml and
its lists lie next to the checkpoints, as in RUN, so that another machine can resume the run.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from unimodal.files import part_of, replace_folder
from unimodal.shards.storage import Clock, call_method, filesystem, retry

from ..config import TrainConfig
from .checksums import MANIFEST, parse_checksums, problem_of
from .resume import LISTS, check_resumable, checkpoint_folder, step_of

# Seconds to retry one file, or one listing, when a run starts.
_DEADLINE = 60.0
# Seconds that a response may take, plus those of its bytes at the slowest rate (bytes per second).
_TIMEOUT = 60.0
_SLOWEST = 1e6


class MirrorPatience(NamedTuple):
    """How long to retry a file."""

    deadline: float  # seconds
    clock: Clock


def seconds_for(num_bytes: int) -> float:
    """Seconds that sending `num_bytes` may take."""
    return _TIMEOUT + num_bytes / _SLOWEST


def upload(
    folder: Path,
    run: Path,
    mirror: str,
    keep: int,
    check: Callable[[Exception | None], None],
    patience: MirrorPatience,
) -> None:
    """Copy a checkpoint and the run's lists, then remove older checkpoints.

    Of the checkpoints up to this one the newest `keep` stay; later ones are never removed.

    check: called before each attempt to copy a file, with the error of the previous attempt; what
        it raises ends the upload, unless it is an OSError.

    Raises OSError if a file cannot be copied.
    """
    fs, root = filesystem(mirror)
    names = list(parse_checksums((folder / MANIFEST).read_bytes()))

    def keep_trying(action: Callable[[], None], what: str) -> None:
        failure: Exception | None = None

        def attempt() -> None:
            nonlocal failure
            check(failure)
            try:
                action()
            except Exception as error:
                failure = error
                raise

        retry(attempt, what, *patience)

    def put(file: Path, name: str) -> None:
        keep_trying(lambda: _put(fs, file, f"{root}/{name}"), f"{mirror}/{name}")

    def remove_older() -> None:
        found = _checkpoints(fs, root)
        complete = [name for name in found if _is_complete(fs, f"{root}/{name}")]
        # Another machine may have resumed the run and written later ones.
        later = [name for name in complete if name > folder.name]
        kept = [name for name in complete if name not in later][-keep:]
        for name in found:
            if name not in (*kept, *later):
                _remove(fs, f"{root}/{name}")

    keep_trying(lambda: _remove(fs, f"{root}/{folder.name}"), f"{mirror}/{folder.name}")
    for name in names:
        put(folder / name, f"{folder.name}/{name}")
    for name in LISTS:
        if (run / name).is_file():
            put(run / name, name)
    put(folder / MANIFEST, f"{folder.name}/{MANIFEST}")
    keep_trying(remove_older, mirror)


def fetch(mirror: str, run: Path, config: TrainConfig, after: int = -1) -> Path | None:
    """Copy the newest complete checkpoint whose checksums pass into RUN, with the run's lists.

    after: only checkpoints of later steps count; a broken one is skipped.

    Returns None if there is no such checkpoint. Raises OSError if the mirror cannot be reached;
    ValueError if its run has another recipe, or if all its complete checkpoints are broken.
    """
    fs, root = filesystem(mirror)
    problem = ""
    for name in reversed(retry(lambda: _complete(fs, root), mirror, _DEADLINE)):
        folder = checkpoint_folder(run, step_of(Path(name)))
        if step_of(folder) <= after:
            break
        part = part_of(folder)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        problem = _fetch_checkpoint(fs, f"{root}/{name}", part, f"{mirror}/{name}")
        if not problem:
            _fetch_lists(
                fs, root, run, folder.with_name(folder.name + ".lists"), mirror, config
            )
            replace_folder(part, folder)
            return folder
        shutil.rmtree(part)
        warnings.warn(f"{mirror}/{name} is skipped: {problem}.", stacklevel=2)
    if problem and after < 0:
        raise ValueError(
            f"all checkpoints in {mirror} are broken; start again with --overwrite, "
            "or set mirror=."
        )
    return None


def has_checkpoints(mirror: str) -> bool:
    """Whether the mirror has complete checkpoints; raises OSError if it cannot be reached."""
    fs, root = filesystem(mirror)
    return bool(retry(lambda: _complete(fs, root), mirror, _DEADLINE))


def clear(mirror: str) -> None:
    """Remove the checkpoints and the lists of a mirror."""
    fs, root = filesystem(mirror)

    def remove() -> None:
        for name in [*_checkpoints(fs, root), *LISTS]:
            _remove(fs, f"{root}/{name}")

    retry(remove, mirror, _DEADLINE)


def _fetch_checkpoint(fs: AbstractFileSystem, remote: str, part: Path, url: str) -> str:
    """Copy a checkpoint into `part`; returns what is wrong with it, or ""."""
    try:
        _get(fs, f"{remote}/{MANIFEST}", part / MANIFEST, url)
        for name in parse_checksums((part / MANIFEST).read_bytes()):
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            _get(fs, f"{remote}/{name}", part / name, f"{url}/{name}")
    except (FileNotFoundError, ValueError) as error:
        return str(error).rstrip(".")
    return problem_of(part)


def _fetch_lists(
    fs: AbstractFileSystem,
    root: str,
    run: Path,
    part: Path,
    mirror: str,
    config: TrainConfig,
) -> None:
    """Replace the lists in RUN by those of the mirror, if both are of the same run."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    remote_names = retry(lambda: _names(fs, root), mirror, _DEADLINE)
    lists = [name for name in LISTS if name in remote_names]
    for name in lists:
        _get(fs, f"{root}/{name}", part / name, f"{mirror}/{name}")
    check_resumable(part, config, mirror)
    for name in lists:
        (part / name).replace(run / name)
    part.rmdir()


def _get(fs: AbstractFileSystem, remote: str, file: Path, url: str) -> None:
    def get() -> None:
        size = call_method(fs, "info", remote, timeout=_TIMEOUT)["size"]
        call_method(fs, "get_file", remote, str(file), timeout=seconds_for(size))

    retry(get, url, _DEADLINE)


def _put(fs: AbstractFileSystem, file: Path, remote: str) -> None:
    if isinstance(fs, LocalFileSystem):  # other storage creates folders, or has none
        fs.makedirs(remote.rpartition("/")[0], exist_ok=True)
    call_method(
        fs, "put_file", str(file), remote, timeout=seconds_for(file.stat().st_size)
    )
    fs.invalidate_cache()
    if file.name in LISTS:  # the run may have appended to it during the copy
        return
    size = call_method(fs, "info", remote, timeout=_TIMEOUT)["size"]
    if size != file.stat().st_size:
        raise OSError(f"{size:,} of {file.stat().st_size:,} bytes arrived")


def _names(fs: AbstractFileSystem, remote: str) -> list[str]:
    """Names in a remote folder; none if it does not exist.

    (`fs.exists` would report storage that is down as empty.)
    """
    fs.invalidate_cache()
    try:
        paths = call_method(fs, "ls", remote, detail=False, timeout=_TIMEOUT)
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)
    except FileNotFoundError:
        return []


def _checkpoints(fs: AbstractFileSystem, root: str) -> list[str]:
    return [name for name in _names(fs, root) if re.fullmatch(r"step-\d+", name)]


def _complete(fs: AbstractFileSystem, root: str) -> list[str]:
    return [
        name for name in _checkpoints(fs, root) if _is_complete(fs, f"{root}/{name}")
    ]


def _is_complete(fs: AbstractFileSystem, remote: str) -> bool:
    return MANIFEST in _names(fs, remote)


def _remove(fs: AbstractFileSystem, remote: str) -> None:
    """Remove a file, or a checkpoint.

    The manifest goes first, so that a half-removed checkpoint does not count as complete.
    """
    for path in (f"{remote}/{MANIFEST}", remote):
        with suppress(FileNotFoundError):
            call_method(fs, "rm", path, recursive=path == remote, timeout=_TIMEOUT)
    fs.invalidate_cache()
