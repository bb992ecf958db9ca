"""Safe writes: aside, forced to the disk, renamed; checksums of files; locks between processes.

A file or folder is written under a temporary name beside its own, NAME.part, and renamed once all
of it is on the disk. A process that is killed leaves the old content or the new, and perhaps a
.part, which the next writer removes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

PART = ".part"  # ends the name of what is not finished
OLD = ".old"  # ends the name of a folder while another takes its place

_BLOCK = 4 << 20  # bytes that a checksum reads at a time
_SYNC_THREADS = 8
_POLL = 0.02  # seconds between two attempts to get a lock


def part_of(path: Path, *, hidden: bool = False, unique: bool = False) -> Path:
    """Return the temporary name of a file or folder, in the same folder.

    hidden: .NAME.part, where other programs list the folder.
    unique: NAME.RANDOM.part, where several processes may write the same file at once.
    """
    prefix = "." if hidden else ""
    middle = f".{uuid.uuid4().hex}" if unique else ""
    return path.with_name(f"{prefix}{path.name}{middle}{PART}")


@contextmanager
def replacing_file(file: Path, *, unique: bool = False) -> Iterator[Path]:
    """Yield a path to write to, which replaces `file` if the block succeeds and is removed if not.

    unique: as for `part_of`.
    """
    part = part_of(file, unique=unique)
    try:
        yield part
        sync(part)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    sync(file.parent)


@contextmanager
def replacing_folder(folder: Path, *, hidden: bool = False) -> Iterator[Path]:
    """Yield an empty folder, which replaces `folder` if the block succeeds and is removed if not.

    hidden: as for `part_of`.
    """
    part = part_of(folder, hidden=hidden)
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    part.mkdir(parents=True)
    try:
        yield part
        replace_folder(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(file: Path, text: str) -> None:
    """Write UTF-8 text, in place."""
    file.write_text(text, encoding="utf-8")


def replace_text(file: Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with replacing_file(file) as part:
        write_text(part, text)


def replace_folder(part: Path, folder: Path) -> None:
    """Put a finished folder in its place, on the disk with everything in it.

    The folder that it replaces is removed last. Until then it has the name of `part`, with .old for
    .part.
    """
    sync_tree(part)
    old = part.with_name(part.name.removesuffix(PART) + OLD)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(part, folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder; if the process is killed, a .part is left, not half a folder."""
    part = part_of(folder)
    shutil.rmtree(part, ignore_errors=True)
    os.replace(folder, part)
    shutil.rmtree(part)


def append(file: Path, content: memoryview) -> None:
    """Append bytes to a file; they are on the disk when this returns."""
    # Unbuffered: closing a buffer after a failed write would write once more.
    with file.open("ab", buffering=0) as opened:
        while content:
            written = opened.write(content)
            content = content[written:]
        os.fsync(opened.fileno())


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force a folder and everything in it to the disk."""
    # In threads: the file system then forces many small files to the disk at once.
    with ThreadPoolExecutor(_SYNC_THREADS) as pool:
        list(pool.map(sync, folder.rglob("*")))  # list: raises what failed
    sync(folder)


class Checksum(NamedTuple):
    """Size and SHA-256 of a file."""

    size: int  # bytes
    sha256: str  # hexadecimal


def checksum_of(file: Path) -> Checksum:
    """Read a whole file; raises OSError if that fails."""
    digest = hashlib.sha256()
    size = 0
    with file.open("rb", buffering=0) as content:
        while block := content.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return Checksum(size, digest.hexdigest())


@contextmanager
def locked(file: Path, timeout: float | None = None) -> Iterator[bool]:
    """Hold the exclusive lock of a file, which is made if missing; yields whether it is held.

    timeout: seconds to wait for another holder; None waits until it is released.

    The lock excludes other processes and other threads, and the kernel releases it when its process
    ends, even by SIGKILL. It stops only those who lock the same file: reading and writing are free.
    On a network file system it works between machines only where the mount supports flock; where
    flock does not exist at all, filelock warns and marks the lock by a file instead.
    """
    lock = FileLock(
        file, timeout=-1 if timeout is None else timeout, poll_interval=_POLL
    )
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
