"""Stopping: heard while data stalls and before the first step, agreed by all ranks, told in the
exit status.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import training.loop
import training.setup
from tests.conftest import Recipe
from tests.ranks import on_two_ranks
from tests.training.runs import assert_same_weights, rows_of
from training.data.dataset import StepDataset
from training.data.feed import Feed
from training.data.loader import LoaderContext, steps_from
from training.loop import Stopped, train
from training.main_rank import on_main, stop_requested
from training.model import make_model
from training.run.checksums import problem_of
from training.run.resume import checkpoints, write_config
from training.run.stopping import StopSignals, stop_signals
from training.step import train_step
from unimodal import distributed

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


def _send(number: int, after: float = 0.0) -> None:
    threading.Timer(after, os.kill, (os.getpid(), number)).start()


@BOTH
def test_a_signal_is_heard_while_the_data_stalls_and_the_step_before_is_saved(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    sent: list[float] = []

    def stalls(*arguments: Any) -> Iterator[Any]:
        steps = steps_from(*arguments)
        yield next(steps)
        yield next(steps)
        sent.append(time.perf_counter() + 0.5)
        _send(number, 0.5)
        time.sleep(60)

    monkeypatch.setattr(training.loop, "steps_from", stalls)
    config = recipe({"steps": 6})
    with pytest.raises(Stopped, match=r"stopped at step 2 of 6;.*--resume") as caught:
        train(config)
    assert (
        time.perf_counter() - sent[0] < 3.5
    )  # a fifth of a second, a save, and the thread that is left behind
    assert caught.value.signal == number
    assert [folder.name for folder in checkpoints(Path(config.run))] == [
        "step-00000002"
    ]
    monkeypatch.undo()
    train(config, resume=True)
    assert [row["step"] for row in rows_of(config.run)] == [1, 2, 3, 4, 5, 6]


@BOTH
def test_before_the_first_step_a_signal_stops_at_once_and_leaves_nothing_to_overwrite(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def loads_for_a_minute(*arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        time.sleep(60)

    config = recipe({"steps": 1})
    with monkeypatch.context() as patched:
        patched.setattr(training.setup, "make_model", loads_for_a_minute)
        with pytest.raises(Stopped, match="stopped before the first step") as caught:
            train(config)
    assert caught.value.signal == number
    train(config)


def test_a_stop_at_step_0_while_the_data_stalls_saves_nothing(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stalls(*arguments: Any) -> Iterator[Any]:
        _send(signal.SIGTERM)
        time.sleep(60)
        yield

    monkeypatch.setattr(training.loop, "steps_from", stalls)
    config = recipe({"steps": 6})
    with pytest.raises(Stopped, match="stopped at step 0 of 6"):
        train(config)
    assert not checkpoints(Path(config.run))


def test_what_goes_wrong_in_the_data_is_raised_where_the_step_is_made(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*arguments: Any) -> Iterator[Any]:
        yield next(steps_from(*arguments))
        raise OSError("shard 7 is gone")

    monkeypatch.setattr(training.loop, "steps_from", breaks)
    with pytest.raises(OSError, match="shard 7 is gone"):
        train(recipe({"steps": 6}))


def test_the_second_signal_does_what_it_always_did() -> None:
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores SIGINT
    try:
        with stop_signals() as signals:
            signals.hold()
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.should_stop()
            assert signals.agree() == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_sigterm_at_once_is_the_same_stop_and_a_later_one_ends_the_process() -> (
    None
):
    """A launcher passes on what the scheduler has sent to every process itself."""
    received = []
    before = signal.signal(
        signal.SIGTERM, lambda number, frame: received.append(number)
    )
    try:
        with stop_signals() as signals:
            signals.hold()
            for _ in range(3):
                signal.raise_signal(signal.SIGTERM)
            assert signals.agree() == signal.SIGTERM
            assert not received
            time.sleep(1.1)
            signal.raise_signal(signal.SIGTERM)
            assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_sigterm_right_behind_the_first_does_not_cut_the_last_save_short(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked_twice(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        _send(signal.SIGTERM, 0.005)
        return train_step(*arguments, **options)

    ended: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    monkeypatch.setattr(training.loop, "train_step", asked_twice)
    try:
        with pytest.raises(Stopped, match="stopped at step 1 of 6"):
            train(recipe({"steps": 6}))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not ended


def _stalls_on_rank_1(rank: int) -> Any:
    """Rank 0 has its batch and gets the signal; rank 1's storage stalls."""
    event = threading.Event()

    def batches() -> Iterator[Any]:
        yield []
        if rank == 1:
            event.wait(60)
        yield []

    feed = Feed(batches())
    signals = StopSignals()
    signals.hold()
    first = feed.next(signals)
    if rank == 0:
        threading.Timer(1.0, signals.receive, (int(signal.SIGTERM),)).start()
    started = time.perf_counter()
    second = feed.next(signals)
    seconds = time.perf_counter() - started
    (after,) = distributed.all_reduce_sum([1.0])  # nobody is left in a reduction
    return first.signal, second.signal, 0.9 < seconds < 3, after


def test_ranks_stop_together_though_one_of_them_waits_for_its_data_and_another_was_asked(
    tmp_path: Path,
) -> None:
    assert on_two_ranks(tmp_path, _stalls_on_rank_1) == dict.fromkeys(
        (0, 1), (0, int(signal.SIGTERM), True, 2.0)
    )


def _asked_on_rank_1_while_rank_0_validates(rank: int) -> Any:
    signals = StopSignals()
    found = []
    signals.hold()

    def validate() -> None:
        started = time.perf_counter()
        while not stop_requested() and time.perf_counter() - started < 30:
            time.sleep(0.05)
        found.append(time.perf_counter() - started < 5)

    if rank == 1:
        signals.receive(int(signal.SIGTERM))
    on_main(validate, 60.0, signals.should_stop)
    return signals.agree(), found


def test_a_signal_that_another_rank_was_sent_cuts_the_validation_of_rank_0_short(
    tmp_path: Path,
) -> None:
    number = int(signal.SIGTERM)
    assert on_two_ranks(tmp_path, _asked_on_rank_1_while_rank_0_validates) == {
        0: (number, [True]),
        1: (number, []),
    }


def _slow_on_rank_1(rank: int) -> Any:
    """Rank 1 waits longer for its data than a rank waits for another one that is gone."""

    def batches() -> Iterator[Any]:
        time.sleep(6.0 * rank)
        yield []

    return Feed(batches()).next(StopSignals()).signal


def test_a_storage_that_stalls_on_one_rank_is_not_taken_for_a_rank_that_is_gone(
    tmp_path: Path,
) -> None:
    assert on_two_ranks(tmp_path, _slow_on_rank_1) == {0: 0, 1: 0}


def test_closing_a_feed_ends_its_own_workers_and_no_other_process(
    recipe: Recipe, world: Path
) -> None:
    config = recipe({"steps": 4})
    model, tokenizer = make_model(config, None)
    dataset = StepDataset(config.plan, config.data_root, model.config, tokenizer, 0)
    context = LoaderContext()
    feed = Feed(steps_from(dataset, 0, 4, 2, context), workers=context.processes)
    with multiprocessing.get_context("forkserver").Pool(
        1
    ) as pool:  # of the caller, born after the feed
        signals = StopSignals()
        signals.hold()
        assert feed.next(signals).batches
        assert len(context.processes) == 2
        feed.close()
        for worker in context.processes:
            worker.join(10)
            assert not worker.is_alive()
        assert pool.apply_async(abs, (-3,)).get(60) == 3


STALLS = """
import sys, time
from training.data.dataset import StepDataset

read = StepDataset.__getitem__
def stall(self, place):
    if place.batch.epoch or place.batch.step > 1:
        print("stalls", flush=True)
        time.sleep(600)
    return read(self, place)
StepDataset.__getitem__ = stall

if __name__ == "__main__":
    from unimodal import cli
    import unimodal.training.loop
    from training.loop import Stopped, train
    unimodal.training.loop.Stopped, unimodal.training.loop.train = Stopped, train
    sys.argv = ["unimodal", "train", sys.argv[1]]
    cli.main()
"""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_with_workers_that_wait_for_a_storage_the_command_ends_in_time_with_128_and_the_signal(
    recipe: Recipe, tmp_path: Path, number: signal.Signals
) -> None:
    config = recipe({"steps": 20, "workers": 2})
    write_config(tmp_path, config)
    (tmp_path / "stalls.py").write_text(STALLS)
    command = [
        sys.executable,
        str(tmp_path / "stalls.py"),
        str(tmp_path / "config.yaml"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    _wait_for(
        lambda: (
            len(rows_of(config.run)) >= 4
            if (Path(config.run) / "metrics.jsonl").is_file()
            else False
        ),
        process,
    )
    time.sleep(0.5)
    started = time.perf_counter()
    os.killpg(
        process.pid, number
    )  # as a terminal or a scheduler does: to every process
    _, said = process.communicate(timeout=60)
    assert time.perf_counter() - started < 15, said
    assert process.returncode == 128 + number
    assert "stopped at step 4 of 20; continue with --resume" in said
    assert [folder.name for folder in checkpoints(Path(config.run))] == [
        "step-00000004"
    ]


def _wait_for(is_true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while not is_true():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.1)


ONE_IS_ASKED = """
import os, signal, sys
import training.loop
from training.config import TrainConfig
from training.loop import Stopped, train
from training.step import train_step
from unimodal import distributed
from unimodal.config import read_config

def step(*arguments, **options):
    if os.environ["RANK"] == "1" and next(count) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
    return train_step(*arguments, **options)

count = iter(range(99))
training.loop.train_step = step
try:
    train(read_config(TrainConfig, sys.argv[1], []))
except Stopped as stopped:
    print(f"rank {os.environ['RANK']}: {stopped} [{stopped.signal}]\\n", end="", flush=True)
"""


def test_two_ranks_with_shards_stop_after_the_step_of_a_signal_and_one_process_resumes(
    recipe: Recipe, tmp_path: Path
) -> None:
    changes = {"precision": "float64", "steps": 5, "save_every": 2, "keep": 9}
    one = recipe({"run": str(tmp_path / "one"), **changes})
    train(one)
    config = recipe({"run": str(tmp_path / "two"), "parallel": "fsdp", **changes})
    write_config(tmp_path, config)
    (tmp_path / "script.py").write_text(ONE_IS_ASKED)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        str(tmp_path / "script.py"),
        str(tmp_path / "config.yaml"),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=True,
    )
    for rank in range(2):
        assert (
            f"rank {rank}: stopped at step 3 of 5; continue with --resume. [15]"
            in ended.stdout
        )
    newest = checkpoints(Path(config.run))[-1]
    assert newest.name == "step-00000003"
    assert not problem_of(newest)
    train(config.model_copy(update={"parallel": "ddp"}), resume=True)
    assert_same_weights(Path(config.run), Path(one.run), exact=False)
