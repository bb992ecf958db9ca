"""Any sample of any shard in one read."""

from __future__ import annotations

import hashlib
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from ..progress import progress_bar
from .cache import ShardCache
from .config import StorageConfig
from .find import Location, find_shards
from .index import (
    ShardIndex,
    checksum_of,
    fits,
    load_index,
    read_sidecar,
    reads_of,
    sidecar,
)
from .remote import (
    Prefetcher,
    RemoteShard,
    fetch,
    in_threads,
    is_elsewhere,
    look_up,
    remote_index,
)
from .sample import Sample
from .storage import ShardChangedError, read_ranges, retry

_MAX_KNOWN = 4_000_000  # samples whose indexes are kept, some 250 MB at most


def open_shards(
    pattern: str | Path | Sequence[str],
    show_progress: bool | None = False,
    storage: StorageConfig | None = None,
) -> ShardSet:
    """The shards of a file, folder, glob, brace pattern, URL or list, indexed.

    Sidecars are written where they are missing.
    """
    storage = storage or StorageConfig()
    return ShardSet(find_shards(pattern, storage.patience), show_progress, storage)


class ShardSet:
    """Shards opened for reading at random.

    It can be pickled and forked: indexes, file descriptors and file systems belong to the process
    that reads, and are opened there at the first read. Threads may share it.
    """

    def __init__(
        self,
        paths: Sequence[Location],
        show_progress: bool | None = False,
        storage: StorageConfig | None = None,
    ) -> None:
        """Raises ValueError or OSError, naming the shard, if one is missing or is not a tar."""
        self.paths = tuple(
            path.absolute() if isinstance(path, Path) else path for path in paths
        )
        storage = storage or StorageConfig()
        self._patience = storage.patience
        self._threads = storage.prefetch
        self._cache = ShardCache(storage.folder, int(storage.cache_gib * 2**30))
        self._remote: dict[int, RemoteShard] = {}
        # Indexes without a sidecar to read them from again: they are pickled with the set.
        self._unsaved: dict[int, ShardIndex] = {}
        sizes = []
        digests = []
        contents = []
        self.truncated = dict[Location, str]()
        with progress_bar(
            "reading shard indexes", len(self.paths), show_progress
        ) as advance:
            for number, index in enumerate(self._indexes()):
                sizes.append(len(index))
                digests.append(index.digest)
                contents.append(index.contents)
                if index.truncated:
                    self.truncated[self.paths[number]] = index.truncated
                advance(number + 1)
        self.num_samples = tuple(sizes)
        self.digests = tuple(digests)
        self.contents = tuple(contents)
        self._start()

    def _start(self) -> None:
        """Set up what belongs to one process."""
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._num_opened = 0
        self._known: OrderedDict[int, tuple[FileIdentity, ShardIndex]] = OrderedDict()
        self._num_known = 0  # samples in them
        self._prefetcher: Prefetcher | None = None

    def _indexes(self) -> Iterator[ShardIndex]:
        if any(is_elsewhere(path) for path in self.paths):
            # A remote storage answers late, and many requests at once.
            return in_threads(self._index, len(self.paths))
        return map(self._index, range(len(self.paths)))

    def _index(self, shard: int) -> ShardIndex:
        path = self.paths[shard]
        if is_elsewhere(path):
            if shard not in self._remote:
                self._remote[shard] = look_up(path, self._cache, self._patience)
            index = remote_index(self._remote[shard], self._cache, self._patience)
            kept = self._remote[shard].path
        else:
            assert isinstance(path, Path)
            index = load_index(path)
            kept = path
        if not sidecar(kept).is_file():
            self._unsaved[shard] = index
        return index

    def __len__(self) -> int:
        return sum(self.num_samples)

    @property
    def is_remote(self) -> bool:
        """Whether some of the shards have to be fetched."""
        return bool(self._remote)

    def fingerprint(self) -> str:
        """A hash of the shards' names, counts and contents.

        A resumed run compares it: other data has another order. Their folder does not count.
        """
        names = [str(path).rpartition("/")[2] for path in self.paths]
        return hashlib.blake2b(
            repr((names, self.num_samples, self.digests)).encode(), digest_size=8
        ).hexdigest()

    def key(self, shard: int, sample: int) -> str:
        """A sample's key without reading it."""
        return self._opened(shard).index.key(sample)

    def extensions(self, shard: int, sample: int) -> tuple[str, ...]:
        """A sample's extensions without reading it."""
        return tuple(self._opened(shard).index.parts(sample))

    def read(self, shard: int, sample: int) -> Sample:
        """One sample, by one read of the bytes from its first part to its last.

        Raises OSError naming the shard when the bytes are not there: the storage failed, not the
        sample.
        """
        return self.read_many([(shard, sample)])[0]

    def read_many(self, places: Sequence[tuple[int, int]]) -> list[Sample]:
        """The samples at (shard, sample).

        Without a disk cache, neighbouring samples share a request.
        """
        samples: list[Sample | None] = []
        # number, index, sample and start of each requested sample
        requested: list[tuple[int, ShardIndex, int, int]] = []
        requests: list[tuple[str, int, int]] = []
        for shard, sample in places:
            opened = self._opened(shard)
            index = opened.index
            key, start, stop, parts = index.locate(sample)
            if opened.descriptor is None:
                requested.append((len(samples), index, sample, start))
                requests.append((str(self.paths[shard]), start, stop))
                samples.append(None)
            else:
                content = self._read_local(shard, opened, start, stop - start)
                samples.append(_cut(content, start, key, parts, index.checksum(sample)))
        contents = read_ranges(requests, self._patience) if requests else []
        for (number, index, sample, start), content in zip(
            requested, contents, strict=True
        ):
            key, _, _, parts = index.locate(sample)
            samples[number] = _cut(content, start, key, parts, index.checksum(sample))
        return [sample for sample in samples if sample is not None]

    def prefetch(self, shards: Sequence[int]) -> None:
        """Begin to fetch, in the background, shards that will be read next.

        Shards on this disk are skipped.
        """
        wanted = [self._remote[shard] for shard in shards if shard in self._remote]
        if not wanted or not self._cache.limit or not self._threads:
            return
        if self._prefetcher is None:
            self._prefetcher = Prefetcher(self._cache, self._patience, self._threads)
        self._prefetcher.want(wanted)

    def _opened(self, shard: int) -> _OpenShard:
        with self._lock:
            opened = self._open.get(shard)
            if opened is not None:
                self._open.move_to_end(shard)
                return opened
        opened = retry(
            lambda: self._open_shard(shard),
            str(self.paths[shard]),
            self._patience.deadline,
        )
        with self._lock:
            self._open[shard] = opened
            self._num_opened += 1
            if self._remote and self._num_opened % 32 == 0:
                # A shard that the cache has removed takes room on the disk while it is open.
                for number, known in list(self._open.items()):
                    if known.is_removed():
                        del self._open[number]
            # Dropped, not closed: another thread may be reading one.
            while len(self._open) > _max_open():
                self._open.popitem(last=False)
        return opened

    def _open_shard(self, shard: int) -> _OpenShard:
        remote = self._remote.get(shard)
        if remote is not None and not self._cache.limit:
            return _OpenShard(self._checked_index(shard, None), None)
        if remote is None:
            path = self.paths[shard]
            assert isinstance(path, Path)
            descriptor = os.open(path, os.O_RDONLY)
        else:
            descriptor = self._open_cached(remote)
        try:
            return _OpenShard(self._checked_index(shard, descriptor), descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def _open_cached(self, remote: RemoteShard) -> int:
        while True:
            fetch(remote, self._cache, self._patience)
            self._cache.touch(remote.path)
            with suppress(FileNotFoundError):  # another process needed the room
                return os.open(remote.path, os.O_RDONLY)

    def _checked_index(self, shard: int, descriptor: int | None) -> ShardIndex:
        """The index of a shard, checked against the open file once for as long as it is the same.

        Raises ShardChangedError if the file is not the one that was indexed.
        """
        identity = _identity_of(descriptor)
        known = self._known.get(shard)
        if known is not None and known[0] == identity:
            return known[1]
        index = (
            self._unsaved.get(shard)
            or (known[1] if known is not None else None)
            or self._sidecar(shard)
        )
        if index is None or (descriptor is not None and not _fits(index, descriptor)):
            index = self._index(shard)  # of the file as it is now
        if index.digest != self.digests[shard] or (
            descriptor is not None and not _fits(index, descriptor)
        ):
            raise ShardChangedError(
                f"shard {self.paths[shard]} is not the one that was indexed, it was written "
                f"again; start again (and remove a stale {sidecar(Path('NAME.tar')).name} beside "
                "it)."
            )
        with self._lock:
            before = self._known.pop(shard, None)
            self._known[shard] = identity, index
            self._num_known += len(index)
            if before is not None:
                self._num_known -= len(before[1])
            while len(self._known) > 1 and self._num_known > _MAX_KNOWN:
                self._num_known -= len(self._known.popitem(last=False)[1][1])
        return index

    def _sidecar(self, shard: int) -> ShardIndex | None:
        remote = self._remote.get(shard)
        path = self.paths[shard]
        return read_sidecar(sidecar(remote.path if remote is not None else Path(path)))

    def _read_local(
        self, shard: int, opened: _OpenShard, offset: int, size: int
    ) -> bytes:
        assert opened.descriptor is not None
        try:
            content = os.pread(opened.descriptor, size, offset)
        except OSError:  # a network disk may fail for a moment
            self._open.pop(shard, None)
            return retry(
                lambda: _read_exactly(
                    self._opened(shard), offset, size, self.paths[shard]
                ),
                str(self.paths[shard]),
                self._patience.deadline,
            )
        if len(content) == size:
            return content
        return _read_exactly(opened, offset, size, self.paths[shard])

    def __getstate__(self) -> dict[str, Any]:
        of_process = (
            "_lock",
            "_open",
            "_num_opened",
            "_known",
            "_num_known",
            "_prefetcher",
        )
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in of_process
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def _max_open() -> int:
    """How many descriptors a set keeps: there are several sets, and opening takes microseconds."""
    return max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8)


class _OpenShard:
    """A descriptor and the index of a shard, closed when the last reader drops it.

    The descriptor is None where bytes are requested from a URL.
    """

    def __init__(self, index: ShardIndex, descriptor: int | None) -> None:
        self.index = index
        self.descriptor = descriptor

    def is_removed(self) -> bool:
        """Whether the file has no name any more."""
        return self.descriptor is not None and not os.fstat(self.descriptor).st_nlink

    # `close` is a default because `os` may be gone when the interpreter ends.
    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.descriptor is not None:
            close(self.descriptor)


# device, inode, size, time of the last change
FileIdentity: TypeAlias = tuple[int, int, int, int]


def _identity_of(descriptor: int | None) -> FileIdentity:
    if descriptor is None:
        return 0, 0, 0, 0
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _fits(index: ShardIndex, descriptor: int) -> bool:
    with open(descriptor, "rb", buffering=0, closefd=False) as file:
        return fits(index, os.fstat(descriptor).st_size, reads_of(file))


def _read_exactly(opened: _OpenShard, offset: int, size: int, path: Location) -> bytes:
    """Read on until all bytes are there: a read may stop at a signal or at 2 GiB."""
    assert opened.descriptor is not None
    content = b""
    while len(content) < size:
        more = os.pread(opened.descriptor, size - len(content), offset + len(content))
        if not more:
            raise ShardChangedError(
                f"shard {path} ends {size - len(content):,} bytes short of its index; it "
                "was cut or replaced."
            )
        content += more
    return content


def _cut(
    content: bytes,
    start: int,
    key: str,
    parts: list[tuple[str, int, int]],
    checksum: int | None,
) -> Sample:
    contents = {}
    for name, offset, size in parts:
        begin = offset - start
        contents[name] = content[begin : begin + size]
    fault = ""
    if checksum is not None and checksum_of(content) != checksum:
        fault = f"sample {key!r} is not what was indexed (its checksum differs); pack it again."
    return Sample(key, contents, fault)
