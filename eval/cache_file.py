"""Vectors by key, kept in memory, or in a folder that survives whatever ends the process.

A folder holds `vectors`, rows of D numbers one after another, and `index`, a record for each block
of rows that was
added: how many, their keys, and checksums of keys and rows. Rows are forced to the disk before
their record is written, so that an end in between leaves rows without a key, which the next writer
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
_HEAD = struct.Struct(
    "<4sIIQQ"
)  # magic, keys, D, checksum of the record, checksum of the rows
_MAGIC = b"UMV1"
_STOP_INTERVAL = (
    0.2  # seconds between two checks for a stop while another process writes
)


class Stopped(Exception):  # noqa: N818  # not an error: it was asked for
    """It was asked to stop, and did; what was encoded until then is kept."""


class Storage(Protocol):
    """What keeps vectors: `Memory` or `VectorFile`."""

    def __contains__(self, key: Key) -> bool: ...

    def rows(self, keys: Sequence[Key]) -> Vectors:
        """(n, D) float32 of keys that are there."""
        ...

    def append(self, keys: Sequence[Key], vectors: Vectors) -> None:
        """Keep (n, D) vectors; only while `writing`."""
        ...

    def writing(self, should_stop: Callable[[], bool]) -> Any:
        """A context in which this process alone writes; what others have added is known within."""
        ...

    def trim(self) -> None:
        """Forget what there is no room for."""
        ...


class Memory:
    """Vectors in memory, those that were used last: what is forgotten is encoded again when it is
    asked for.
    """

    def __init__(self, dtype: Precision, max_bytes: int) -> None:
        self._dtype = dtype
        self._max_bytes = max_bytes
        self._rows: dict[Key, npt.NDArray[Any]] = {}  # in the order of their last use

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def rows(self, keys: Sequence[Key]) -> Vectors:
        """(n, D) float32 of keys that are there."""
        for key in dict.fromkeys(keys):
            self._rows[key] = self._rows.pop(key)
        return np.stack([self._rows[key] for key in keys]).astype(
            np.float32, copy=False
        )

    def append(self, keys: Sequence[Key], vectors: Vectors) -> None:
        """Keep (n, D) vectors."""
        for key, vector in zip(keys, vectors, strict=True):
            self._rows[key] = vector.astype(
                self._dtype
            )  # a copy: a view would keep its whole block

    @contextmanager
    def writing(self, should_stop: Callable[[], bool]) -> Iterator[None]:
        """Nobody else is there."""
        yield

    def trim(self) -> None:
        """Forget those that were used longest ago, until the rest fits."""
        size = sum(vector.nbytes for vector in self._rows.values())
        for key in list(self._rows):
            if size <= self._max_bytes:
                return
            size -= self._rows.pop(key).nbytes


class VectorFile:
    """Vectors in a folder. Raises ValueError if its files are broken, or if vectors of another
    length are added.
    """

    def __init__(self, folder: Path, dtype: Precision) -> None:
        self.folder = folder
        self._dtype = np.dtype(dtype)
        self._index = folder / "index"
        self._vectors = folder / "vectors"
        self._rows: dict[Key, int] = {}
        self._starts: list[int] = []  # first row of each block
        self._sums: list[int] = []  # checksum of each block's rows
        self._sound: set[int] = set()  # blocks whose rows were compared with it
        self._dim = self._num_rows = self._end = (
            0  # _end: of what was read of the index
        )
        self._map: npt.NDArray[Any] | None = None
        self._refresh()

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    def rows(self, keys: Sequence[Key]) -> Vectors:
        """(n, D) float32 of keys that are there."""
        if self._map is None or len(self._map) < self._num_rows:
            self._map = np.memmap(
                self._vectors, self._dtype, "r", shape=(self._num_rows, self._dim)
            )
        numbers = np.array([self._rows[key] for key in keys])
        for block in {
            bisect_right(self._starts, number) - 1
            for number in np.unique(numbers).tolist()
        } - self._sound:
            self._check(block)
        return np.asarray(self._map[numbers], dtype=np.float32)

    def append(self, keys: Sequence[Key], vectors: Vectors) -> None:
        """Keep (n, D) vectors: on the disk when this returns. Raises OSError, keeping none of them,
        if it is full.
        """
        if self._dim and vectors.shape[1] != self._dim:
            raise ValueError(
                f"{self.folder} keeps vectors of {self._dim} dimensions and these have "
                f"{vectors.shape[1]}; the model says that it is the same one: name another "
                "folder."
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
                f"{len(keys):,} vectors could not be written to {self.folder} ({error}); make "
                "room and start again: what is there already stays."
            ) from error
        self._refresh()

    @contextmanager
    def writing(self, should_stop: Callable[[], bool]) -> Iterator[None]:
        """Hold the lock of the folder, once other writers are done; what they added is known then.

        Raises Stopped if asked to stop while waiting.
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
        """Nothing: there is room."""

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
        """Take note of the blocks that were added since, here or by another process."""
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
                self._rows[keys[KEY_BYTES * number : KEY_BYTES * (number + 1)]] = (
                    self._num_rows + number
                )
            self._starts.append(self._num_rows)
            self._sums.append(rows_sum)
            self._dim = dim
            self._num_rows = self._num_rows + count
            self._end = self._end + end - at
            at = end

    def _cut_tails(self) -> None:
        """Cut off what was being written when its process ended."""
        for file, size in (
            (self._vectors, self._num_rows * self._dim * self._dtype.itemsize),
            (self._index, self._end),
        ):
            if file.exists() and file.stat().st_size > size:
                os.truncate(file, size)

    def _check(self, block: int) -> None:
        assert self._map is not None
        rows = self._map[
            self._starts[block] : [*self._starts, self._num_rows][block + 1]
        ]
        if (
            xxhash.xxh3_64_intdigest(rows.reshape(-1).view(np.uint8).data)
            != self._sums[block]
        ):
            raise ValueError(
                f"{self._vectors} is not what was written; remove {self.folder} and encode again."
            )
        self._sound.add(block)


def _record(keys: Sequence[Key], rows: npt.NDArray[Any]) -> bytes:
    joined = b"".join(keys)
    rows_sum = xxhash.xxh3_64_intdigest(rows.reshape(-1).view(np.uint8).data)
    count, dim = rows.shape
    return (
        _HEAD.pack(
            _MAGIC, count, dim, _sum(_MAGIC, count, dim, rows_sum, joined), rows_sum
        )
        + joined
    )


def _sum(magic: bytes, count: int, dim: int, rows_sum: int, keys: bytes) -> int:
    return int(
        xxhash.xxh3_64_intdigest(_HEAD.pack(magic, count, dim, 0, rows_sum) + keys)
    )
