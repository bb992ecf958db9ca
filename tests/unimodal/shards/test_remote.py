"""Shards elsewhere hold the same samples as here: over HTTP, in an S3, compressed, or printed by a
command.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture.servers import Faults, Server
from tests.unimodal.shards.test_read import img2dataset_shard
from unimodal.shards.config import StorageConfig
from unimodal.shards.find import find_shards
from unimodal.shards.index import SUFFIX
from unimodal.shards.read import ShardSet, open_shards
from unimodal.shards.sample import Sample
from unimodal.shards.storage import ShardChangedError

NAMES = [f"{number:05d}.tar" for number in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shards").mkdir()
    for number, name in enumerate(NAMES):
        img2dataset_shard(tmp_path / "shards" / name, number)
    return tmp_path / "shards"


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with Server(folder) as server:
        yield server


@pytest.fixture
def storage(tmp_path: Path) -> StorageConfig:
    return StorageConfig(
        cache=str(tmp_path / "cache"), cache_gib=0.1, deadline=20, timeout=5
    )


@pytest.fixture
def no_disk(storage: StorageConfig) -> StorageConfig:
    return storage.model_copy(update={"cache_gib": 0.0})


def everything(shards: ShardSet) -> list[Sample]:
    return [
        shards.read(shard, row)
        for shard, count in enumerate(shards.num_samples)
        for row in range(count)
    ]


def test_http_gives_the_samples_of_the_disk_and_each_shard_comes_once(
    folder: Path, server: Server, storage: StorageConfig
) -> None:
    here = open_shards(folder)
    away = open_shards(server.url + "/{00000..00002}.tar", storage=storage)
    assert everything(away) == everything(here)
    assert away.fingerprint() == here.fingerprint()
    fetched = [
        request.path
        for request in server.requests
        if request.method == "GET" and request.path.endswith(".tar")
    ]
    assert sorted(fetched) == [f"/{name}" for name in NAMES]


def test_a_second_start_fetches_nothing(
    folder: Path, server: Server, storage: StorageConfig
) -> None:
    everything(open_shards(f"{server.url}/00000.tar", storage=storage))
    server.requests.clear()
    everything(open_shards(f"{server.url}/00000.tar", storage=storage))
    assert {request.method for request in server.requests} == {"HEAD"}


def test_with_an_index_beside_it_a_shard_is_fetched_when_it_is_read_and_not_before(
    folder: Path, server: Server, storage: StorageConfig
) -> None:
    open_shards(folder)
    assert (folder / f"{NAMES[0]}{SUFFIX}").is_file()
    shards = open_shards(server.url + "/{00000..00002}.tar", storage=storage)
    assert not [
        request
        for request in server.requests
        if request.method == "GET" and request.path.endswith(".tar")
    ]
    shards.read(1, 0)
    assert [
        r.path for r in server.requests if r.method == "GET" and r.path.endswith(".tar")
    ] == [f"/{NAMES[1]}"]


def test_without_a_disk_the_samples_of_a_batch_are_asked_for_in_few_requests(
    folder: Path, server: Server, no_disk: StorageConfig
) -> None:
    here = open_shards(folder)
    away = open_shards(server.url + "/{00000..00002}.tar", storage=no_disk)
    server.requests.clear()
    places = [(shard, row) for row in (3, 1, 0, 2) for shard in (2, 0, 1)]
    assert away.read_many(places) == here.read_many(places)
    assert len(server.requests) == 3
    assert not no_disk.folder.exists()


def test_without_a_disk_and_without_an_index_beside_it_headers_are_read_once(
    folder: Path, server: Server, no_disk: StorageConfig
) -> None:
    assert not list(folder.glob(f"*{SUFFIX}"))
    assert everything(
        open_shards(f"{server.url}/00001.tar", storage=no_disk)
    ) == everything(open_shards(folder / "00001.tar"))


@pytest.mark.parametrize("cache_gib", [0.1, 0.0])
def test_faults_change_no_sample(
    folder: Path, server: Server, storage: StorageConfig, cache_gib: float
) -> None:
    server.faults = Faults(unavailable=0.1, short=0.1, reset=0.1, latency=0.02)
    storage = storage.model_copy(update={"cache_gib": cache_gib})
    assert everything(
        open_shards(server.url + "/{00000..00002}.tar", storage=storage)
    ) == everything(open_shards(folder))
    assert len(server.requests) > server.count("ok")


def test_a_missing_shard_is_named_within_five_seconds(
    server: Server, storage: StorageConfig
) -> None:
    started = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"/00003\.tar cannot be read"):
        open_shards(server.url + "/{00000..00003}.tar", storage=storage)
    assert time.monotonic() - started < 5


def test_a_page_that_is_no_tar_is_named(
    folder: Path, server: Server, storage: StorageConfig
) -> None:
    (folder / "00009.tar").write_text("<html>sign in</html>" * 100)
    with pytest.raises(ValueError, match=r"/00009\.tar is not a tar file"):
        open_shards(f"{server.url}/00009.tar", storage=storage)


def test_a_shard_written_again_elsewhere_is_refused(
    folder: Path, server: Server, storage: StorageConfig
) -> None:
    open_shards(folder)  # writes the indexes that will be stale
    shards = open_shards(f"{server.url}/00000.tar", storage=storage)
    sizes = (folder / NAMES[0]).stat().st_size, (folder / NAMES[1]).stat().st_size
    assert sizes[0] == sizes[1]
    shutil.copy(folder / NAMES[1], folder / NAMES[0])
    fresh = open_shards(f"{server.url}/00000.tar", storage=storage)
    with pytest.raises(
        ShardChangedError, match=r"00000\.tar is not the one that was indexed"
    ):
        fresh.read(0, 0)
    with pytest.raises(
        ShardChangedError, match=r"00000\.tar is not the one that was indexed"
    ):
        shards.read(0, 0)


def test_a_stale_index_beside_a_shard_is_not_used_without_a_disk(
    folder: Path, server: Server, no_disk: StorageConfig
) -> None:
    open_shards(folder)
    shutil.copy(folder / NAMES[1], folder / NAMES[0])
    away = open_shards(f"{server.url}/00000.tar", storage=no_disk)
    assert [sample.key for sample in everything(away)] == [
        sample.key for sample in everything(open_shards(folder / NAMES[1]))
    ]


def test_a_cache_too_small_for_two_shards_still_reads_all(
    folder: Path, server: Server, storage: StorageConfig
) -> None:
    size = (folder / NAMES[0]).stat().st_size
    storage = storage.model_copy(update={"cache_gib": 1.5 * size / 2**30})
    shards = open_shards(server.url + "/{00000..00002}.tar", storage=storage)
    here = open_shards(folder)
    for row in range(3):  # in turns, so that each reading throws the others out
        for shard in range(3):
            assert shards.read(shard, row) == here.read(shard, row)
    assert (
        sum(path.stat().st_size for path in storage.folder.glob("??/*.tar"))
        <= 1.5 * size
    )


def test_prefetched_shards_are_there_before_they_are_read(
    server: Server, folder: Path, storage: StorageConfig
) -> None:
    open_shards(folder)
    shards = open_shards(server.url + "/{00000..00002}.tar", storage=storage)
    shards.prefetch([2, 0])
    deadline = time.monotonic() + 20
    while len(list(storage.folder.glob("??/*.tar"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.requests.clear()
    shards.read(2, 0)
    shards.read(0, 0)
    assert not server.requests


def test_what_the_cache_has_removed_is_not_kept_open(
    folder: Path, server: Server, storage: StorageConfig
) -> None:
    for number in range(3, 100):
        shutil.copy(folder / NAMES[0], folder / f"{number:05d}.tar")
    size = (folder / NAMES[0]).stat().st_size
    storage = storage.model_copy(update={"cache_gib": 2.5 * size / 2**30})
    shards = open_shards(server.url + "/{00000..00099}.tar", storage=storage)
    # Many are indexed at a time, and the cache has room for two: what one fetches must not be lost
    # to the others.
    assert (
        sum(r.method == "GET" and r.path.endswith(".tar") for r in server.requests)
        == 100
    )
    for shard in range(100):
        shards.read(shard, 0)
    links = [
        os.readlink(f"/proc/self/fd/{name}")
        for name in os.listdir("/proc/self/fd")
        if _exists(name)
    ]
    assert (
        sum(
            link.startswith(str(storage.folder)) and link.endswith(".tar (deleted)")
            for link in links
        )
        <= 32
    )


def _exists(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")


def test_whoever_is_interrupted_does_not_wait_for_a_storage_that_answers_nobody(
    server: Server, storage: StorageConfig
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    server.faults = Faults(stall=1.0, stall_seconds=60)
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            open_shards(server.url + "/{00000..00002}.tar", storage=storage)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 3


def _keys(shards: ShardSet) -> list[str]:
    return [sample.key for sample in everything(shards)]


@pytest.mark.parametrize("cache_gib", [0.1, 0.0])
def test_other_processes_open_file_systems_of_their_own(
    server: Server, storage: StorageConfig, cache_gib: float
) -> None:
    storage = storage.model_copy(update={"cache_gib": cache_gib})
    shards = open_shards(f"{server.url}/00001.tar", storage=storage)
    ours = _keys(shards)
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        assert pool.apply_async(_keys, (shards,)).get(60) == ours


@pytest.mark.parametrize(
    ("command", "suffix"), [("gzip", ".gz"), ("bzip2", ".bz2"), ("xz", ".xz")]
)
def test_compressed_tars_are_unpacked_into_the_cache(
    folder: Path, server: Server, storage: StorageConfig, command: str, suffix: str
) -> None:
    here = everything(open_shards(folder / NAMES[0]))
    packed = folder / (NAMES[0] + suffix)
    packed.write_bytes(
        subprocess.run(
            [command, "-c", str(folder / NAMES[0])], check=True, capture_output=True
        ).stdout
    )
    assert everything(open_shards(packed, storage=storage)) == here
    assert (
        everything(open_shards(f"{server.url}/{packed.name}", storage=storage)) == here
    )
    assert packed in find_shards(folder)


def test_what_cannot_be_unpacked_is_named(
    folder: Path, storage: StorageConfig, no_disk: StorageConfig
) -> None:
    packed = folder / "x.tar.gz"
    whole = subprocess.run(
        ["gzip", "-c", str(folder / NAMES[0])], check=True, capture_output=True
    ).stdout
    for content in (b"no gzip at all", whole[: len(whole) // 2]):
        packed.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.tar\.gz cannot be unpacked"):
            open_shards(packed, storage=storage)
    packed.write_bytes(whole)
    with pytest.raises(
        ValueError,
        match=r"has to be unpacked onto a disk; set storage.cache_gib above 0",
    ):
        open_shards(packed, storage=no_disk)


def test_a_tar_that_unpacks_to_more_than_the_cache_is_refused(
    folder: Path, storage: StorageConfig
) -> None:
    bomb = folder / "bomb.tar.gz"
    bomb.write_bytes(
        subprocess.run(
            ["gzip", "-c"], input=bytes(20 << 20), check=True, capture_output=True
        ).stdout
    )
    with pytest.raises(ValueError, match=r"bomb\.tar\.gz unpacked is over the cache"):
        open_shards(bomb, storage=storage.model_copy(update={"cache_gib": 0.001}))


def test_what_a_command_prints_is_a_shard(folder: Path, storage: StorageConfig) -> None:
    shards = open_shards(f"pipe:cat {folder}/{{00000..00001}}.tar", storage=storage)
    assert everything(shards) == everything(
        open_shards(f"{folder}/{{00000..00001}}.tar")
    )


@pytest.mark.parametrize(
    ("command", "message"),
    [("false", "the command failed"), ("true", "printed nothing")],
)
def test_a_command_that_fails_or_prints_nothing_is_named(
    storage: StorageConfig, command: str, message: str
) -> None:
    with pytest.raises((OSError, ValueError), match=f"pipe:{command}: .*{message}"):
        open_shards(f"pipe:{command}", storage=storage)


def test_a_list_of_patterns_is_one_set_and_braces_of_a_shell_stay(folder: Path) -> None:
    assert find_shards([f"{folder}/00001.tar", f"{folder}/0000{{0,1}}.tar"]) == [
        folder / NAMES[0],
        folder / NAMES[1],
    ]
    assert find_shards("pipe:awk '{print $1,$2}' x") == ["pipe:awk '{print $1,$2}' x"]


def test_an_s3_is_read_by_name_glob_and_folder(
    folder: Path, storage: StorageConfig, no_disk: StorageConfig, s3: str
) -> None:
    import fsspec

    files = fsspec.filesystem("s3")
    files.mkdir("open-shards")  # the server is one for all tests of a process
    for name in NAMES:
        files.put(str(folder / name), f"open-shards/train/{name}")
    here = everything(open_shards(folder))
    for pattern in (
        "s3://open-shards/train/{00000..00002}.tar",
        "s3://open-shards/train/*.tar",
        "s3://open-shards/train",
    ):
        assert everything(open_shards(pattern, storage=storage)) == here
    assert everything(open_shards("s3://open-shards/train", storage=no_disk)) == here
    started = time.monotonic()
    with pytest.raises(
        FileNotFoundError, match=r"s3://open-shards/train/00009\.tar cannot be read"
    ):
        open_shards("s3://open-shards/train/00009.tar", storage=storage)
    assert time.monotonic() - started < 5
