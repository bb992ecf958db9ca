"""The index beside each tar: where each sample lies, so that any sample is one `pread`.

Samples follow webdataset's rules: the name of a member is cut at the first dot of its base name
into key and extension (lower-cased), and consecutive members with one key are one sample.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..files import replacing_file

SUFFIX = ".index.npz"
FORMAT_VERSION = 2

_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
_METADATA = re.compile(r"__[^/]*__($|/)")
_BLOCK = 512  # bytes; a tar is made of blocks; a member's header is the block before its bytes


@dataclass(frozen=True)
class ShardIndex:
    """Samples of one tar, 35 to 65 bytes each; part j of sample i lies at part_starts[i] + j."""

    tar_size: int
    truncated: str  # why the tar is not whole, or ""; only whole samples are listed
    digest: str  # of size, a few headers and contents: it changes when the tar is written again
    headers: str  # of size and headers alone
    extensions: tuple[str, ...]
    keys: NDArray[np.uint8]  # all keys, UTF-8, end to end
    key_starts: NDArray[np.uint32]  # (N + 1,)
    part_starts: NDArray[np.uint32]  # (N + 1,)
    part_extensions: NDArray[np.uint16]  # (parts,) position in `extensions`
    part_offsets: NDArray[np.int64]  # (parts,)
    part_sizes: NDArray[np.int64]  # (parts,)
    # (N,) of each sample's bytes, or (0,) where nobody has read them all
    checksums: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.part_starts) - 1

    @property
    def contents(self) -> str:
        """A hash of all bytes of all samples, or "" where nobody has read them all."""
        if not len(self.checksums):
            return ""
        content = self.checksums.tobytes()
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def key(self, sample: int) -> str:
        """The sample's key, unique within a well-made shard."""
        return self.locate(sample)[0]

    def locate(self, sample: int) -> tuple[str, int, int, list[tuple[str, int, int]]]:
        """Key, first byte and end of a sample, and (extension, offset, size) of each part.

        All at once, because every microsecond counts here.
        """
        keys, key_starts, part_starts, extensions, offsets, sizes, _ = self._views
        names = self.extensions
        first = part_starts[sample]
        last = part_starts[sample + 1]
        key = bytes(keys[key_starts[sample] : key_starts[sample + 1]]).decode(
            errors="replace"
        )
        parts = [
            (names[extensions[part]], offsets[part], sizes[part])
            for part in range(first, last)
        ]
        return key, offsets[first], offsets[last - 1] + sizes[last - 1], parts

    def parts(self, sample: int) -> dict[str, tuple[int, int]]:
        """Extension -> (offset, size) of the sample's parts, in the order of the tar."""
        return {name: (offset, size) for name, offset, size in self.locate(sample)[3]}

    def checksum(self, sample: int) -> int | None:
        """The checksum of the sample's bytes, if somebody has read them."""
        return self._views.checksums[sample] if self._views.checksums else None

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value for name, value in self.__dict__.items() if name != "_views"
        }

    @cached_property
    def _views(self) -> _Views:
        return _Views(
            self.keys.data,
            self.key_starts.data,
            self.part_starts.data,
            self.part_extensions.data,
            self.part_offsets.data,
            self.part_sizes.data,
            self.checksums.data,
        )


class _Views(NamedTuple):
    """The arrays of an index as memoryviews, whose elements are read three times as fast."""

    keys: memoryview[int]
    key_starts: memoryview[int]
    part_starts: memoryview[int]
    part_extensions: memoryview[int]
    part_offsets: memoryview[int]
    part_sizes: memoryview[int]
    checksums: memoryview[int]


def load_index(shard: Path, *, checksums: bool = False) -> ShardIndex:
    """The index of a shard: its sidecar where that fits the tar, else built and written beside it.

    checksums: with those of the samples, for which all of the tar is read once.
    """
    if not shard.is_file():
        raise ValueError(f"shard {str(shard)!r} does not exist; check the path.")
    index = read_sidecar(sidecar(shard))
    with shard.open("rb") as file:
        lacks = index is not None and checksums and not len(index.checksums)
        if (
            index is None
            or lacks
            or not fits(index, shard.stat().st_size, reads_of(file))
        ):
            index = build_index(file, str(shard), checksums)
            with suppress(OSError):  # in a read-only folder the index lives in memory
                write_sidecar(sidecar(shard), index)
    return index


def fits(index: ShardIndex, size: int, read: Read) -> bool:
    """Whether an index is that of a tar of `size` bytes.

    If the index has checksums, contents that differ are a fault of their sample, not another tar.
    """
    if index.tar_size != size:
        return False
    digest, headers = _digests(read, size, index.part_offsets)
    return headers == index.headers if len(index.checksums) else digest == index.digest


def build_index(file: BinaryIO, shard: str, checksums: bool = False) -> ShardIndex:
    """Read a tar's headers once, and its contents too if checksums are wanted.

    A tar that was cut short gives its whole samples and the reason in `truncated`.

    file: the tar, open.
    shard: its name, for errors.

    Raises ValueError if it is not an uncompressed tar, or holds a name twice in a sample.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    members, truncated = _read_members(file, shard, size)
    samples = list(_samples(members, shard))
    if truncated:
        # The last sample has the cut in it, or may lack files after it.
        samples = samples[:-1]
    keys = [key.encode(errors="surrogateescape") for key, _ in samples]
    parts: list[_Part] = []
    sums: list[int] = []
    for _, sample_parts in samples:
        parts += sample_parts
        if checksums:
            sums.append(_read_checksum(file, sample_parts))
    names = sorted({part.extension for part in parts})
    extensions = {name: number for number, name in enumerate(names)}
    offsets = np.array([part.offset for part in parts], dtype=np.int64)
    digest, headers = _digests(reads_of(file), size, offsets)
    return ShardIndex(
        tar_size=size,
        truncated=truncated,
        digest=digest,
        headers=headers,
        extensions=tuple(extensions),
        keys=np.frombuffer(b"".join(keys), dtype=np.uint8),
        key_starts=np.cumsum([0, *map(len, keys)], dtype=np.uint32),
        part_starts=np.cumsum(
            [0, *(len(sample_parts) for _, sample_parts in samples)], dtype=np.uint32
        ),
        part_extensions=np.array(
            [extensions[part.extension] for part in parts], dtype=np.uint16
        ),
        part_offsets=offsets,
        part_sizes=np.array([part.size for part in parts], dtype=np.int64),
        checksums=np.array(sums, dtype=np.uint64),
    )


def _read_checksum(file: BinaryIO, parts: list[_Part]) -> int:
    start = parts[0].offset
    stop = parts[-1].offset + parts[-1].size
    file.seek(start)
    return checksum_of(file.read(stop - start))


def checksum_of(content: bytes) -> int:
    """The checksum of a sample's bytes from its first part to its last.

    XXH3 with 64 bits, against accidents: half a microsecond.
    """
    return xxhash.xxh3_64_intdigest(content)


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


class _Part(NamedTuple):
    extension: str
    offset: int
    size: int


def _read_members(file: BinaryIO, shard: str, size: int) -> tuple[list[_Member], str]:
    """The regular files of a tar, and why it is cut short, or "".

    The last file of a tar that is cut short may not be whole.
    """
    members: list[_Member] = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isreg():
                    members.append(
                        _Member(member.name, member.offset_data, member.size)
                    )
                if member.offset_data + member.size > size:
                    return members, f"cut inside {member.name}, {size:,} bytes in"
            end = tar.offset
    except tarfile.ReadError as error:
        if members:
            return members, f"cut after {members[-1].name} ({error})"
        raise ValueError(
            f"shard {shard} is not a tar file ({error}); write it again."
        ) from None
    file.seek(end)
    # tarfile stops silently at a cut between two members and at a damaged header.
    if file.read(_BLOCK) != bytes(_BLOCK):
        last = members[-1].name if members else "the start"
        return members, f"no end mark after {last}, {end:,} bytes in"
    return members, ""


def _samples(
    members: Iterable[_Member], shard: str
) -> Iterator[tuple[str, list[_Part]]]:
    key = ""
    parts = list[_Part]()
    for name, offset, size in members:
        match = _NAME.fullmatch(name)
        if match is None or _METADATA.match(name):
            continue
        if match[1] != key and parts:
            yield key, parts
            parts = []
        key = match[1]
        extension = match[2].lower()
        if any(part.extension == extension for part in parts):
            raise ValueError(
                f"shard {shard} holds {name!r} twice in one sample; webdataset ends a key at the "
                "first dot of a file's name: pack it again under distinct keys without dots."
            )
        parts.append(_Part(extension, offset, size))
    if parts:
        yield key, parts


# (start, stop) of some ranges -> the bytes of each
Read: TypeAlias = Callable[[list[tuple[int, int]]], list[bytes]]


def _digests(
    read: Read, tar_size: int, part_offsets: NDArray[np.int64]
) -> tuple[str, str]:
    """Digests of a tar: of size, headers and first bytes of parts, and of size and headers alone.

    Up to 16 parts count, with the first and the last.
    """
    chosen = part_offsets
    if len(chosen) > 16:
        chosen = chosen[np.linspace(0, len(chosen) - 1, 16).astype(np.int64)]
    digest = hashlib.blake2b(str(tar_size).encode(), digest_size=16)
    headers = digest.copy()
    for content in read(
        [(int(offset) - _BLOCK, int(offset) + _BLOCK) for offset in chosen]
    ):
        digest.update(content)
        headers.update(content[:_BLOCK])
    return digest.hexdigest(), headers.hexdigest()


def reads_of(file: BinaryIO) -> Read:
    """How `fits` reads an open file."""

    def read(ranges: list[tuple[int, int]]) -> list[bytes]:
        contents = []
        for start, stop in ranges:
            file.seek(start)
            contents.append(file.read(stop - start))
        return contents

    return read


def read_sidecar(source: Path | BinaryIO) -> ShardIndex | None:
    """An index as it was written; None where it is missing, damaged or of another version."""
    try:
        with np.load(source, allow_pickle=False) as stored:
            if int(stored["format_version"]) != FORMAT_VERSION:
                return None
            return ShardIndex(
                tar_size=int(stored["tar_size"]),
                truncated=str(stored["truncated"]),
                digest=str(stored["digest"]),
                headers=str(stored["headers"]),
                extensions=tuple(str(name) for name in stored["extensions"]),
                keys=stored["keys"],
                key_starts=stored["key_starts"],
                part_starts=stored["part_starts"],
                part_extensions=stored["part_extensions"],
                part_offsets=stored["part_offsets"],
                part_sizes=stored["part_sizes"],
                checksums=stored["checksums"],
            )
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
    ):
        return None


def write_sidecar(path: Path, index: ShardIndex) -> None:
    """Write an index, whole or not at all."""
    # unique: several processes may index a shard at once.
    with replacing_file(path, unique=True) as part, part.open("wb") as file:
        np.savez(file, format_version=FORMAT_VERSION, **asdict(index))


def sidecar(shard: Path) -> Path:
    """Where a shard's index is kept."""
    return shard.with_name(shard.name + SUFFIX)
