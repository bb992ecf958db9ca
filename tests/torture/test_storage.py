"""Storage that fails, stalls and cuts short: the same order, a named error for what is gone, and no
hang in a day.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Recipe
from tests.torture.conftest import SIZES, Figure, Start, stretched
from tests.torture.nursery import Life
from tests.torture.runs import (
    assert_same_run,
    global_batches,
    named,
    recording,
    steps_file,
    taken,
)
from tests.torture.servers import Faults, Server
from training.config import TrainConfig
from unimodal.shards.read import open_shards
from unimodal.shards.storage import Clock, retry

STEPS = 12
PATTERN = f"{{000000..{len(SIZES) - 1:06}}}.tar"


@pytest.fixture(scope="module")
def served(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the shards of `many` in `images`, each with its index."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(many, folder / "images")
    open_shards(folder / "images")
    return folder


def from_url(recipe: Recipe, path: str, cache: Path, **changes: Any) -> TrainConfig:
    """Images alone, in batches of 48, from wherever the path says."""
    storage = {
        "cache": str(cache),
        "cache_gib": 1,
        "deadline": 60,
        "timeout": 5,
        **changes.pop("storage", {}),
    }
    task = {"global_batch": 48, "sources": {"squares": {"path": path}}}
    return recipe(
        {
            "steps": STEPS,
            "storage": storage,
            "tasks": {"pictures": task, "pairs": None},
            **changes,
        }
    )


@pytest.mark.torture
@pytest.mark.parametrize("cache_gib", [1, 0])
@pytest.mark.parametrize(
    ("faults", "name"),
    [
        (Faults(unavailable=0.1, latency=0.02), "10 % 503"),
        (
            Faults(
                short=0.06,
                fewer=0.06,
                reset=0.06,
                stall=0.02,
                stall_seconds=8,
                latency=0.02,
            ),
            "20 % read faults",
        ),
    ],
)
def test_faults_change_no_batch(
    recipe: Recipe,
    served: Path,
    tmp_path: Path,
    cache_gib: int,
    faults: Faults,
    name: str,
    figure: Figure,
) -> None:
    reference = global_batches(
        from_url(recipe, str(served / "images"), tmp_path), 0, STEPS
    )
    what = f"{name}, {'cache' if cache_gib else 'no disk'}"
    asked = 0
    went_wrong = 0
    started = time.perf_counter()
    for seed in range(
        6 if cache_gib else 2
    ):  # whole shards are few requests: several caches are filled
        with Server(served, faults, seed=seed) as server:
            config = from_url(
                recipe,
                f"{server.url}/images/{PATTERN}",
                tmp_path / f"cache{seed}",
                storage={"cache_gib": cache_gib, "timeout": 2},
            )
            assert global_batches(config, 0, STEPS) == reference
            asked += len(server.requests)
            went_wrong += len(server.requests) - server.count("ok")
    figure(f"{what}: requests", asked, "requests")
    figure(
        f"{what}: of them went wrong, with every batch as from the disk",
        went_wrong,
        "requests",
    )
    figure(f"{what}: it took", time.perf_counter() - started, "s")
    assert went_wrong > asked * 0.05


@pytest.mark.torture
@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_without_indexes_or_ranges_gives_the_same_batches(
    recipe: Recipe, many: Path, tmp_path: Path, ranges: bool
) -> None:
    shutil.copytree(
        many, tmp_path / "bare/images", ignore=shutil.ignore_patterns("*.npz")
    )
    reference = global_batches(from_url(recipe, str(many), tmp_path), 0, STEPS)
    with Server(
        tmp_path / "bare", Faults(short=0.1, latency=0.005), ranges=ranges
    ) as server:
        config = from_url(recipe, f"{server.url}/images/{PATTERN}", tmp_path / "cache")
        assert global_batches(config, 0, STEPS) == reference
        fetched = sum(
            request.sent for request in server.requests if request.method == "GET"
        )
        assert global_batches(config, 0, STEPS) == reference
        assert (
            sum(request.sent for request in server.requests if request.method == "GET")
            == fetched
        ), "not cached"


@pytest.mark.torture
def test_a_run_over_bad_storage_ends_as_one_on_the_disk(
    recipe: Recipe, served: Path, tmp_path: Path, start: Start
) -> None:
    local = named(from_url(recipe, str(served / "images"), tmp_path), "local")
    assert start(local, before=recording(local)).wait(60) == 0
    with Server(
        served, Faults(unavailable=0.1, short=0.05, reset=0.05, latency=0.02)
    ) as server:
        far = named(
            from_url(
                recipe,
                f"{server.url}/images/{PATTERN}",
                tmp_path / "cache",
                workers=2,
            ),
            "far",
        )
        life = start(far, before=recording(far))
        assert life.wait(120) == 0, life.output()
        assert_same_run(Path(far.run), Path(local.run))


@pytest.mark.torture
@pytest.mark.parametrize("cache_gib", [1, 0])
def test_a_missing_shard_is_an_error_that_names_it_within_five_seconds(
    recipe: Recipe,
    served: Path,
    tmp_path: Path,
    start: Start,
    cache_gib: int,
    figure: Figure,
) -> None:
    """Whether it is missing at the start or goes while the run is on."""
    folder = tmp_path / "holed"
    shutil.copytree(served, folder)
    with Server(folder, Faults(latency=0.02)) as server:
        config = from_url(
            recipe,
            f"{server.url}/images/{PATTERN}",
            tmp_path / "cache",
            steps=400,
            storage={"cache_gib": cache_gib, "prefetch": 0},
        )
        run = Path(config.run)
        life = start(config, before=recording(config, slow_steps={"seconds": 0.05}))
        assert life.until(lambda: taken(run) >= 1, 30), life.output()
        for shard in (folder / "images").glob("*.tar"):
            shard.unlink()
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        if (
            cache_gib == 0
        ):  # of a cache the open files stay readable: see the second start
            figure(
                "a shard that goes in mid-run is an error after",
                named_error_after(life),
                "s",
            )
        else:
            life.bury()
        seconds = named_error_after(start(named(config, "anew")))
        figure(
            f"a missing shard is an error after ({'cache' if cache_gib else 'no disk'})",
            seconds,
            "s",
        )
        assert seconds < stretched(5)


def named_error_after(life: Life) -> float:
    """The seconds until a run says in one sentence which shard it cannot read, and ends with status
    1.
    """
    started = time.perf_counter()
    life.until(lambda: "error: " in life.output(), 60)
    seconds = time.perf_counter() - started
    assert life.wait(60) == 1
    assert "/images/00000" in life.output().splitlines()[-1], life.output()
    return seconds


@pytest.mark.torture
def test_a_stop_while_the_storage_stalls(
    recipe: Recipe, served: Path, tmp_path: Path, start: Start, figure: Figure
) -> None:
    local = named(from_url(recipe, str(served / "images"), tmp_path), "local")
    assert start(local, before=recording(local)).wait(60) == 0
    with Server(served, Faults(latency=0.02)) as server:
        url = f"{server.url}/images/{PATTERN}"
        far = named(
            from_url(
                recipe, url, tmp_path / "cache", workers=1, storage={"cache_gib": 0}
            ),
            "far",
        )
        run = Path(far.run)
        life = start(far, before=recording(far))
        assert life.until(lambda: taken(run) >= 1, 30), life.output()
        server.faults = Faults(stall=1.0, stall_seconds=600)
        assert life.until(server.stalled.is_set, 30), life.output()
        before = -1
        while taken(run) != before:  # what was fetched ahead is used up
            before = taken(run)
            time.sleep(1)
        assert before < STEPS
        started = time.perf_counter()
        life.signal(15)
        status = life.wait(60)
        seconds = time.perf_counter() - started
        assert status == 143, life.output()
        figure("SIGTERM while the storage stalls until the exit", seconds, "s")
        assert seconds < stretched(
            2.6
        )  # a step of a tenth, a save of half a second, and two seconds
        server.faults = Faults()
        life = start(far, "--resume", before=recording(far))
        assert life.wait(60) == 0, life.output()
        assert_same_run(run, Path(local.run))
        assert steps_file(run).read_text().count("from") == 2


class Day:
    """A virtual clock, and a storage that in its time is slow, fails, stalls and is gone for a
    while every hour.

    Twice it is gone for longer than anybody waits.
    """

    def __init__(self, seed: int) -> None:
        self.time = 0.0
        self._draw = random.Random(seed)
        lengths = [600.0 if hour in (8, 16) else 5.0 * hour for hour in range(24)]
        self.outages = [
            (hour * 3600.0, hour * 3600.0 + length)
            for hour, length in enumerate(lengths)
        ]

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.time += seconds

    def read(self) -> int:
        """A read that takes its time and may fail in any of the usual ways."""
        self.time += self._draw.uniform(0.01, 0.5)
        if any(begin <= self.time < end for begin, end in self.outages):
            self.time += 30.0  # the time-out of a request
            raise TimeoutError("no answer")
        chance = self._draw.random()
        if chance < 0.1:
            raise OSError("503 Service Unavailable")
        if chance < 0.2:
            raise ConnectionResetError("reset by peer")
        if chance < 0.25:
            self.time += 30.0
            raise TimeoutError("no answer")
        if chance < 0.3:
            raise EOFError("10 of 20 bytes are missing")
        return 1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_day_of_faults_has_no_hang_and_no_error_but_for_what_is_gone_longer_than_the_deadline(
    figure: Figure,
) -> None:
    day = Day(seed=0)
    random.seed(
        0
    )  # of the jitter: by chance the first answer after an outage may come too late
    clock = Clock(now=lambda: day.time, sleep=day.sleep)
    reads = 0
    errors = 0
    longest = 0.0
    while day.time < 24 * 3600:
        began = day.time
        try:
            reads += retry(day.read, "s3://bucket/000000.tar", 300.0, clock)
        except OSError:
            errors += 1
            assert any(
                begin <= began + 30 and began < end - 250
                for begin, end in day.outages
                if end - begin > 300
            )
        longest = max(longest, day.time - began)
    figure("simulated hours of faults", day.time / 3600, "h")
    figure("reads in them that came", reads, "reads")
    figure("errors, all while it was gone for ten minutes", errors, "errors")
    figure("the longest wait (deadline 300 s, requests of 30 s)", longest, "s")
    assert errors >= 2
    assert longest <= 300 + 31


def test_a_storage_that_stays_away_is_a_named_error_at_the_deadline(
    figure: Figure,
) -> None:
    day = Day(seed=0)
    day.outages = [(0.0, 1e9)]
    clock = Clock(now=lambda: day.time, sleep=day.sleep)
    with (
        pytest.warns(UserWarning, match="000000"),
        pytest.raises(OSError, match=r"s3://bucket/000000.tar could not"),
    ):
        retry(day.read, "s3://bucket/000000.tar", 300.0, clock)
    figure(
        "a storage that stays away is an error after (deadline 300 s)", day.time, "s"
    )
    assert 240 < day.time <= 300 + 31


@pytest.fixture
def bucket(served: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An S3 server with the shards in s3://torture/images; the environment that leads to it."""
    pytest.importorskip("s3fs", reason='pip install "unimodal[s3]"')
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "FSSPEC_S3_KEY": "key",
        "FSSPEC_S3_SECRET": "secret",
    }
    client = boto3.client(
        "s3",
        endpoint_url=environment["FSSPEC_S3_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    client.create_bucket(Bucket="torture")
    for file in (served / "images").iterdir():
        client.upload_file(str(file), "torture", f"images/{file.name}")
    yield environment
    server.stop()


@pytest.mark.torture
@pytest.mark.parametrize("cache_gib", [1, 0])
def test_a_run_from_s3_ends_as_one_on_the_disk(
    recipe: Recipe,
    served: Path,
    tmp_path: Path,
    start: Start,
    bucket: dict[str, str],
    cache_gib: int,
    figure: Figure,
) -> None:
    local = named(from_url(recipe, str(served / "images"), tmp_path), "local")
    assert start(local, before=recording(local)).wait(60) == 0
    far = named(
        from_url(
            recipe,
            "s3://torture/images/*.tar",
            tmp_path / "cache",
            workers=2,
            storage={"cache_gib": cache_gib},
        ),
        "far",
    )
    started = time.perf_counter()
    life = start(far, before={"read_environment": {}, **recording(far)}, env=bucket)
    assert life.wait(120) == 0, life.output()
    figure(
        f"run of {STEPS} steps from S3 ({'cache' if cache_gib else 'no disk'})",
        time.perf_counter() - started,
        "s",
    )
    assert_same_run(Path(far.run), Path(local.run))


@pytest.mark.torture
def test_a_machine_that_is_lost_is_replaced_by_one_that_resumes_from_the_mirror(
    recipe: Recipe,
    served: Path,
    tmp_path: Path,
    start: Start,
    bucket: dict[str, str],
    figure: Figure,
) -> None:
    local = named(from_url(recipe, str(served / "images"), tmp_path), "local")
    assert start(local, before=recording(local)).wait(60) == 0
    mirrored = {"steps": STEPS, "save_every": 2, "mirror": "s3://torture/run"}
    lost = named(local, "lost", **mirrored)
    life = start(
        lost,
        before={"read_environment": {}, **recording(lost, slow_steps={"seconds": 0.3})},
        env=bucket,
    )
    assert life.until(lambda: taken(Path(lost.run)) >= 8, 60), life.output()
    life.signal()
    life.wait(10)
    shutil.rmtree(lost.run)
    other = named(local, "other", **mirrored)
    shutil.copy(steps_file(lost.run), steps_file(other.run))
    life = start(
        other,
        "--resume",
        before={"read_environment": {}, **recording(other)},
        env=bucket,
    )
    assert life.wait(60) == 0, life.output()
    first = int(steps_file(other.run).read_text().rpartition("from ")[2].split()[0])
    figure(
        "a machine lost after step 8 went on elsewhere, from the mirror, at step",
        first,
        "",
    )
    assert first >= 4
    assert_same_run(Path(other.run), Path(local.run))
