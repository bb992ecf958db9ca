"""Vectors by key, in memory, or in a folder that survives a kill of the process.

A folder holds `vectors`, rows of D numbers one after another, and `index`, a record for each block
of rows: how many, their keys, and checksums of keys and rows. Rows are synced to the disk before
their record is written, so that a kill in between leaves rows without a key, which the next writer
cuts off, and never a key without its row. One process writes at a time; any number reads.

n keys, D embedding dimension.
"""

from __future__ import annotations

import os
import struct
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from unimodal.files import append, locked, sync
from unimodal.vectors import Vectors

Precision = Literal["float32", "float16"]
Key = bytes  # 16

KEY_BYTES = 16
# magic, keys, D, checksum of the record, checksum of the rows
_HEAD = struct.Struct("<4sIIQQ")
_MAGIC = b"UMV1"
_STOP_INTERVAL = 0.2  # seconds between checks for a stop while another process writes


class Stopped(Exception):  # noqa: N818  # not an error: somebody wanted it
    """Encoding was stopped on demand; what was encoded until then is kept."""


class Storage(Protocol):
    """A place for vectors: `Memory` or `VectorFile`."""

    def __contains__(self, key: Key) -> bool: ...

    def rows(self, keys: Sequence[Key]) -> Vectors:
        """(n, D) float32 of known keys."""
        ...

    def append(self, keys: Sequence[Key], vectors: Vectors) -> None:
        """Keep (n, D) vectors; only while `writing`."""
        ...

    def writing(self, should_stop: Callable[[], bool]) -> Any:
        """A context in which only this process writes, and knows what others have added."""
        ...

    def trim(self) -> None:
        """Forget vectors beyond the size limit."""
        ...


class Memory:
    """Vectors in memory, the most recently used ones; others are encoded again when needed."""

    def __init__(self, dtype: Precision, max_bytes: int) -> None:
        self._dtype = dtype
        self._max_bytes = max_bytes
        self._rows: dict[Key, npt.NDArray[Any]] = {}  # in the order of their last use

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def rows(self, keys: Sequence[Key]) -> Vectors:
        """(n, D) float32 of known keys."""
        for key in dict.fromkeys(keys):
            self._rows[key] = self._rows.pop(key)
        rows = np.stack([self._rows[key] for key in keys])
        return rows.astype(np.float32, copy=False)

    def append(self, keys: Sequence[Key], vectors: Vectors) -> None:
        """Keep (n, D) vectors."""
        for key, vector in zip(keys, vectors, strict=True):
            # a copy: a view would keep its whole block
            self._rows[key] = vector.astype(self._dtype)

    @contextmanager
    def writing(self, should_stop: Callable[[], bool]) -> Iterator[None]:
        """Nothing to lock: no other process sees it."""
        yield

    def trim(self) -> None:
        """Forget the least recently used ones until the rest fits."""
        size = sum(vector.nbytes for vector in self._rows.values())
        for key in list(self._rows):
            if size <= self._max_bytes:
                return
            size -= self._rows.pop(key).nbytes


class VectorFile:
    """Vectors in a folder.

    Raises ValueError if its files are broken, or if vectors of another length are added.
    """

    def __init__(self, folder: Path, dtype: Precision) -> None:
        self.folder = folder
        self._dtype = np.dtype(dtype)
        self._index = folder / "index"
        self._vectors = folder / "vectors"
        self._rows: dict[Key, int] = {}
        self._starts: list[int] = []  # first row of each block
        self._sums: list[int] = []  # checksum of each block's rows
        self._sound: set[int] = set()  # blocks whose rows fit their checksum
        self._dim = 0
        self._num_rows = 0
        self._end = 0  # bytes of the index that were read
        self._map: npt.NDArray[Any] | None = None
        self._refresh()

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def rows(self, keys: Sequence[Key]) -> Vectors:
        """(n, D) float32 of known keys."""
        if self._map is None or len(self._map) < self._num_rows:
            self._map = np.memmap(
                self._vectors, self._dtype, "r", shape=(self._num_rows, self._dim)
            )
        numbers = np.array([self._rows[key] for key in keys])
        blocks = {
            bisect_right(self._starts, number) - 1
            for number in np.unique(numbers).tolist()
        }
        for block in blocks - self._sound:
            self._check(block)
        return np.asarray(self._map[numbers], dtype=np.float32)

    def append(self, keys: Sequence[Key], vectors: Vectors) -> None:
        """Keep (n, D) vectors; they are on the disk when this returns.

        Raises OSError, and keeps none of them, if the disk is full.
        """
        if self._dim and vectors.shape[1] != self._dim:
            raise ValueError(
                f"{self.folder} keeps vectors of {self._dim} dimensions and these have "
                f"{vectors.shape[1]}, under the same fingerprint; name another folder."
            )
        rows = np.ascontiguousarray(vectors, dtype=self._dtype)
        record = _record(keys, rows)
        try:
            append(self._vectors, rows.reshape(-1).view(np.uint8).data)
            append(self._index, memoryview(record))
        except OSError as error:
            with suppress(OSError):
                self._cut_tails()
            raise OSError(
                f"{len(keys):,} vectors could not be written to {self.folder} ({error}); free "
                "some space and start again: what is there already stays."
            ) from error
        self._refresh()

    @contextmanager
    def writing(self, should_stop: Callable[[], bool]) -> Iterator[None]:
        """Hold the lock of the folder, and know what earlier writers have added.

        Raises Stopped if `should_stop` is true while waiting.
        """
        with ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                is_held = stack.enter_context(locked(self.folder / "lock", timeout=0))
            except OSError as error:
                raise OSError(
                    f"vectors cannot be kept in {self.folder} ({error}); name another folder."
                ) from error
            if not is_held:
                self._wait_for_lock(stack, should_stop)
            self._refresh()
            self._cut_tails()
            sync(self.folder)
            yield

    def trim(self) -> None:
        """Do nothing: a folder has no size limit."""

    def _wait_for_lock(self, stack: ExitStack, should_stop: Callable[[], bool]) -> None:
        warnings.warn(
            f"another process is encoding into {self.folder}; waiting for it.",
            stacklevel=2,
        )
        is_held = False
        while not is_held:
            if should_stop():
                raise Stopped(
                    "stopped while another process was encoding; nothing is lost."
                )
            lock = locked(self.folder / "lock", timeout=_STOP_INTERVAL)
            is_held = stack.enter_context(lock)

    def _refresh(self) -> None:
        """Read the records of blocks that were added since, here or by another process."""
        try:
            with self._index.open("rb") as file:
                file.seek(self._end)
                added = file.read()
            num_bytes = self._vectors.stat().st_size
        except FileNotFoundError:
            return
        at = 0
        while at + _HEAD.size <= len(added):
            magic, count, dim, record_sum, rows_sum = _HEAD.unpack_from(added, at)
            end = at + _HEAD.size + KEY_BYTES * count
            keys = added[at + _HEAD.size : end]
            if end > len(added) and magic == _MAGIC:
                return  # being written, or cut short
            if magic != _MAGIC or _sum(magic, count, dim, rows_sum, keys) != record_sum:
                if end >= len(added) or not any(added[at:]):
                    return  # the last one: a machine that lost its power can leave zeros
                raise ValueError(
                    f"{self._index} is broken at byte {self._end}; remove {self.folder} "
                    "and encode again."
                )
            if (self._num_rows + count) * dim * self._dtype.itemsize > num_bytes:
                return
            for number in range(count):
                key = keys[KEY_BYTES * number : KEY_BYTES * (number + 1)]
                self._rows[key] = self._num_rows + number
            self._starts.append(self._num_rows)
            self._sums.append(rows_sum)
            self._dim = dim
            self._num_rows = self._num_rows + count
            self._end = self._end + end - at
            at = end

    def _cut_tails(self) -> None:
        """Cut off what was being written when its process ended."""
        num_bytes = self._num_rows * self._dim * self._dtype.itemsize
        for file, size in ((self._vectors, num_bytes), (self._index, self._end)):
            if file.exists() and file.stat().st_size > size:
                os.truncate(file, size)

    def _check(self, block: int) -> None:
        assert self._map is not None
        ends = [*self._starts[1:], self._num_rows]
        rows = self._map[self._starts[block] : ends[block]]
        checksum = xxhash.xxh3_64_intdigest(rows.reshape(-1).view(np.uint8).data)
        if checksum != self._sums[block]:
            raise ValueError(
                f"{self._vectors} is not what was written; remove {self.folder} and encode again."
            )
        self._sound.add(block)


def _record(keys: Sequence[Key], rows: npt.NDArray[Any]) -> bytes:
    joined = b"".join(keys)
    rows_sum = xxhash.xxh3_64_intdigest(rows.reshape(-1).view(np.uint8).data)
    count, dim = rows.shape
    record_sum = _sum(_MAGIC, count, dim, rows_sum, joined)
    return _HEAD.pack(_MAGIC, count, dim, record_sum, rows_sum) + joined


def _sum(magic: bytes, count: int, dim: int, rows_sum: int, keys: bytes) -> int:
    return int(
        xxhash.xxh3_64_intdigest(_HEAD.pack(magic, count, dim, 0, rows_sum) + keys)
    )
