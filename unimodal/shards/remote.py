"""Shards that are not plain tars on this machine: at a URL, compressed, or a command's output.

They become whole, plain tars in the cache, and are then read like all others. Without a disk cache,
the bytes of a URL are requested as they are needed.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import queue
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from .cache import ShardCache
from .find import Location, is_compressed
from .index import (
    SUFFIX,
    ShardIndex,
    build_index,
    fits,
    read_sidecar,
    sidecar,
    write_sidecar,
)
from .storage import (
    FileState,
    Patience,
    download,
    filesystem,
    read_file,
    read_ranges,
    retry,
    state_of,
)

_T = TypeVar("_T")

_OPENERS: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}


class RemoteShard(NamedTuple):
    """A remote shard as it is now, and its path in the cache."""

    location: Location
    state: FileState  # of the file as it is stored
    path: Path  # of the plain tar in the cache

    @property
    def is_plain(self) -> bool:
        """Whether its bytes are those of the tar."""
        is_pipe = str(self.location).startswith("pipe:")
        return not is_compressed(self.location) and not is_pipe


def is_elsewhere(location: Location) -> bool:
    """Whether a shard cannot be read where it lies."""
    return isinstance(location, str) or is_compressed(location)


def look_up(location: Location, cache: ShardCache, patience: Patience) -> RemoteShard:
    """The state of a shard.

    Raises ValueError, FileNotFoundError or OSError, naming the shard, if it is missing.
    """
    if isinstance(location, Path):
        status = location.stat()
        state = FileState(status.st_size, str(status.st_mtime_ns))
    elif location.startswith("pipe:"):
        state = FileState(None, "")  # not known before the command has run
    else:
        state = state_of(location, patience)
    shard = RemoteShard(location, state, cache.path_of(str(location), repr(state)))
    if not cache.limit and not shard.is_plain:
        raise ValueError(
            f"shard {location} has to be unpacked onto a disk; set storage.cache_gib above 0."
        )
    return shard


def fetch(
    shard: RemoteShard,
    cache: ShardCache,
    patience: Patience,
    wait: bool = True,
    look: Callable[[BinaryIO], None] | None = None,
) -> None:
    """Fetch a shard into the cache as a plain tar, unless it is there.

    wait: for another process that fetches it; otherwise return at once.
    look: called with the tar if it was fetched now, before the cache can remove it.
    """

    def write(file: BinaryIO) -> int:
        if shard.is_plain:
            return download(str(shard.location), file, shard.state, patience)
        return _unpack(shard, cache, patience, file)

    cache.fetch(
        shard.path, shard.state.size if shard.is_plain else None, write, wait, look
    )


def remote_index(
    shard: RemoteShard, cache: ShardCache, patience: Patience
) -> ShardIndex:
    """The index of a shard: from the cache, from beside the shard, or made by reading it once."""
    kept = sidecar(shard.path)
    index = read_sidecar(kept)
    if index is None and shard.is_plain:
        index = _index_beside(shard, cache, patience)
    if index is None:
        index = _index_by_reading(shard, cache, patience)
    if cache.limit and not kept.is_file():
        with suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_sidecar(kept, index)
    return index


def _index_beside(
    shard: RemoteShard, cache: ShardCache, patience: Patience
) -> ShardIndex | None:
    url, mark, query = str(shard.location).partition("?")
    try:
        content = read_file(url + SUFFIX + mark + query, patience)
    except OSError:  # there is none, or it may not be read
        return None
    index = read_sidecar(io.BytesIO(content))
    if index is None or index.tar_size != shard.state.size:
        return None
    # With a cache, the whole shard is compared with its index when it is fetched.
    if cache.limit or fits(index, index.tar_size, range_reader(shard, patience)):
        return index
    return None


def range_reader(
    shard: RemoteShard, patience: Patience
) -> Callable[[list[tuple[int, int]]], list[bytes]]:
    """A function that reads ranges, (start, stop), of a shard from its storage."""
    url = str(shard.location)

    def read(ranges: list[tuple[int, int]]) -> list[bytes]:
        requests = [(url, start, stop) for start, stop in ranges]
        return read_ranges(requests, patience)

    return read


def _index_by_reading(
    shard: RemoteShard, cache: ShardCache, patience: Patience
) -> ShardIndex:
    if cache.limit:
        made: list[ShardIndex] = []

        def look(file: BinaryIO) -> None:
            made.append(build_index(file, str(shard.location), checksums=True))

        while not made:
            fetch(shard, cache, patience, look=look)
            if not made:
                # It was there before, and the cache may have removed it since.
                with suppress(FileNotFoundError), shard.path.open("rb") as file:
                    look(file)
        return made[0]

    def read() -> ShardIndex:
        fs, path = filesystem(str(shard.location))
        with fs.open(path, "rb", block_size=8 << 20, cache_type="readahead") as file:
            return build_index(cast("BinaryIO", file), str(shard.location))

    return retry(read, str(shard.location), patience.deadline)


def _unpack(
    shard: RemoteShard, cache: ShardCache, patience: Patience, file: BinaryIO
) -> int:
    location = shard.location
    if isinstance(location, str) and location.startswith("pipe:"):
        return _run(location, cache, file)
    opener = next(
        opener for suffix, opener in _OPENERS.items() if str(location).endswith(suffix)
    )
    try:
        if isinstance(location, Path):
            with opener(location) as plain:
                return _copy(plain, file, cache, location)
        with tempfile.TemporaryFile(dir=cache.folder) as packed:
            download(location, cast("BinaryIO", packed), shard.state, patience)
            packed.seek(0)
            with opener(packed) as plain:
                return _copy(plain, file, cache, location)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(
            f"shard {location} cannot be unpacked ({error}); write it again."
        ) from None


def _run(location: str, cache: ShardCache, file: BinaryIO) -> int:
    try:
        from webdataset.gopen import gopen
    except ImportError:
        raise ImportError(
            'reading pipe: needs webdataset: pip install "unimodal[train]".'
        ) from None
    try:
        with gopen(location) as stream:
            written = _copy(stream, file, cache, location)
    except OSError as error:
        if error.errno is not None:  # of the disk of this machine
            raise
        raise OSError(
            f"shard {location}: the command failed ({str(error).split(')')[-1].strip()}); run it "
            "by hand."
        ) from None
    if not written:
        raise ValueError(
            f"shard {location}: the command printed nothing; run it by hand."
        )
    return written


def _copy(source: Any, file: BinaryIO, cache: ShardCache, location: Location) -> int:
    while block := source.read(1 << 20):
        file.write(block)
        if file.tell() > cache.limit:  # also the end of a compressed bomb
            raise ValueError(
                f"shard {location} unpacked is over the cache of {cache.limit:,} bytes; "
                "raise storage.cache_gib."
            )
    return file.tell()


def in_threads(
    work: Callable[[int], _T], count: int, threads: int = 16
) -> Iterator[_T]:
    """work(0), work(1), ... in order, several at once.

    The threads are daemons: an interrupted process does not wait for a silent storage.
    """
    results: list[Future[_T]] = [Future() for _ in range(count)]
    numbers = iter(range(count))
    lock = threading.Lock()

    def run() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                results[number].set_result(work(number))
            except BaseException as error:  # raised by `result()`
                results[number].set_exception(error)

    for _ in range(min(threads, count)):
        threading.Thread(target=run, daemon=True).start()
    try:
        for result in results:
            yield result.result()
    finally:
        with lock:
            numbers = iter(())  # nobody needs the rest


class Prefetcher:
    """Threads that fetch the shards that will be read next, in the order of the queue."""

    def __init__(self, cache: ShardCache, patience: Patience, threads: int) -> None:
        self._cache = cache
        self._patience = patience
        self._threads = threads
        self._wanted: queue.SimpleQueue[RemoteShard] = queue.SimpleQueue()
        self._queued: set[Path] = set()

    def want(self, shards: list[RemoteShard]) -> None:
        """Queue shards to fetch, as far as half of the cache holds them.

        Shards that are in the cache or in the queue are skipped.
        """
        room = self._cache.limit / 2
        for shard in shards:
            room -= shard.state.size or 0
            if room < 0:
                break
            if shard.path not in self._queued and not shard.path.exists():
                self._queued.add(shard.path)
                self._wanted.put(shard)
                if self._threads:
                    self._threads -= 1
                    # Daemons: a process that ends does not wait for shards that it will not read.
                    threading.Thread(target=self._fetch_all, daemon=True).start()

    def _fetch_all(self) -> None:
        while True:
            shard = self._wanted.get()
            # Reading the shard meets the same failure, and reports it.
            with suppress(OSError, ValueError):
                fetch(shard, self._cache, self._patience, wait=False)
            # It may leave the cache, and be wanted again.
            self._queued.discard(shard.path)
