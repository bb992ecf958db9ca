"""Reads of a storage are retried, not for ever, and return the bytes that lie there."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.torture.servers import Faults, Server
from unimodal.shards import storage
from unimodal.shards.storage import (
    Clock,
    FileState,
    Patience,
    ShardChangedError,
    download,
    read_file,
    read_ranges,
    retry,
    state_of,
)

QUICK = Patience(deadline=20, timeout=2)


class VirtualTime:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.pauses: list[float] = []
        self.clock = Clock(lambda: self.seconds, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.seconds += seconds


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "file.bin").write_bytes(bytes(range(256)) * 4096)  # 1 MiB
    with Server(tmp_path) as server:
        yield server


def test_pauses_double_with_jitter_and_end_at_the_deadline() -> None:
    time_ = VirtualTime()

    def fail() -> None:
        raise ConnectionResetError("reset by peer")

    with (
        pytest.warns(
            UserWarning,
            match=r"shard x: ConnectionResetError: reset by peer; retrying for up to 300 s",
        ),
        pytest.raises(
            OSError,
            match=r"shard x could not be read in \d+ tries .* reset by peer; .*deadline \(300 s\)",
        ),
    ):
        retry(fail, "shard x", 300, time_.clock)
    assert time_.seconds < 300
    for number, pause in enumerate(time_.pauses):
        assert min(30, 0.1 * 2**number) / 2 <= pause <= min(30, 0.1 * 2**number)
    assert len(set(time_.pauses[-4:])) > 1


def test_what_fails_and_then_succeeds_is_a_success() -> None:
    answers = iter([OSError("503"), EOFError("short"), TimeoutError()])

    def answer() -> str:
        for error in answers:
            raise error
        return "here"

    assert retry(answer, "x", 300, VirtualTime().clock) == "here"


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("gone"), PermissionError("403"), OSError(28, "no space")],
)
def test_what_waiting_cannot_mend_is_an_error_at_once(error: OSError) -> None:
    time_ = VirtualTime()

    def fail() -> None:
        raise error

    with pytest.raises(
        OSError, match=r"^x cannot be read: .*check the URL and your permissions"
    ):
        retry(fail, "x", 300, time_.clock)
    assert not time_.pauses


def test_a_fault_of_the_code_is_not_taken_for_one_of_the_storage() -> None:
    with pytest.raises(KeyError):
        retry(lambda: {}["x"], "x", 300, VirtualTime().clock)  # type: ignore[index]


def test_a_missing_file_is_named_at_once_and_a_503_is_not_taken_for_one(
    server: Server,
) -> None:
    started = time.monotonic()
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tar cannot be read"):
        state_of(f"{server.url}/nowhere.tar", Patience())
    assert time.monotonic() - started < 5
    server.faults = Faults(unavailable=0.6)
    assert all(
        state_of(f"{server.url}/file.bin", QUICK).size == 1 << 20 for _ in range(5)
    )
    assert server.count("unavailable") > 0


def test_a_download_survives_faults_and_costs_one_block_each(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BLOCK", 1 << 16)
    monkeypatch.setattr(storage, "_SMALLEST", 1 << 16)
    url = f"{server.url}/file.bin"
    state = state_of(url, QUICK)
    server.requests.clear()
    server.faults = Faults(unavailable=0.1, short=0.1, reset=0.1)
    file = io.BytesIO()
    assert download(url, file, state, QUICK) == 1 << 20
    assert file.getvalue() == (tmp_path / "file.bin").read_bytes()
    gets = [request for request in server.requests if request.method == "GET"]
    faults = sum(request.what != "ok" for request in gets)
    assert faults > 0
    assert len(gets) == 16 + faults


def test_a_block_that_fails_is_asked_for_in_halves_and_grows_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "BLOCK", 1 << 18)
    monkeypatch.setattr(storage, "_SMALLEST", 1 << 10)
    url = f"{server.url}/file.bin"
    file = io.BytesIO()
    state = state_of(url, QUICK)
    asked: list[int] = []
    call_method = storage.call_method
    failures = iter([True, True, True])

    def slow_line(*args: object, timeout: float, **options: int) -> object:
        asked.append(options["end"] - options["start"])
        if next(failures, False):
            raise TimeoutError
        return call_method(*args, timeout=timeout, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(storage, "call_method", slow_line)
    assert download(url, file, state, QUICK) == 1 << 20
    assert asked[:8] == [
        1 << 18,
        1 << 17,
        1 << 16,
        1 << 15,
        1 << 16,
        1 << 17,
        1 << 18,
        1 << 18,
    ]


def test_a_stall_is_given_up_and_asked_for_again(server: Server) -> None:
    patience = Patience(deadline=20, timeout=1)
    url = f"{server.url}/file.bin"
    server.faults = Faults(stall=0.5, stall_seconds=60)
    started = time.monotonic()
    assert len(read_file(url, patience)) == 1 << 20
    for start in range(4):
        assert read_ranges([(url, start, start + 9)], patience)[0] == bytes(
            range(start, start + 9)
        )
    assert server.stalled.is_set()
    assert time.monotonic() - started < 60


def test_a_server_that_ignores_ranges_is_downloaded_from_and_refused_without_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file.bin").write_bytes(bytes(1 << 18))
    monkeypatch.setattr(storage, "BLOCK", 1 << 16)
    with Server(tmp_path, ranges=False) as server:
        url = f"{server.url}/file.bin"
        file = io.BytesIO()
        assert download(url, file, state_of(url, QUICK), QUICK) == 1 << 18
        assert (
            len([request for request in server.requests if request.method == "GET"])
            == 1
        )
        with pytest.raises(
            ShardChangedError, match=r"ignores ranges; set storage\.cache_gib above 0"
        ):
            read_ranges([(url, 0, 10)], QUICK)


def test_a_file_that_ends_early_is_not_taken_for_whole(server: Server) -> None:
    url = f"{server.url}/file.bin"
    with pytest.raises(
        OSError, match=r"file\.bin could not be read .* bytes came where"
    ):
        download(
            url,
            io.BytesIO(),
            FileState((1 << 20) + 5, ""),
            Patience(deadline=1, timeout=1),
        )


def test_neighbouring_ranges_are_one_request_and_only_failed_ones_are_asked_for_again(
    server: Server,
) -> None:
    url = f"{server.url}/file.bin"
    content = read_file(url, QUICK)
    spans = [(900_000, 900_100), (10, 20), (20, 400), (600_000, 600_001), (15, 30)]
    server.requests.clear()
    assert read_ranges([(url, *span) for span in spans], QUICK) == [
        content[start:stop] for start, stop in spans
    ]
    assert len(server.requests) == 3
    server.requests.clear()
    server.faults = Faults(unavailable=0.3, short=0.2)
    for _ in range(10):
        assert read_ranges([(url, *span) for span in spans], QUICK) == [
            content[start:stop] for start, stop in spans
        ]
    assert server.count("ok") == 30


def test_an_unknown_protocol_and_a_missing_package_say_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match="foo://x is not a URL that can be read"):
        storage.filesystem("foo://x")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ImportError, match=r'pip install "unimodal\[s3\]"'):
        storage.filesystem("s3://bucket/x")
