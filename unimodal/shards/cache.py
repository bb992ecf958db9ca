"""Whole shards on this machine's disk, shared by all its processes, the least recently used ones
leaving first.

A shard comes under a temporary name, is looked at for its size and is renamed; a lock on a file
keeps two processes from fetching it twice. A process that is killed leaves a temporary file, which
the next to need room removes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_PART = ".part"


class ShardCache:
    """A folder of shards of at most `limit` bytes. It holds no state: processes and threads may
    each have their own.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def path_of(self, name: str, version: str) -> Path:
        """Where a version of a shard lies once it is here."""
        key = hashlib.blake2b(f"{name}\n{version}".encode(), digest_size=16).hexdigest()
        return self.folder / key[:2] / f"{key}.tar"

    def fetch(
        self,
        path: Path,
        size: int | None,
        write: Callable[[BinaryIO], int],
        wait: bool = True,
        look: Callable[[BinaryIO], None] | None = None,
    ) -> bool:
        """Have a shard at `path`, by write(file) -> bytes written, if it is not there.

        size: bytes that it must have; None where that is not known. wait: for another process that
        fetches it now; if not, returns False. look: called with the whole file if it was written
        now, before others can remove it to make room. Raises ValueError if it is larger than the
        cache, OSError if it comes in another size.
        """
        if size is not None and size > self.limit:
            raise ValueError(
                f"a shard of {size:,} bytes does not fit the cache {self.folder} of "
                f"{self.limit:,}; raise storage.cache_gib, or set it to 0 to do without a disk."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(_lock_of(path), wait) as held:
            if not held:
                return False
            if path.exists():
                return True
            self._make_room(size or 0)
            part = path.with_suffix(_PART)
            try:
                with part.open("w+b") as file:
                    written = write(file)
                    if size is not None and written != size:
                        raise OSError(
                            f"{written:,} bytes came where {size:,} were announced"
                        )
                    if look is not None:
                        file.seek(0)
                        look(file)
                part.replace(path)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise OSError(
                    error.errno,
                    f"the disk of the cache {self.folder} is full; lower storage.cache_gib, or "
                    "move it with storage.cache.",
                ) from error
            finally:
                part.unlink(missing_ok=True)
            self._make_room(0)  # others may have fetched at the same time
        return True

    def touch(self, path: Path) -> None:
        """Note that a shard was used now."""
        with suppress(OSError):  # it has just left
            os.utime(path)

    def _make_room(self, size: int) -> None:
        """Remove the shards that were not used for longest until `size` more bytes fit."""
        with _locked(self.folder / "lock", True):
            found: list[tuple[float, int, Path]] = []
            for path in self.folder.glob("??/*"):
                if path.suffix in (".tar", _PART):
                    with suppress(FileNotFoundError):  # removed by its owner just now
                        status = path.stat()
                        found.append((status.st_mtime, status.st_size, path))
            room = self.limit - size - sum(entry[1] for entry in found)
            for _, held, path in sorted(found):
                if room >= 0:
                    break
                if path.suffix == _PART and not _is_orphan(path):
                    continue
                # A reader that has it open goes on reading; the index stays, it is small and saves
                # a whole fetch.
                path.unlink(missing_ok=True)
                with _locked(_lock_of(path), False) as is_free:
                    if is_free:
                        _lock_of(path).unlink(missing_ok=True)
                room += held


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def _is_orphan(part: Path) -> bool:
    """Whether whoever was writing a temporary file is gone."""
    with _locked(_lock_of(part), False) as held:
        return held


@contextmanager
def _locked(file: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock that ends with the process; yields whether it is held."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            is_held = (
                os.fstat(descriptor).st_nlink > 0
            )  # else it was removed meanwhile: others lock another file
        except BlockingIOError:
            is_held = False
        try:
            if is_held or not wait:
                yield is_held
                return
        finally:
            os.close(descriptor)
