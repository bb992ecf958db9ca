"""The copy elsewhere: complete or not there, pruned, gone on from by another machine, and never a
reason to stop.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.exceptions import FSTimeoutError

import training.run.mirror
import training.run.uploads
from tests.conftest import Recipe
from tests.training.runs import assert_same_weights, rows_of
from training.config import EvalConfig, TrainConfig
from training.loop import Stopped, train
from training.run.checksums import MANIFEST
from training.run.mirror import MirrorPatience, fetch, has_checkpoints, upload
from training.run.moments import Moments
from training.run.resume import LISTS, RunState, checkpoints
from training.run.saving import Saver, Snapshot
from training.run.uploads import Abandoned
from training.sharding import copy_weights
from unimodal.encoder import Encoder
from unimodal.model import build_model
from unimodal.model_config import ImageTowerConfig, ModelConfig
from unimodal.shards.storage import Clock

CHECKPOINT = [
    "README.md",
    "checksums.json",
    "config.json",
    "model.safetensors",
    "optimizer/rank-00000-of-00001.safetensors",
    "state.json",
    "tokenizer.json",
]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of an S3 server on this machine, for this module's processes."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "FSSPEC_S3_ENDPOINT_URL": f"http://{host}:{port}",
        "FSSPEC_S3_KEY": "key",
        "FSSPEC_S3_SECRET": "secret",
    }
    os.environ.update(options)
    fsspec.config.set_conf_env(fsspec.config.conf)
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket"
    server.stop()
    for name in options:
        del os.environ[name]
    fsspec.config.conf.pop("s3", None)


@pytest.fixture(params=["memory", "file", "s3"])
def mirror(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place of each kind."""
    name = tmp_path.name
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/{name}"
    return (
        f"memory://{name}"
        if request.param == "memory"
        else f"file://{tmp_path}/elsewhere"
    )


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps so slow that every checkpoint is copied before the next one is there."""
    save = Saver.save

    def wait_and_save(self: Saver, snapshot: Snapshot) -> None:
        assert self._uploads is None or self._uploads.wait(30)
        save(self, snapshot)

    monkeypatch.setattr(Saver, "save", wait_and_save)


def _files(mirror: str) -> list[str]:
    fs, root = fsspec.core.url_to_fs(mirror)
    fs.invalidate_cache()
    return sorted(path.removeprefix(root).lstrip("/") for path in fs.find(root))


def _spoil(mirror: str, name: str) -> None:
    fs, root = fsspec.core.url_to_fs(mirror)
    fs.pipe_file(f"{root}/{name}", b"0" * fs.info(f"{root}/{name}")["size"])
    fs.invalidate_cache()


@pytest.mark.usefixtures("paced")
def test_another_machine_goes_on_from_the_newest_whole_checkpoint_there_to_the_same_end(
    recipe: Recipe, tmp_path: Path, mirror: str
) -> None:
    changes = {"steps": 6, "save_every": 2, "keep": 2}
    whole = recipe({"run": str(tmp_path / "whole"), **changes})
    train(whole)
    first = recipe({"run": str(tmp_path / "first"), "mirror": mirror, **changes})
    train(first)
    beside = [name for name in LISTS if (Path(first.run) / name).is_file()]
    assert {"config.yaml", "metrics.jsonl"} <= set(beside)
    assert _files(mirror) == sorted(
        [
            *beside,
            *(f"step-0000000{step}/{name}" for step in (4, 6) for name in CHECKPOINT),
        ]
    )
    _spoil(mirror, "step-00000006/model.safetensors")
    second = first.model_copy(update={"run": str(tmp_path / "second")})
    with pytest.warns(
        UserWarning,
        match=r"step-00000006 .*model.safetensors",
    ):
        train(second, resume=True)
    assert rows_of(second.run) == rows_of(whole.run)
    assert_same_weights(Path(second.run), Path(whole.run), exact=True)
    assert [folder.name for folder in checkpoints(Path(second.run))] == [
        "step-00000004",
        "step-00000006",
    ]
    shutil.rmtree(second.run)
    assert (
        fetch(mirror, Path(second.run), second)
        == Path(second.run) / "checkpoints/step-00000006"
    )  # it is whole again


@pytest.mark.usefixtures("paced")
def test_one_without_its_manifest_is_not_complete_and_where_all_are_broken_nothing_is_started_anew(
    recipe: Recipe, tmp_path: Path
) -> None:
    mirror = f"memory://{tmp_path.name}"
    config = recipe({"steps": 2, "save_every": 1, "mirror": mirror})
    train(config)
    fs, root = fsspec.core.url_to_fs(mirror)
    fs.rm(f"{root}/step-00000002/{MANIFEST}")
    folder = fetch(mirror, tmp_path / "other", config)
    assert folder is not None
    assert folder.name == "step-00000001"
    _spoil(mirror, "step-00000001/config.json")
    elsewhere = config.model_copy(update={"run": str(tmp_path / "third")})
    with (
        pytest.warns(UserWarning, match="step-00000001 .*config.json"),
        pytest.raises(
            ValueError, match=r"checkpoints in memory://.* broken.*--overwrite"
        ),
    ):
        train(elsewhere, resume=True)


@pytest.mark.usefixtures("paced")
def test_a_run_whose_own_checkpoints_are_all_broken_goes_on_from_the_mirror(
    recipe: Recipe, tmp_path: Path
) -> None:
    config = recipe(
        {"steps": 2, "save_every": 1, "mirror": f"memory://{tmp_path.name}"}
    )
    model = train(config)
    before = (model / "model.safetensors").read_bytes()
    for folder in checkpoints(Path(config.run)):
        (folder / "config.json").unlink()
    assert (train(config, resume=True) / "model.safetensors").read_bytes() == before


def test_a_mirror_that_holds_a_run_is_refused_unless_that_is_to_be_lost(
    recipe: Recipe, tmp_path: Path
) -> None:
    mirror = f"memory://{tmp_path.name}"
    train(recipe({"run": str(tmp_path / "one"), "steps": 4, "mirror": mirror}))
    other = recipe({"run": str(tmp_path / "two"), "steps": 2, "mirror": mirror})
    with pytest.raises(
        ValueError,
        match=r"memory://.* holds a run.*--resume.*--overwrite",
    ):
        train(other)
    train(other, overwrite=True)
    assert {name.partition("/")[0] for name in _files(mirror)} - set(LISTS) == {
        "step-00000002"
    }


@pytest.mark.usefixtures("paced")
@pytest.mark.parametrize(
    "mirror",
    [
        "file://{folder}/file/run",
        pytest.param("s3://nowhere/run", marks=pytest.mark.slow),
    ],
)
def test_a_mirror_that_cannot_be_reached_is_a_warning_and_a_count_and_training_goes_on(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: str
) -> None:
    """A file that stands where a folder is wanted; a port where nobody listens."""
    (tmp_path / "file").touch()
    mirror = mirror.format(folder=tmp_path)
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("FSSPEC_S3_KEY", "key")
    monkeypatch.setenv("FSSPEC_S3_SECRET", "secret")
    monkeypatch.setattr(training.run.mirror, "_DEADLINE", 0.5)
    monkeypatch.setattr(training.run.uploads, "MIRROR_DEADLINE", 0.5)
    fsspec.config.set_conf_env(fsspec.config.conf)
    config = recipe({"steps": 3, "save_every": 1, "mirror": mirror})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(config)
    messages = [str(warning.message) for warning in caught]
    assert any(
        f"mirror {mirror} cannot be reached" in message
        and "starts without it" in message
        for message in messages
    )
    lost = [
        message for message in messages if f"could not be copied to {mirror}" in message
    ]
    assert len(lost) == 3
    assert sum(row["failed_saves"] for row in rows_of(config.run)) == 3
    assert [folder.name for folder in checkpoints(Path(config.run))] == [
        "step-00000002",
        "step-00000003",
    ]
    other = config.model_copy(update={"run": config.run + "2"})
    with pytest.raises(OSError, match=mirror):  # not silently from the first step
        train(other, resume=True)


def test_what_is_uploaded_again_loses_its_manifest_first(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = f"memory://{tmp_path.name}"
    config = recipe({"steps": 1, "mirror": mirror})
    train(config)
    assert has_checkpoints(mirror)

    def give_up(failure: Exception | None) -> None:
        if not has_checkpoints(mirror):
            raise Abandoned

    with pytest.raises(Abandoned):
        upload(
            checkpoints(Path(config.run))[0],
            Path(config.run),
            mirror,
            2,
            give_up,
            MirrorPatience(1.0, Clock()),
        )


@pytest.mark.parametrize("stopped_at", [2, 3])
def test_a_stop_waits_no_longer_for_a_mirror_that_does_not_answer(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    """While step 2 is being copied: after it, whose copy gets no more time, and after another,
    which is saved then.
    """

    def refuse(*arguments: object) -> None:
        is_tried.set()
        raise OSError("503")

    def score(encoder: Encoder, should_stop: Callable[[], bool]) -> Mapping[str, float]:
        assert is_tried.wait(30)
        started.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    started: list[float] = []
    is_tried = threading.Event()
    monkeypatch.setattr(training.run.mirror, "_put", refuse)
    monkeypatch.setattr(training.run.uploads, "LAST_MIRROR_DEADLINE", 0.3)
    config = recipe(
        {
            "steps": 8,
            "save_every": 2,
            "mirror": f"memory://{tmp_path.name}",
            "eval": {"suite": "none", "every": stopped_at},
        }
    )
    with (
        pytest.warns(
            UserWarning, match=f"step-0000000{stopped_at} could not be copied to memory"
        ),
        pytest.raises(Stopped, match=f"stopped at step {stopped_at} of 8;.*--resume"),
    ):
        train(config, evaluate=score)
    assert time.perf_counter() - started[0] < 5
    assert checkpoints(Path(config.run))[-1].name == f"step-0000000{stopped_at}"


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped"])
def test_a_manifest_that_names_a_file_outside_is_not_followed(
    recipe: Recipe, tmp_path: Path, name: str
) -> None:
    mirror = f"memory://{tmp_path.name}{len(name)}"
    config = recipe({"steps": 1, "mirror": mirror})
    train(config)
    fs, root = fsspec.core.url_to_fs(mirror)
    fs.pipe_file(
        f"{root}/step-00000001/{MANIFEST}",
        b'{"files": {"%b": {"size": 1, "sha256": ""}}}' % name.encode(),
    )
    with (
        pytest.warns(UserWarning, match="names '.*escaped', which is outside"),
        pytest.raises(ValueError, match=r"checkpoints.*broken"),
    ):
        fetch(mirror, tmp_path / "other", config)


def _train_until(config: TrainConfig, step: int, resume: bool = False) -> None:
    """Train, and stop as after a signal once the checkpoint of a step is there."""

    def score(encoder: Encoder, should_stop: Callable[[], bool]) -> Mapping[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    ends = config.model_copy(update={"eval": EvalConfig(suite="none", every=step)})
    with pytest.raises(Stopped, match=f"stopped at step {step} of"):
        train(ends, evaluate=score, resume=resume)


def _steps(mirror: str) -> list[int]:
    return sorted(int(name[5:13]) for name in _files(mirror) if name.endswith(MANIFEST))


@pytest.mark.usefixtures("paced")
def test_a_machine_that_comes_back_resumes_from_another_one_and_removes_nothing_of_it(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = f"memory://{tmp_path.name}"
    first = recipe(
        {
            "run": str(tmp_path / "first"),
            "steps": 8,
            "save_every": 1,
            "keep": 2,
            "mirror": mirror,
        }
    )
    second = first.model_copy(update={"run": str(tmp_path / "second")})
    _train_until(first, 2)
    _train_until(second, 6, resume=True)
    assert _steps(mirror) == [5, 6]
    capsys.readouterr()
    _train_until(first, 7, resume=True)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if mirror in line]
    assert f"{mirror} has step-00000006" in said
    assert f"step-00000002 of {first.run}" in said
    assert _steps(mirror) == [6, 7]
    whole = first.model_copy(update={"run": str(tmp_path / "whole"), "mirror": ""})
    _train_until(whole, 7)
    assert rows_of(first.run) == rows_of(whole.run)


@pytest.mark.usefixtures("paced")
def test_a_later_checkpoint_in_the_mirror_outlives_the_upload_of_an_earlier_one(
    recipe: Recipe, tmp_path: Path
) -> None:
    mirror = f"memory://{tmp_path.name}"
    config = recipe({"steps": 3, "save_every": 1, "keep": 3, "mirror": mirror})
    train(config)
    for folder in checkpoints(Path(config.run))[:2]:
        upload(
            folder,
            Path(config.run),
            mirror,
            1,
            lambda failure: None,
            MirrorPatience(1.0, Clock()),
        )
    assert _steps(mirror) == [2, 3]


@pytest.mark.filterwarnings("ignore:checkpoint step-00000003 could not be copied")
def test_with_a_checkpoint_of_its_own_a_run_goes_on_without_a_mirror_that_cannot_be_reached(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(training.run.mirror, "_DEADLINE", 0.5)
    config = recipe({"steps": 3, "save_every": 2})
    _train_until(config, 2)
    lost = config.model_copy(update={"mirror": f"file://{tmp_path}/file/run"})
    with pytest.warns(
        UserWarning,
        match=r"file/run cannot be reached .*step-00000002 of ",
    ):
        train(lost, resume=True)
    assert [row["step"] for row in rows_of(config.run)][:3] == [1, 2, 3]


def test_a_mirror_of_another_run_is_refused_before_it_overwrites_anything(
    recipe: Recipe, tmp_path: Path
) -> None:
    mirror = f"memory://{tmp_path.name}"
    train(
        recipe(
            {
                "run": str(tmp_path / "other"),
                "steps": 4,
                "optim": {"lr": 0.5},
                "mirror": mirror,
            }
        )
    )
    config = recipe({"steps": 4})
    _train_until(config, 2)
    before = {
        name: (Path(config.run) / name).read_bytes()
        for name in ("config.yaml", "metrics.jsonl")
    }
    with pytest.raises(
        ValueError,
        match=rf"{mirror} was started with .*lr=0\.5 and the recipe says 0\.001",
    ):
        train(config.model_copy(update={"mirror": mirror}), resume=True)
    assert before == {name: (Path(config.run) / name).read_bytes() for name in before}
    assert [folder.name for folder in checkpoints(Path(config.run))] == [
        "step-00000002"
    ]


class Puts:
    """Stands before what sends a file to a mirror: notes the step, and waits or fails where a test
    wants it to.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, failing: int = -1, held: int = -1
    ) -> None:
        self.is_held = threading.Event()
        self.is_open = threading.Event()
        self.tried: list[int] = []
        put = training.run.mirror._put

        def wait_and_put(
            fs: fsspec.AbstractFileSystem, file: Path, remote: str
        ) -> None:
            step = int(remote.rpartition("step-")[2][:8]) if "step-" in remote else 0
            self.tried.append(step)
            if step == failing:
                raise OSError("503")
            if step == held:
                self.is_held.set()
                self.is_open.wait(30)
            put(fs, file, remote)

        monkeypatch.setattr(training.run.mirror, "_put", wait_and_put)


def _saver(run: Path, mirror: str, keep: int = 9) -> Saver:
    return Saver(run, None, keep, mirror, None, sharded=False)


def _save(saver: Saver, step: int) -> float:
    """Save a small model and wait for it; returns the seconds."""
    tower = ImageTowerConfig(name="test_vit", kwargs={"depth": 1})
    model = build_model(ModelConfig(embed_dim=8, image=tower))
    moments = Moments(
        {"a/exp_avg": torch.full((2, 3), float(step))}, {"a/exp_avg": [0, 0]}
    )
    snapshot = Snapshot(
        model.config, copy_weights(model, {}), moments, RunState(step), "# A card\n"
    )
    started = time.perf_counter()
    saver.wait()
    saver.save(snapshot)
    saver.wait()
    return time.perf_counter() - started


def test_a_mirror_that_is_silent_holds_up_neither_saves_nor_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts = Puts(monkeypatch, held=1)
    mirror = f"memory://{tmp_path.name}"
    monkeypatch.setattr(training.run.uploads, "LAST_MIRROR_DEADLINE", 0.5)
    saver = _saver(tmp_path, mirror)
    assert _save(saver, 1) < 3
    assert puts.is_held.wait(5)
    assert _save(saver, 2) < 3
    started = time.perf_counter()
    saver.abandon(2)
    saver.close()
    assert time.perf_counter() - started < 3
    failures = saver.failures()
    assert sorted(failure.split()[1] for failure in failures) == [
        "step-00000001",
        "step-00000002",
    ]
    assert all(f"could not be copied to {mirror}" in failure for failure in failures)
    puts.is_open.set()


def test_a_copy_that_fails_is_given_up_once_a_newer_checkpoint_is_there_and_never_taken_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts = Puts(monkeypatch, failing=1)
    mirror = f"memory://{tmp_path.name}"
    saver = _saver(tmp_path, mirror)
    _save(saver, 1)
    _save(saver, 2)
    saver.close()
    assert _steps(mirror) == [2]
    assert puts.tried[puts.tried.index(2) :].count(1) == 0
    (said,) = saver.failures()
    assert (
        f"checkpoint step-00000001 could not be copied to {mirror} (a newer one is "
        "there; the last try: " in said
    )
    assert "503" in said


def test_a_copy_that_is_slow_is_finished_and_the_newest_is_next_and_none_is_removed_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts = Puts(monkeypatch, held=1)
    mirror = f"memory://{tmp_path.name}"
    saver = _saver(tmp_path, mirror, keep=1)
    for step in (1, 2, 3):
        _save(saver, step)
        assert puts.is_held.wait(5)
    assert [folder.name for folder in checkpoints(tmp_path)] == [
        "step-00000001",
        "step-00000003",
    ]
    threading.Timer(0.5, puts.is_open.set).start()
    saver.close()
    assert sorted(set(puts.tried) - {0}) == [1, 3]
    assert _steps(mirror) == [3]
    assert not saver.failures()
    assert [folder.name for folder in checkpoints(tmp_path)] == ["step-00000003"]


def test_at_the_end_of_a_run_the_copy_of_its_last_checkpoint_is_waited_for(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts = Puts(monkeypatch, held=2)
    mirror = f"memory://{tmp_path.name}"

    def open_late() -> None:
        puts.is_held.wait(60)
        time.sleep(1.5)
        puts.is_open.set()

    threading.Thread(target=open_late, daemon=True).start()
    train(recipe({"steps": 2, "save_every": 1, "mirror": mirror}))
    assert _steps(mirror)[-1] == 2


def test_a_request_that_is_never_answered_is_given_up_by_its_own_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "state.json").write_text("{}")
    monkeypatch.setattr(training.run.mirror, "_TIMEOUT", 0.5)
    monkeypatch.setattr(training.run.mirror, "_DEADLINE", 0.5)
    monkeypatch.setenv("FSSPEC_S3_KEY", "key")
    monkeypatch.setenv("FSSPEC_S3_SECRET", "secret")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(
            "FSSPEC_S3_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        fsspec.config.set_conf_env(fsspec.config.conf)
        fs, root = fsspec.core.url_to_fs("s3://silent/run")
        started = time.perf_counter()
        with pytest.raises(FSTimeoutError):
            training.run.mirror._put(
                fs, tmp_path / "state.json", f"{root}/step-00000001/state.json"
            )
        with pytest.raises(
            OSError, match="s3://silent/run could not be read in 1 tries"
        ):
            has_checkpoints("s3://silent/run")
        assert time.perf_counter() - started < 5
    fsspec.config.conf.pop("s3", None)
