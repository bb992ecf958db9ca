"""Fetch a data set and lay it out below the data root: whole or not at all, and only once."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
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

RECORD = "prepared.json"  # where it came from; where it is, the folder is complete
_NOTE = "origin.json"  # in the folder of an unfinished try: what it is a try of
_LOCK = "lock"  # there too
_LOCK_TIMEOUT = (
    0.2  # seconds: long enough to see that a process has just removed the folder
)
_MARGIN = 3.0  # an archive may have grown to so many times what sets.yaml says, and no further


# Each takes the folder that the sources lie in and the data set's folder, which it fills.
CONVERTERS: dict[Converter, Callable[[Path, Path], None]] = {
    "coco_captions_text": convert_coco_captions_text,
    "emoji_noto": convert_emoji_noto,
    "grocery_store": convert_grocery_store,
    "luma_shop": convert_luma_shop,
    "retail_demo_text": convert_retail_demo_text,
}


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

    What is there already, from the same origin, is left as it is. A try that failed or was killed
    is taken up where it was: until all is well it lies in the hidden folder data_root/.NAME.part.

    overwrite: also replace what another origin, or another version of sets.yaml, has prepared.
    github: where archives of commits come from. table: other data sets than those of sets.yaml.

    Raises ValueError for an unknown name, a folder with something else in it, a full disk, and
    files that are not what they should be; OSError for an origin that cannot be reached.
    """
    table = data_sets() if table is None else table
    names = [
        name
        for name in names_of(wanted, table)
        if not _is_prepared(data_root / name, table[name], overwrite)
    ]
    _check_room(
        data_root,
        sum(table[name].megabytes for name in names),
        [table[name] for name in names],
    )
    reached: set[str] = set()  # a line that breaks between two sets is waited for, too
    for name in names:
        _prepare(
            name,
            table[name],
            data_root,
            github,
            patience or Patience(),
            show_progress,
            reached,
        )
    return [data_root / name for name in names_of(wanted, table)]


def _is_prepared(folder: Path, data_set: DataSet, overwrite: bool) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    record = folder / RECORD
    if not record.is_file():
        raise ValueError(
            f"{folder} holds something that was not prepared here (no {RECORD}); move it away."
        )
    origin = json.loads(record.read_text(encoding="utf-8"))["origin"]
    if origin == _origin(data_set):
        return True
    if not overwrite:
        raise ValueError(
            f"{folder} was prepared from another origin or in another way; pass "
            "--overwrite to replace it."
        )
    return False


def _origin(data_set: DataSet) -> dict[str, Any]:
    return data_set.model_dump(
        mode="json",
        include={"sources", "each", "convert", "shards"},
        exclude_defaults=True,
    )


def _check_room(data_root: Path, megabytes: float, missing: list[DataSet]) -> None:
    if not missing:
        return
    on_the_way = max(
        data_set.disk_megabytes - data_set.megabytes for data_set in missing
    )
    there = next(
        folder
        for folder in [data_root.absolute(), *data_root.absolute().parents]
        if folder.exists()
    )
    free = shutil.disk_usage(there).free / 1e6
    if megabytes + on_the_way > free:
        raise ValueError(
            f"{data_root} has {free:,.0f} MB free and {megabytes + on_the_way:,.0f} are "
            "needed; give another --data."
        )


def _prepare(
    name: str,
    data_set: DataSet,
    data_root: Path,
    github: str,
    patience: Patience,
    show_progress: bool | None,
    reached: set[str],
) -> None:
    folder = data_root / name
    with _working_folder(folder, _origin(data_set)) as work:
        if (folder / RECORD).is_file() and json.loads((folder / RECORD).read_text())[
            "origin"
        ] == _origin(data_set):
            return  # another process was faster
        sources = work / "sources"
        commits = [
            _fetch(
                name, source, work, data_set, github, patience, show_progress, reached
            )
            for source in data_set.sources
        ]
        for each in data_set.each:
            _fetch_each(each, sources, patience, show_progress, reached)
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
    name: str,
    source: Source,
    work: Path,
    data_set: DataSet,
    github: str,
    patience: Patience,
    show_progress: bool | None,
    reached: set[str],
) -> str:
    """Have the wanted files of a source in work/sources; returns the commit."""
    number = hashlib.blake2b(
        source.model_dump_json().encode(), digest_size=6
    ).hexdigest()
    done = work / f"{number}.done"
    target = work / "sources" / source.into
    if done.is_file():
        return done.read_text(encoding="utf-8")
    target.mkdir(parents=True, exist_ok=True)
    if source.hub:
        commit = fetch_from_hub(
            source.hub, source.revision, source.files, target, patience, reached
        )
        shutil.rmtree(
            target / ".cache", ignore_errors=True
        )  # the hub's notes of what was fetched
        there = [
            path.relative_to(target).as_posix()
            for path in target.rglob("*")
            if path.is_file()
        ]
        for pattern in source.files:
            if not fnmatch.filter(there, pattern):
                raise ValueError(
                    f"{source.hub} ({commit[:7]}) has no file like {pattern!r}; its "
                    "layout has changed."
                )
    else:
        commit = source.revision
        limit = int(_MARGIN * data_set.disk_megabytes * 1e6)
        url = source.url or f"{github}/{source.github}/tar.gz/{source.revision}"
        archive = work / f"{number}.archive"
        if not archive.is_file():
            with progress_bar(
                f"fetching {name}", int(data_set.megabytes * 1e6), show_progress
            ) as advance:
                fetch_file(url, archive, patience, limit, advance, reached)
        try:
            unpack(
                archive,
                target,
                source.files,
                limit,
                strip=1 if source.github else 0,
                flat=source.flat,
            )
        except ValueError as error:
            raise ValueError(f"{source.name}: {error}") from None
        finally:
            archive.unlink()  # a broken one is asked for again next time
    sync_tree(target)
    replace_text(done, commit)
    return commit


def _fetch_each(
    each: Each,
    sources: Path,
    patience: Patience,
    show_progress: bool | None,
    reached: set[str],
) -> None:
    """Download single files, eight at once; those that are there are not asked for again."""
    names = fnmatch.filter(
        (sources / each.names).read_text(encoding="utf-8").split(), each.like
    )
    for (
        name
    ) in names:  # of a list that strangers made, and a * of the pattern crosses folders
        if "/" in name or "\\" in name or name in (".", ".."):
            raise ValueError(
                f"{each.names} lists {name!r}, which is not the name of a file; tell the "
                "list's owner."
            )
    missing = [name for name in names if not (sources / each.into / name).is_file()]
    limit = int(each.max_megabytes * 1e6)
    with (
        progress_bar("fetching files", len(missing), show_progress) as advance,
        ThreadPoolExecutor(8) as pool,
    ):
        tasks = [
            pool.submit(
                fetch_file,
                each.url.format(name=name),
                sources / each.into / name,
                patience,
                limit,
                reached=reached,
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
    """The hidden folder beside the data set's, with what an earlier try from the same origin left
    in it.

    One process at a time has it, by a lock in the folder. When all is well it is removed. After an
    error it stays for the next try if anything was fetched; else it goes, with the folders above it
    that were made for it.
    """
    work = part_of(folder, hidden=True)
    new = [parent for parent in work.parents if not parent.exists()]
    _adopt_earlier_version(folder, work)
    with ExitStack() as stack:
        if not _lock(work, stack):
            raise ValueError(
                f"{folder} is being prepared by another process; wait for it."
            )
        _forget_another_origin(work, origin)
        try:
            yield work
        except BaseException:
            _leave_nothing_empty(work, new)
            raise
        shutil.rmtree(work, ignore_errors=True)


def _adopt_earlier_version(folder: Path, work: Path) -> None:
    """Take over an unfinished try of an earlier version, which called it .NAME.partial."""
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
    """Lock the folder, made where it is missing, until the stack closes; returns whether it is."""
    while True:
        work.mkdir(parents=True, exist_ok=True)
        # Not found: another process has just finished and removed the folder.
        with suppress(FileNotFoundError):
            return stack.enter_context(locked(work / _LOCK, timeout=_LOCK_TIMEOUT))


def _leave_nothing_empty(work: Path, new: list[Path]) -> None:
    if any(
        path.is_file() and path.name not in (_NOTE, _LOCK) for path in work.rglob("*")
    ):
        return
    shutil.rmtree(work)
    for parent in new:
        with suppress(OSError):  # another process has put something there
            parent.rmdir()


def _forget_another_origin(work: Path, origin: dict[str, Any]) -> None:
    note = work / _NOTE
    text = json.dumps(origin, sort_keys=True)
    if not note.is_file() or note.read_text(encoding="utf-8") != text:
        for path in work.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != _LOCK:
                path.unlink()
        write_text(note, text)
