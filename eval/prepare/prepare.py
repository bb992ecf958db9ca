"""Fetch a data set into the data root: as a whole or not at all, and only once."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unimodal.files import (
    PART,
    locked,
    part_of,
    replace_folder,
    replace_text,
    sync_tree,
    write_text,
)
from unimodal.progress import progress_bar
from unimodal.shards.storage import Patience
from unimodal.shards.write import pack

from .archive import unpack
from .coco_captions_text import convert_coco_captions_text
from .emoji_noto import convert_emoji_noto
from .fetch import GITHUB, fetch_file, fetch_from_hub
from .grocery_store import convert_grocery_store
from .luma_shop import convert_luma_shop
from .retail_demo_text import convert_retail_demo_text
from .table import Converter, DataSet, Each, Source, data_sets, names_of

RECORD = "prepared.json"  # the origin of a data set; a folder with it is complete
_NOTE = "origin.json"  # the same in the folder of an unfinished try
_LOCK = "lock"  # in the folder of an unfinished try
_LOCK_TIMEOUT = 0.2  # seconds: enough to see that a process has just removed the folder
_MARGIN = 3.0  # an archive may be this many times as large as sets.yaml says

# Each takes the folder of the sources and the folder to fill.
CONVERTERS: dict[Converter, Callable[[Path, Path], None]] = {
    "coco_captions_text": convert_coco_captions_text,
    "emoji_noto": convert_emoji_noto,
    "grocery_store": convert_grocery_store,
    "luma_shop": convert_luma_shop,
    "retail_demo_text": convert_retail_demo_text,
}


@dataclass(frozen=True)
class Access:
    """How origins are reached, and the origins that have answered so far."""

    github: str
    patience: Patience
    show_progress: bool | None
    reached: set[str] = field(default_factory=set)


def prepare(
    wanted: str,
    data_root: Path,
    *,
    overwrite: bool = False,
    github: str = GITHUB,
    patience: Patience | None = None,
    show_progress: bool | None = None,
    table: dict[str, DataSet] | None = None,
) -> list[Path]:
    """Fetch a data set, or all of a group, to data_root/NAME; returns the folders.

    A folder of the same origin is left as it is. A try that failed or was killed is resumed: until
    it is complete, it is in the hidden folder data_root/.NAME.part.

    overwrite: also replace a folder of another origin or of another version of sets.yaml.
    github: URL of the archives of commits. table: data sets to use instead of sets.yaml.

    Raises ValueError for an unknown name, a folder with other files, a full disk and unexpected
    files; OSError for an origin that cannot be reached.
    """
    table = data_sets() if table is None else table
    names = names_of(wanted, table)
    missing = [
        name
        for name in names
        if not _is_prepared(data_root / name, table[name], overwrite)
    ]
    _check_room(data_root, [table[name] for name in missing])
    # shared: a connection that breaks between two sets is waited for, too
    access = Access(github, patience or Patience(), show_progress)
    for name in missing:
        _prepare(name, table[name], data_root, access)
    return [data_root / name for name in names]


def _is_prepared(folder: Path, data_set: DataSet, overwrite: bool) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    record = folder / RECORD
    if not record.is_file():
        raise ValueError(
            f"{folder} has files that this command did not prepare (no {RECORD}); move them away."
        )
    if _recorded_origin(folder) == _origin(data_set):
        return True
    if not overwrite:
        raise ValueError(
            f"{folder} was prepared from another origin or by another version; pass "
            "--overwrite to replace it."
        )
    return False


def _recorded_origin(folder: Path) -> object:
    """The origin of a complete folder; None for any other."""
    record = folder / RECORD
    if not record.is_file():
        return None
    return json.loads(record.read_text(encoding="utf-8"))["origin"]


def _origin(data_set: DataSet) -> dict[str, Any]:
    return data_set.model_dump(
        mode="json",
        include={"sources", "each", "convert", "shards"},
        exclude_defaults=True,
    )


def _check_room(data_root: Path, missing: list[DataSet]) -> None:
    """Refuse to begin if the disk cannot hold the data sets and the largest try among them."""
    if not missing:
        return
    downloads = sum(data_set.megabytes for data_set in missing)
    largest_try = max(
        data_set.disk_megabytes - data_set.megabytes for data_set in missing
    )
    needed = downloads + largest_try
    root = data_root.absolute()
    existing = next(folder for folder in [root, *root.parents] if folder.exists())
    free = shutil.disk_usage(existing).free / 1e6
    if needed > free:
        raise ValueError(
            f"{data_root} needs {needed:,.0f} MB and {free:,.0f} MB are free; give another --data."
        )


def _prepare(name: str, data_set: DataSet, data_root: Path, access: Access) -> None:
    folder = data_root / name
    show_progress = access.show_progress
    with _working_folder(folder, _origin(data_set)) as work:
        if _recorded_origin(folder) == _origin(data_set):
            return  # another process has just prepared it
        sources = work / "sources"
        commits = [
            _fetch(name, source, work, data_set, access) for source in data_set.sources
        ]
        for each in data_set.each:
            _fetch_each(each, sources, access)
        made = sources
        if data_set.convert:
            made = work / "made"
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            CONVERTERS[data_set.convert](sources, made)
        for shards, config in data_set.shards.items():
            pack(
                config,
                made / "shards" / shards,
                made,
                overwrite=True,
                show_progress=show_progress,
            )
        record = {
            "name": name,
            "about": data_set.about,
            "licence": data_set.licence,
            "origin": _origin(data_set),
            "commits": commits,
        }
        text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
        write_text(made / RECORD, text)
        replace_folder(made, folder)


def _fetch(
    name: str, source: Source, work: Path, data_set: DataSet, access: Access
) -> str:
    """Bring the files of a source to work/sources; returns the commit."""
    key = hashlib.blake2b(source.model_dump_json().encode(), digest_size=6).hexdigest()
    done = work / f"{key}.done"
    if done.is_file():
        return done.read_text(encoding="utf-8")
    target = work / "sources" / source.into
    target.mkdir(parents=True, exist_ok=True)
    if source.hub:
        commit = _fetch_repository(source, target, access)
    else:
        commit = source.revision
        archive = work / f"{key}.archive"
        _fetch_archive(name, source, archive, target, data_set, access)
    sync_tree(target)
    replace_text(done, commit)
    return commit


def _fetch_repository(source: Source, target: Path, access: Access) -> str:
    """The files of a repository of the hub; returns the commit."""
    commit = fetch_from_hub(
        source.hub,
        source.revision,
        source.files,
        target,
        access.patience,
        access.reached,
    )
    # the hub's own notes of the download
    shutil.rmtree(target / ".cache", ignore_errors=True)
    files = [
        path.relative_to(target).as_posix()
        for path in target.rglob("*")
        if path.is_file()
    ]
    for pattern in source.files:
        if not fnmatch.filter(files, pattern):
            raise ValueError(
                f"{source.hub} ({commit[:7]}) has no file that matches {pattern!r}; its layout "
                "has changed."
            )
    return commit


def _fetch_archive(
    name: str,
    source: Source,
    archive: Path,
    target: Path,
    data_set: DataSet,
    access: Access,
) -> None:
    """The files of an archive at a URL or of a commit on GitHub."""
    max_bytes = int(_MARGIN * data_set.disk_megabytes * 1e6)
    url = source.url or f"{access.github}/{source.github}/tar.gz/{source.revision}"
    if not archive.is_file():
        expected = int(data_set.megabytes * 1e6)
        with progress_bar(
            f"fetching {name}", expected, access.show_progress
        ) as advance:
            fetch_file(
                url, archive, access.patience, max_bytes, advance, access.reached
            )
    try:
        unpack(
            archive,
            target,
            source.files,
            max_bytes,
            strip=1 if source.github else 0,
            flat=source.flat,
        )
    except ValueError as error:
        raise ValueError(f"{source.name}: {error}") from None
    finally:
        archive.unlink()  # so that a broken archive is fetched again next time


def _fetch_each(each: Each, sources: Path, access: Access) -> None:
    """Download single files, eight at once, except those that are there already."""
    listed = (sources / each.names).read_text(encoding="utf-8").split()
    names = fnmatch.filter(listed, each.like)
    for name in names:  # strangers made the list, and a * also matches folders
        if "/" in name or "\\" in name or name in (".", ".."):
            raise ValueError(
                f"{each.names} lists {name!r}, which is not a file name; report it to the owner "
                "of the list."
            )
    missing = [name for name in names if not (sources / each.into / name).is_file()]
    limit = int(each.max_megabytes * 1e6)
    with (
        progress_bar("fetching files", len(missing), access.show_progress) as advance,
        ThreadPoolExecutor(8) as pool,
    ):
        tasks = [
            pool.submit(
                fetch_file,
                each.url.format(name=name),
                sources / each.into / name,
                access.patience,
                limit,
                reached=access.reached,
            )
            for name in missing
        ]
        try:
            for number, task in enumerate(tasks, start=1):
                task.result()
                advance(number)
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _working_folder(folder: Path, origin: dict[str, Any]) -> Iterator[Path]:
    """The hidden folder beside the data set's, with the files of an earlier try of the same origin.

    A lock in the folder admits one process at a time. The folder is removed at the end. After an
    error it stays for the next try if it has fetched files; otherwise it is removed, with the
    folders above it that were made for it.
    """
    work = part_of(folder, hidden=True)
    new = [parent for parent in work.parents if not parent.exists()]
    _adopt_earlier_version(folder, work)
    with ExitStack() as stack:
        if not _lock(work, stack):
            raise ValueError(f"another process is preparing {folder}; wait for it.")
        _clear_other_origin(work, origin)
        try:
            yield work
        except BaseException:
            _remove_if_empty(work, new)
            raise
        shutil.rmtree(work, ignore_errors=True)


def _adopt_earlier_version(folder: Path, work: Path) -> None:
    """Rename the unfinished try of an earlier version, .NAME.partial."""
    before = folder.with_name(f".{folder.name}.partial")
    if not before.is_dir():
        return
    if work.exists():
        shutil.rmtree(before)
        return
    before.rename(work)
    for file in list(work.rglob("*.partial")):
        file.rename(file.with_suffix(PART))


def _lock(work: Path, stack: ExitStack) -> bool:
    """Lock the folder, made if it is missing, until the stack closes; returns the success."""
    while True:
        work.mkdir(parents=True, exist_ok=True)
        # Not found: another process has just finished and removed the folder.
        with suppress(FileNotFoundError):
            return stack.enter_context(locked(work / _LOCK, timeout=_LOCK_TIMEOUT))


def _remove_if_empty(work: Path, new: list[Path]) -> None:
    """Remove a folder without fetched files, and those of the new folders that are then empty."""
    files = {path.name for path in work.rglob("*") if path.is_file()}
    if files - {_NOTE, _LOCK}:
        return
    shutil.rmtree(work)
    for parent in new:
        with suppress(OSError):  # another process has put something there
            parent.rmdir()


def _clear_other_origin(work: Path, origin: dict[str, Any]) -> None:
    """Empty the folder unless its files are of this origin."""
    note = work / _NOTE
    text = json.dumps(origin, sort_keys=True)
    if note.is_file() and note.read_text(encoding="utf-8") == text:
        return
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()
    write_text(note, text)
