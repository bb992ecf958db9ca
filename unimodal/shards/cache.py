"""A cache of whole shards on disk, shared by all processes; the least recently used leave first.

A shard is written under a temporary name, its size is checked, and it is renamed; a file lock keeps
two processes from fetching it twice. A process that is killed leaves a temporary file, which is
removed when room is needed.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ..files import PART, locked, replacing_file


class ShardCache:
    """A folder of shards of at most `limit` bytes.

    It has no state in memory: processes and threads may each have their own.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def path_of(self, name: str, version: str) -> Path:
        """Where a version of a shard lies once it is fetched."""
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
        """Write a shard to `path` unless it is there -> whether it is there now.

        size: bytes that it must have; None where that is not known.
        write: gets the file, and returns the number of bytes that it wrote.
        wait: for another process that is fetching it; otherwise return False.
        look: called with the whole file if it was written now, before others can remove it.

        Raises ValueError if it is larger than the cache, OSError if it has another size.
        """
        if size is not None and size > self.limit:
            raise ValueError(
                f"a shard of {size:,} bytes does not fit the cache {self.folder} of "
                f"{self.limit:,}; raise storage.cache_gib, or set it to 0 to use no disk."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(_lock_of(path), None if wait else 0) as held:
            if not held:
                return False
            if path.exists():
                return True
            self._make_room(size or 0)
            try:
                with replacing_file(path) as part, part.open("w+b") as file:
                    written = write(file)
                    if size is not None and written != size:
                        raise OSError(
                            f"{written:,} bytes came where {size:,} were announced"
                        )
                    if look is not None:
                        file.seek(0)
                        look(file)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise OSError(
                    error.errno,
                    f"the disk of the cache {self.folder} is full; lower storage.cache_gib, or "
                    "move it with storage.cache.",
                ) from error
            self._make_room(0)  # others may have fetched at the same time
        return True

    def touch(self, path: Path) -> None:
        """Note that a shard was used now."""
        with suppress(OSError):  # it was removed just now
            os.utime(path)

    def _make_room(self, size: int) -> None:
        """Remove the shards that were not used for longest until `size` more bytes fit."""
        with locked(self.folder / "lock"):
            found: list[tuple[float, int, Path]] = []
            for path in self.folder.glob("??/*"):
                if path.suffix in (".tar", PART):
                    with suppress(FileNotFoundError):  # removed by its owner just now
                        status = path.stat()
                        found.append((status.st_mtime, status.st_size, path))
            room = self.limit - size - sum(entry[1] for entry in found)
            for _, held, path in sorted(found):
                if room >= 0:
                    break
                if path.suffix == PART and not _is_orphan(path):
                    continue
                # A reader that has it open can still read it. The index stays: it is small, and
                # saves a whole fetch.
                path.unlink(missing_ok=True)
                with locked(_lock_of(path), 0) as is_free:
                    if is_free:
                        _lock_of(path).unlink(missing_ok=True)
                room += held


def _lock_of(path: Path) -> Path:
    """The lock of a shard or of its temporary file (KEY.tar.part, earlier KEY.part)."""
    key = path.name.partition(".")[0]
    return path.with_name(f"{key}.lock")


def _is_orphan(part: Path) -> bool:
    """Whether the process that wrote a temporary file is gone."""
    with locked(_lock_of(part), 0) as held:
        return held
