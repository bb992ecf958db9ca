"""Any sample of any shard in one read, and what its parts mean."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..progress import progress_bar
from .index import ShardIndex, find_shards, load_index, sidecar

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")

# Enough for 64 streams that each read across a few shards; at most a quarter of the usual limit of 1,024 open files.
_MAX_OPEN = 256


class Sample(NamedTuple):
    """One sample as it lies in the tar: extension -> bytes."""

    key: str
    parts: dict[str, bytes]


class TextPair(NamedTuple):
    """Two texts that belong together, or, with a score, as closely as it says."""

    query: str
    document: str
    negatives: tuple[str, ...] = ()
    score: float | None = None
    teacher: tuple[float, ...] = ()  # another model's similarities of the query with the document and each negative
    label: str = ""  # the class that the query is of


def open_shards(pattern: str | Path, show_progress: bool | None = False) -> ShardSet:
    """The shards of a file, folder, glob or brace pattern, indexed (sidecars are written where they are missing)."""
    return ShardSet(find_shards(pattern), show_progress)


class ShardSet:
    """Shards opened for reading at random.

    It can be pickled and forked: indexes and file descriptors belong to the process that reads, and are opened there
    at the first read. Threads may share it.
    """

    def __init__(self, paths: Sequence[Path], show_progress: bool | None = False) -> None:
        self.paths = tuple(path.absolute() for path in paths)
        indexes = []
        with progress_bar("reading shard indexes", len(self.paths), show_progress) as advance:
            for path in self.paths:
                indexes.append(load_index(path))
                advance(len(indexes))
        self.num_samples = tuple(len(index) for index in indexes)
        self.truncated = {
            path: index.truncated for path, index in zip(self.paths, indexes, strict=True) if index.truncated
        }
        # In a read-only folder an index has no sidecar to be read from again: it travels with the set.
        self._unsaved = {n: index for n, index in enumerate(indexes) if not sidecar(self.paths[n]).is_file()}
        self._digests = tuple(index.digest for index in indexes)
        self._open: dict[int, _OpenShard] = {}

    def __len__(self) -> int:
        return sum(self.num_samples)

    def fingerprint(self) -> str:
        """Of names, counts and headers of the shards: a run that resumes on other data would repeat another order."""
        names = [path.name for path in self.paths]
        return hashlib.blake2b(repr((names, self.num_samples, self._digests)).encode(), digest_size=8).hexdigest()

    def key(self, shard: int, sample: int) -> str:
        """A sample's key without reading it."""
        return self._opened(shard).index.key(sample)

    def extensions(self, shard: int, sample: int) -> tuple[str, ...]:
        """A sample's extensions without reading it."""
        return tuple(self._opened(shard).index.parts(sample))

    def read(self, shard: int, sample: int) -> Sample:
        """One sample, by one read of the bytes from its first part to its last.

        Raises OSError naming the shard when the bytes are not there: that is the storage's fault, not the sample's.
        """
        opened = self._opened(shard)
        parts = opened.index.parts(sample)
        start = min(offset for offset, _ in parts.values())
        stop = max(offset + size for offset, size in parts.values())
        content = _read_exactly(opened.descriptor, start, stop - start, self.paths[shard])
        return Sample(
            opened.index.key(sample),
            {name: content[offset - start : offset - start + size] for name, (offset, size) in parts.items()},
        )

    def _opened(self, shard: int) -> _OpenShard:
        opened = self._open.get(shard)
        if opened is None:
            opened = _OpenShard(self.paths[shard], self._unsaved.get(shard) or load_index(self.paths[shard]))
            if opened.index.digest != self._digests[shard]:
                raise OSError(f"shard {self.paths[shard]} was written again since it was opened; start anew.")
            if len(self._open) >= _MAX_OPEN:
                self._open.clear()  # dropped, not closed: another thread may be reading one
            self._open[shard] = opened
        return opened

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}


class _OpenShard:
    """A descriptor and the index, closed when the last reader lets go."""

    def __init__(self, path: Path, index: ShardIndex) -> None:
        self.index = index
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


def _read_exactly(descriptor: int, offset: int, size: int, path: Path) -> bytes:
    content = os.pread(descriptor, size, offset)
    while len(content) < size:  # a read may stop at a signal or at 2 GiB
        more = os.pread(descriptor, size - len(content), offset + len(content))
        if not more:
            raise OSError(
                f"shard {path} ends {size - len(content):,} bytes short of its index; it was cut or replaced."
            )
        content += more
    return content


def captions_of(sample: Sample) -> list[str]:
    """The captions: the list `captions` of its .json, else its .txt, else `caption` of its .json (img2dataset).

    Raises ValueError, as do the functions below, naming the key and its parts.
    """
    record = _json_of(sample) if "json" in sample.parts else {}
    captions = record.get("captions")
    if captions is None:
        captions = [_decode(sample, "txt") if "txt" in sample.parts else record.get("caption")]
    if not isinstance(captions, list) or not all(one is None or isinstance(one, str) for one in captions):
        raise _unusable(sample, "has captions that are no list of texts")
    captions = [one.strip() for one in captions if one and one.strip()]
    if not captions:
        raise _unusable(sample, "has no caption")
    return captions


def image_bytes_of(sample: Sample) -> bytes:
    """The picture as it was packed."""
    for extension in IMAGE_EXTENSIONS:
        if extension in sample.parts:
            return sample.parts[extension]
    raise _unusable(sample, "has no picture")


def text_pair_of(sample: Sample) -> TextPair:
    """The pair in its .json: `query`, `document`, and perhaps `negatives`, `score`, `teacher` and `label`."""
    if "json" not in sample.parts:
        raise _unusable(sample, "has no text pair")
    record = _json_of(sample)
    for field in ("query", "document"):
        if not isinstance(record.get(field), str) or not record[field].strip():
            raise _unusable(sample, f"has no {field}")
    negatives, score, teacher = record.get("negatives") or [], record.get("score"), record.get("teacher") or []
    if not isinstance(negatives, list) or not all(isinstance(one, str) and one.strip() for one in negatives):
        raise _unusable(sample, "has negatives that are no list of texts")
    if score is not None and not _is_number(score):
        raise _unusable(sample, f"has a score that is no finite number ({score!r})")
    if not isinstance(teacher, list) or not all(map(_is_number, teacher)):
        raise _unusable(sample, "has a teacher that is no list of finite numbers")
    if teacher and len(teacher) != 1 + len(negatives):
        raise _unusable(sample, f"has {len(teacher)} teacher's numbers for a document and {len(negatives)} negatives")
    return TextPair(
        record["query"], record["document"], tuple(negatives), None if score is None else float(score),
        tuple(map(float, teacher)), _label(record),
    )  # fmt: skip


def label_of(sample: Sample) -> str:
    """The class that a picture's .json says it is of; empty where it says nothing."""
    return _label(_json_of(sample)) if "json" in sample.parts else ""


def _label(record: dict[str, Any]) -> str:
    return "" if record.get("label") is None else str(record["label"])


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _json_of(sample: Sample) -> dict[str, Any]:
    try:
        record = json.loads(_decode(sample, "json"))
    except json.JSONDecodeError as error:
        raise _unusable(sample, f"has a .json that is not JSON ({error})") from None
    if not isinstance(record, dict):
        raise _unusable(sample, "has a .json that is no object")
    return record


def _decode(sample: Sample, extension: str) -> str:
    try:
        return sample.parts[extension].decode()
    except UnicodeDecodeError as error:
        raise _unusable(
            sample, f"has a .{extension} that is not UTF-8 ({error.reason} at byte {error.start})"
        ) from None


def _unusable(sample: Sample, what: str) -> ValueError:
    parts = ", ".join(f"{name} ({len(content):,} bytes)" for name, content in sample.parts.items())
    return ValueError(f"sample {sample.key!r} {what}; its parts are {parts}.")
