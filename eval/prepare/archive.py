"""Unpack archives that strangers made: only regular files, only into the target, within a limit."""

from __future__ import annotations

import fnmatch
import functools
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

MAX_FILES = 1_000_000
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError)


class _Member(NamedTuple):
    """A file in an archive."""

    name: str
    is_regular: bool
    open: Callable[[], IO[bytes]]


def unpack(
    archive: Path,
    target: Path,
    files: Sequence[str],
    max_bytes: int,
    *,
    strip: int = 0,
    flat: bool = False,
) -> int:
    """Write the matching files of an archive below `target`; returns their number.

    archive: .zip, .tar, or a compressed .tar.
    files: patterns of names (* also matches folders).
    max_bytes: of all files together.
    strip: number of leading folders to leave out of every name, such as the one of a commit.
    flat: leave out all folders.

    Raises ValueError, naming archive and member, for a broken archive, for a matching member that
    is a link or would land outside `target`, for two names that `flat` makes equal, for a pattern
    without a match, and for too many bytes or files.
    """
    num_written = 0
    unmatched = set(files)
    places: dict[Path, str] = {}  # place -> name in the archive, of this call
    size = 0
    target = target.resolve()
    try:
        for member in _members(archive):
            path = PurePosixPath(*PurePosixPath(member.name).parts[strip:])
            matching = _matching(path, files)
            if not matching:
                continue
            unmatched -= matching
            _check_member(archive, member)
            place = (target / (path.name if flat else path)).resolve()
            _check_place(archive, member, place, target)
            if flat and place in places:
                raise ValueError(
                    f"{archive.name} holds {places[place]!r} and {member.name!r}, which would be "
                    "one file without their folders; its layout has changed."
                )
            places[place] = member.name
            size += _write(archive, member, place, max_bytes - size, max_bytes)
            num_written += 1
            if num_written > MAX_FILES:
                raise ValueError(
                    f"{archive.name} holds over {MAX_FILES:,} files; is it the right one?"
                )
    except _BROKEN as error:
        # an error number is of this machine's disk
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(
            f"{archive.name} cannot be unpacked ({error}); fetch it again."
        ) from None
    if unmatched:
        raise ValueError(
            f"{archive.name} has no file that matches {sorted(unmatched)[0]!r}; its layout has "
            "changed."
        )
    return num_written


def _matching(path: PurePosixPath, patterns: Sequence[str]) -> set[str]:
    return {pattern for pattern in patterns if fnmatch.fnmatchcase(str(path), pattern)}


def _check_member(archive: Path, member: _Member) -> None:
    if not member.is_regular:
        raise ValueError(
            f"{archive.name} holds {member.name!r}, a link or device, which is not unpacked; "
            "report it to the archive's owner."
        )


def _check_place(archive: Path, member: _Member, place: Path, target: Path) -> None:
    if not place.is_relative_to(target) or "\\" in member.name:
        raise ValueError(
            f"{archive.name} holds {member.name!r}, which would land elsewhere; report it to the "
            "archive's owner."
        )


def _write(
    archive: Path, member: _Member, place: Path, room: int, max_bytes: int
) -> int:
    """Write a member of at most `room` bytes; returns its size."""
    size = 0
    place.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, place.open("wb") as file:
        while block := source.read(1 << 20):
            size += len(block)
            if size > room:
                raise ValueError(
                    f"{archive.name} unpacked is over {max_bytes:,} bytes; is it the right file?"
                )
            file.write(block)
    return size


def _members(archive: Path) -> Iterator[_Member]:
    """All members but the folders."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                # the kind of the Unix mode: 8 for a regular file, 0 from another system
                kind = info.external_attr >> 28
                if not info.is_dir():
                    opener = functools.partial(packed.open, info)
                    yield _Member(info.filename, kind in (0, 8), opener)
        return
    # as a stream, so that a file that is too large is noticed before it is read
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            if not member.isdir():
                opener = functools.partial(_open_member, tar, member)
                yield _Member(member.name, member.isreg(), opener)


def _open_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None
    return file
