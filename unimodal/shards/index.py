"""The sidecar beside each tar: where every sample's bytes lie, so that any sample is one `pread` away.

webdataset's rules say what a sample is: a member's name is cut at the first dot of its base name into key and
extension (lower-cased), and consecutive members with one key are one sample.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SUFFIX = ".index.npz"
FORMAT_VERSION = 1

_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
_METADATA = re.compile(r"__[^/]*__($|/)")
_BLOCK = 512  # bytes; a tar is made of blocks; a member's header is the block before its bytes


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Samples of one tar, 35 to 55 bytes each; part j of sample i lies at part_starts[i] + j."""

    tar_size: int
    truncated: str  # why the tar is not whole, or ""; only whole samples are listed
    digest: str  # of a few headers: a tar that was written again has another
    extensions: tuple[str, ...]
    keys: NDArray[np.uint8]  # all keys, UTF-8, end to end
    key_starts: NDArray[np.uint32]  # (N + 1,)
    part_starts: NDArray[np.uint32]  # (N + 1,)
    part_extensions: NDArray[np.uint16]  # (parts,) position in `extensions`
    part_offsets: NDArray[np.int64]  # (parts,)
    part_sizes: NDArray[np.int64]  # (parts,)

    def __len__(self) -> int:
        return len(self.part_starts) - 1

    def key(self, sample: int) -> str:
        """The sample's key, unique within a well-made shard."""
        return self.keys[self.key_starts[sample] : self.key_starts[sample + 1]].tobytes().decode(errors="replace")

    def parts(self, sample: int) -> dict[str, tuple[int, int]]:
        """Extension -> (offset, size) of the sample's parts, in the order of the tar."""
        return {
            self.extensions[self.part_extensions[part]]: (int(self.part_offsets[part]), int(self.part_sizes[part]))
            for part in range(self.part_starts[sample], self.part_starts[sample + 1])
        }


def find_shards(pattern: str | Path) -> list[Path]:
    """The tars of a file name, a folder, a glob or a brace pattern (`train/{000000..000012}.tar`), sorted.

    Raises ValueError if a named file is missing, or if there is no shard at all.
    """
    text = str(pattern)
    if "://" in text or text.startswith("pipe:"):
        raise ValueError(f"shards {text!r} are not files; copy them to a disk first.")
    names = [text] if Path(text).exists() else _expand_braces(text)
    shards = {path for name in names for path in _shards_of(Path(name))}
    if not shards:
        raise ValueError(f"shards {text!r} name no .tar file; pack some with `unimodal shards pack`.")
    return sorted(shards)


def load_index(shard: Path) -> ShardIndex:
    """The index of a shard: its sidecar where that fits the tar, else built, and written beside it where possible."""
    index = _read_sidecar(shard)
    if index is None:
        index = build_index(shard)
        with suppress(OSError):  # in a read-only folder the index lives in memory
            _write_sidecar(shard, index)
    return index


def build_index(shard: Path) -> ShardIndex:
    """Read a tar's headers once, without its contents.

    Raises ValueError if the file is missing, no uncompressed tar, or holds one name twice in a sample. A tar that was
    cut short gives its whole samples and says so in `truncated`.
    """
    members, truncated = _read_members(shard)
    samples = list(_samples(members, shard))
    if truncated:
        samples = samples[:-1]  # the one with the cut in it; at a cut between files it may lack those to come
    extensions = {
        name: number for number, name in enumerate(sorted({part.extension for _, p in samples for part in p}))
    }
    keys = [key.encode(errors="surrogateescape") for key, _ in samples]
    parts = [part for _, sample_parts in samples for part in sample_parts]
    return ShardIndex(
        tar_size=shard.stat().st_size,
        truncated=truncated,
        digest=_digest(shard, [part.offset for part in parts]),
        extensions=tuple(extensions),
        keys=np.frombuffer(b"".join(keys), dtype=np.uint8),
        key_starts=np.cumsum([0, *map(len, keys)], dtype=np.uint32),
        part_starts=np.cumsum([0, *(len(sample_parts) for _, sample_parts in samples)], dtype=np.uint32),
        part_extensions=np.array([extensions[part.extension] for part in parts], dtype=np.uint16),
        part_offsets=np.array([part.offset for part in parts], dtype=np.int64),
        part_sizes=np.array([part.size for part in parts], dtype=np.int64),
    )


class _Member(NamedTuple):
    name: str
    offset: int
    size: int


class _Part(NamedTuple):
    extension: str
    offset: int
    size: int


def _read_members(shard: Path) -> tuple[list[_Member], str]:
    """The regular files of a tar, and why it is cut short, or ""; of a cut one the last file may not be whole."""
    if not shard.is_file():
        raise ValueError(f"shard {str(shard)!r} does not exist; check the path.")
    size = shard.stat().st_size
    members: list[_Member] = []
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isreg():
                    members.append(_Member(member.name, member.offset_data, member.size))
                if member.offset_data + member.size > size:
                    return members, f"cut inside {member.name}, {size:,} bytes in"
            end = tar.offset
    except tarfile.ReadError as error:
        if members:
            return members, f"cut after {members[-1].name} ({error})"
        if shard.name.endswith((".gz", ".tgz", ".bz2", ".xz", ".zst")):
            raise ValueError(f"shard {shard} is compressed and cannot be read at random; unpack it to .tar.") from None
        raise ValueError(f"shard {shard} is no tar file ({error}); write it again.") from None
    with shard.open("rb") as file:
        file.seek(end)
        # tarfile stops without a word at a cut between two members and at a damaged header.
        if file.read(_BLOCK) != bytes(_BLOCK):
            return members, f"no end mark after {members[-1].name if members else 'the start'}, {end:,} bytes in"
    return members, ""


def _samples(members: Iterable[_Member], shard: Path) -> Iterator[tuple[str, list[_Part]]]:
    key, parts = "", list[_Part]()
    for name, offset, size in members:
        match = _NAME.fullmatch(name)
        if match is None or _METADATA.match(name):
            continue
        if match[1] != key and parts:
            yield key, parts
            parts = []
        key, extension = match[1], match[2].lower()
        if any(part.extension == extension for part in parts):
            raise ValueError(f"shard {shard} holds {name!r} twice in one sample; pack it again under distinct keys.")
        parts.append(_Part(extension, offset, size))
    if parts:
        yield key, parts


def _digest(shard: Path, offsets: Iterable[int] | NDArray[np.int64]) -> str:
    """Of the headers of up to eight parts, first and last among them: names, sizes and times of writing."""
    chosen = np.asarray(offsets, dtype=np.int64)
    if len(chosen) > 8:
        chosen = chosen[np.linspace(0, len(chosen) - 1, 8).astype(np.int64)]
    digest = hashlib.blake2b(digest_size=16)
    with shard.open("rb", buffering=0) as file:
        for offset in chosen:
            file.seek(int(offset) - _BLOCK)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _read_sidecar(shard: Path) -> ShardIndex | None:
    try:
        with np.load(sidecar(shard), allow_pickle=False) as stored:
            if int(stored["format_version"]) != FORMAT_VERSION or int(stored["tar_size"]) != shard.stat().st_size:
                return None
            index = ShardIndex(
                tar_size=int(stored["tar_size"]),
                truncated=str(stored["truncated"]),
                digest=str(stored["digest"]),
                extensions=tuple(str(name) for name in stored["extensions"]),
                keys=stored["keys"],
                key_starts=stored["key_starts"],
                part_starts=stored["part_starts"],
                part_extensions=stored["part_extensions"],
                part_offsets=stored["part_offsets"],
                part_sizes=stored["part_sizes"],
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # none, or a damaged one
        return None
    return index if index.digest == _digest(shard, index.part_offsets) else None


def _write_sidecar(shard: Path, index: ShardIndex) -> None:
    path = sidecar(shard)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")  # several processes may index at once
    try:
        with partial.open("wb") as file:
            np.savez(file, format_version=FORMAT_VERSION, **asdict(index))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sidecar(shard: Path) -> Path:
    """Where a shard's index is kept."""
    return shard.with_name(shard.name + SUFFIX)


def _shards_of(path: Path) -> list[Path]:
    if path.is_dir():
        return list(path.glob("*.tar"))
    if path.is_file():
        return [path]
    if any(mark in str(path) for mark in "*?["):
        anchor = Path(path.anchor)
        return [found for found in anchor.glob(str(path.relative_to(anchor))) if found.is_file()]
    raise ValueError(f"shard {str(path)!r} does not exist; give a .tar file, a folder, a glob or a brace pattern.")


def _expand_braces(pattern: str) -> list[str]:
    """`{000..012}` counts, `{a,b}` lists, several multiply."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    words = match[1].split(",")
    if bounds := re.fullmatch(r"(\d+)\.\.(\d+)", match[1]):
        words = [str(n).zfill(len(bounds[1])) for n in range(int(bounds[1]), int(bounds[2]) + 1)]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [expanded for word in words for expanded in _expand_braces(before + word + after)]
