"""Files out of archives that strangers made: only regular ones, only where they belong, and not too
much.
"""

from __future__ import annotations

import fnmatch
import functools
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

MAX_FILES = 1_000_000


def unpack(
    archive: Path,
    target: Path,
    files: Sequence[str],
    max_bytes: int,
    *,
    strip: int = 0,
    flat: bool = False,
) -> int:
    """Write the wanted files of an archive below `target`; returns how many.

    archive: .zip, .tar, or a compressed .tar. files: patterns of names (* crosses folders). strip:
    leading folders of every name that are left out, such as the one that a commit's archive has
    around all of it. flat: leave out all.
    max_bytes: of all files together.

    Raises ValueError, naming archive and member, for what is no archive or cut short, for a wanted
    member that is a link or would land outside of `target`, for two that `flat` would make one, for
    a pattern that no file fits, and when there is too much.
    """
    written = 0
    total = 0
    unused = set(files)
    flattened: dict[
        Path, str
    ] = {}  # of this call: an earlier try may have written its own
    target = target.resolve()
    try:
        for name, is_regular, open_member in _members(archive):
            path = PurePosixPath(*PurePosixPath(name).parts[strip:])
            fitting = {
                pattern for pattern in files if fnmatch.fnmatchcase(str(path), pattern)
            }
            if not fitting:
                continue
            unused -= fitting
            if not is_regular:
                raise ValueError(
                    f"{archive.name} holds {name!r}, a link or device; it is not "
                    "unpacked, tell its owner."
                )
            place = (target / (path.name if flat else path)).resolve()
            if not place.is_relative_to(target) or "\\" in name:
                raise ValueError(
                    f"{archive.name} holds {name!r}, which would land elsewhere; tell its owner."
                )
            if flat and place in flattened:
                raise ValueError(
                    f"{archive.name} holds {flattened[place]!r} and {name!r}, which would be one "
                    "file without their folders; its layout has changed."
                )
            if flat:
                flattened[place] = name
            place.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as source, place.open("wb") as file:
                while block := source.read(1 << 20):
                    total += len(block)
                    if total > max_bytes:
                        raise ValueError(
                            f"{archive.name} unpacked is over {max_bytes:,} bytes; is it "
                            "the right file?"
                        )
                    file.write(block)
            written += 1
            if written > MAX_FILES:
                raise ValueError(
                    f"{archive.name} holds over {MAX_FILES:,} files; is it the right one?"
                )
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
    ) as error:
        if (
            isinstance(error, OSError) and error.errno is not None
        ):  # of this side's disk
            raise
        raise ValueError(
            f"{archive.name} cannot be unpacked ({error}); fetch it again."
        ) from None
    if unused:
        raise ValueError(
            f"{archive.name} has no file like {sorted(unused)[0]!r}; its layout has changed."
        )
    return written


def _members(archive: Path) -> Iterator[tuple[str, bool, Callable[[], IO[bytes]]]]:
    """Name, whether it is a regular file, and how it is opened, of all but the folders."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                kind = (
                    info.external_attr >> 28
                )  # of the Unix mode; 0 where another system made it
                if not info.is_dir():
                    yield (
                        info.filename,
                        kind in (0, 8),
                        functools.partial(packed.open, info),
                    )
        return
    with tarfile.open(
        archive, "r|*"
    ) as tar:  # as a stream: what is too much is seen before it is read
        for member in tar:
            if not member.isdir():
                yield (
                    member.name,
                    member.isreg(),
                    functools.partial(_opened, tar, member),
                )


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None
    return file
