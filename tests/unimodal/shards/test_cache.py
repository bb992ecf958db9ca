"""Whole shards on the disk: never half of one, never fetched twice, never more than the limit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from unimodal.shards.cache import ShardCache


def put(cache: ShardCache, name: str, size: int) -> Path:
    path = cache.path_of(name, "1")
    cache.fetch(path, size, lambda file: file.write(bytes(size)))
    return path


def test_the_least_recently_used_leave_first_and_the_limit_holds(
    tmp_path: Path,
) -> None:
    cache = ShardCache(tmp_path, 1000)
    paths = [put(cache, name, 300) for name in "abc"]
    for age, path in enumerate(paths):
        os.utime(path, (age, age))
    cache.touch(paths[0])
    put(cache, "d", 300)
    assert [path.exists() for path in paths] == [True, False, True]
    put(cache, "e", 900)
    assert sum(path.stat().st_size for path in tmp_path.glob("??/*.tar")) <= 1000


def test_another_version_is_another_shard(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 1000)
    assert cache.path_of("http://host/a.tar", "etag 1") != cache.path_of(
        "http://host/a.tar", "etag 2"
    )


def test_a_shard_of_another_size_or_whose_fetching_fails_leaves_nothing(
    tmp_path: Path,
) -> None:
    cache = ShardCache(tmp_path, 1000)
    path = cache.path_of("a", "1")
    with pytest.raises(OSError, match="99 bytes came where 100 were announced"):
        cache.fetch(path, 100, lambda file: file.write(bytes(99)))

    def fail(file: BinaryIO) -> int:
        file.write(bytes(50))
        raise ConnectionError("away")

    with pytest.raises(ConnectionError):
        cache.fetch(path, 100, fail)
    assert not list(tmp_path.glob("??/*.tar")) + list(tmp_path.glob("??/*.part"))


def test_a_shard_larger_than_the_cache_and_a_full_disk_say_the_way_out(
    tmp_path: Path,
) -> None:
    cache = ShardCache(tmp_path, 1000)
    with pytest.raises(
        ValueError,
        match=r"2,000 bytes does not fit the cache .*; raise storage.cache_gib",
    ):
        put(cache, "a", 2000)

    def fill(_: BinaryIO) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(
        OSError,
        match=r"the disk of the cache .* is full; lower storage.cache_gib, or move it",
    ):
        cache.fetch(cache.path_of("b", "1"), 10, fill)


def _fetch_slowly(folder: Path, log: Path) -> None:
    cache = ShardCache(folder, 1000)

    def write(file: BinaryIO) -> int:
        with log.open("a") as lines:
            lines.write("fetched\n")
        time.sleep(0.5)
        return file.write(bytes(10))

    cache.fetch(cache.path_of("a", "1"), 10, write)


def test_processes_that_want_one_shard_fetch_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(
            target=_fetch_slowly, args=(tmp_path / "cache", tmp_path / "log")
        )
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "fetched\n"


def _fetch_and_hang(folder: Path) -> None:
    cache = ShardCache(folder, 1000)

    def write(file: BinaryIO) -> int:
        file.write(bytes(800))
        file.flush()
        time.sleep(60)
        return 800

    cache.fetch(cache.path_of("a", "1"), 800, write)


def test_what_a_killed_process_left_gives_way_and_what_one_is_writing_does_not(
    tmp_path: Path,
) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=_fetch_and_hang, args=(tmp_path,)
    )
    process.start()
    deadline = time.monotonic() + 30
    while (
        not (parts := list(tmp_path.glob("??/*.part"))) or not parts[0].stat().st_size
    ):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cache = ShardCache(tmp_path, 1000)
    assert not cache.fetch(cache.path_of("a", "1"), 800, lambda file: 0, wait=False)
    put(cache, "b", 500)
    assert parts[0].exists()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    put(cache, "c", 501)
    assert not parts[0].exists()
