"""Writing beside the training: what is saved is what was there, no step waits for it, and a full
disk ends nothing.
"""

from __future__ import annotations

import resource
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import training.run.saving
from tests.conftest import Recipe
from tests.ranks import on_two_ranks
from tests.training.runs import assert_same_weights, rows_of
from training.loop import Stopped, train
from training.model import make_model
from training.run.checksums import problem_of
from training.run.log import JsonlWriter, MetricsLog, read_rows
from training.run.moments import Moments, read_moments, write_moments
from training.run.resume import RunState, checkpoints
from training.run.saving import Saver, Snapshot
from training.sharding import copy_weights
from unimodal.embedder import load
from unimodal.encoder import Encoder
from unimodal.files import replace_folder
from unimodal.model import DualEncoder, build_model
from unimodal.model_config import ImageTowerConfig, ModelConfig
from unimodal.preprocess.tokenizers import Tokenizer


@contextmanager
def _no_file_over(size: int) -> Iterator[None]:
    """As on a full disk, every write beyond `size` bytes of a file fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def made(recipe: Recipe) -> tuple[DualEncoder, Tokenizer]:
    return make_model(recipe(), None)


def _snapshot(model: DualEncoder, step: int) -> Snapshot:
    moments = Moments(
        {"a/exp_avg": torch.full((2, 3), float(step))}, {"a/exp_avg": [0, 0]}
    )
    return Snapshot(
        model.config, copy_weights(model, {}), moments, RunState(step), "# A card\n"
    )


def _saver(run: Path, tokenizer: Tokenizer, keep: int = 2) -> Saver:
    return Saver(run, tokenizer, keep, "", None, sharded=False)


def _names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


class Gate:
    """Holds the writing thread before it writes the moments, until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_reached = threading.Event()
        self.is_open = threading.Event()

        def wait_and_write(folder: Path, moments: Moments) -> None:
            self.is_reached.set()
            assert self.is_open.wait(30)
            write_moments(folder, moments)

        monkeypatch.setattr(training.run.saving, "write_moments", wait_and_write)


def test_saving_returns_at_once_and_what_the_next_step_changes_is_not_in_the_checkpoint(
    made: tuple[DualEncoder, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = made
    gate = Gate(monkeypatch)
    saver = _saver(tmp_path, tokenizer)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    started = time.perf_counter()
    saver.save(_snapshot(model, 1))
    assert gate.is_reached.wait(5)
    assert time.perf_counter() - started < 2
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert _names(tmp_path) == ["step-00000001.part"]
    gate.is_open.set()
    saver.wait()
    saved = load_file(checkpoints(tmp_path)[0] / "model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in before.items())
    assert not saver.failures()


def test_checkpoints_written_while_steps_go_on_are_those_of_a_run_that_waits(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        recipe({"run": str(tmp_path / name), "save_every": 3, "keep": 9})
        for name in ("waits", "goes_on")
    ]
    save = Saver.save

    def save_and_wait(self: Saver, *arguments: Any, **options: Any) -> None:
        save(self, *arguments, **options)
        self.wait()

    with monkeypatch.context() as patched:
        patched.setattr(Saver, "save", save_and_wait)
        train(runs[0])

    def write_late(folder: Path, moments: Moments) -> None:
        time.sleep(0.3)  # some steps
        write_moments(folder, moments)

    monkeypatch.setattr(training.run.saving, "write_moments", write_late)
    train(runs[1])
    waited, went_on = (checkpoints(Path(run.run)) for run in runs)
    assert [folder.name for folder in went_on] == [
        f"step-{step:08d}" for step in (3, 6, 8)
    ]
    for first, second in zip(waited, went_on, strict=True):
        for read in (
            lambda folder: load_file(folder / "model.safetensors"),
            read_moments,
        ):
            ours = read(first)
            theirs = read(second)
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_last_good_checkpoint_stays_until_the_new_one_has_been_read_back(
    made: tuple[DualEncoder, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = _saver(tmp_path, made[1], keep=1)
    saver.save(_snapshot(made[0], 1))
    saver.wait()

    def replace_and_spoil(part: Path, folder: Path) -> None:
        replace_folder(part, folder)
        (folder / "config.json").write_text("{}")

    with monkeypatch.context() as patched:
        patched.setattr(training.run.saving, "replace_folder", replace_and_spoil)
        saver.save(_snapshot(made[0], 2))
        saver.wait()
    (said,) = saver.failures()
    assert "checkpoint step-00000002 could not be written" in said
    assert "read back" in said
    assert "the newest is step-00000001" in said
    assert _names(tmp_path) == ["step-00000001"]
    saver.save(_snapshot(made[0], 3))
    saver.wait()
    assert _names(tmp_path) == ["step-00000003"]


def test_checkpoints_that_are_broken_do_not_count_as_kept(
    made: tuple[DualEncoder, Tokenizer], tmp_path: Path
) -> None:
    saver = _saver(tmp_path, made[1], keep=9)
    for step in (1, 2, 3):
        saver.save(_snapshot(made[0], step))
        saver.wait()
    (tmp_path / "checkpoints/step-00000002/config.json").write_text("{}")
    later = _saver(tmp_path, made[1], keep=3)
    later.save(_snapshot(made[0], 4))
    later.wait()
    assert _names(tmp_path) == ["step-00000001", "step-00000003", "step-00000004"]
    assert not any(problem_of(folder) for folder in checkpoints(tmp_path))


def test_a_save_that_a_newer_one_replaces_is_given_up_between_two_files(
    made: tuple[DualEncoder, Tokenizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    saver = _saver(tmp_path, made[1])
    saver.save(_snapshot(made[0], 1))
    assert gate.is_reached.wait(5)
    saver.abandon(1)  # the same step: it is what is wanted
    saver.abandon(2)
    gate.is_open.set()
    saver.wait()
    assert _names(tmp_path) == []
    assert not saver.failures()
    saver.save(_snapshot(made[0], 2))
    saver.wait()
    assert _names(tmp_path) == ["step-00000002"]


def test_what_is_no_fault_of_a_disk_is_raised_and_not_taken_for_one(
    made: tuple[DualEncoder, Tokenizer], tmp_path: Path
) -> None:
    saver = _saver(tmp_path, made[1])
    saver.save(
        _snapshot(made[0], 1)._replace(state=RunState(1, log={"sums": object()}))
    )
    saver.wait()
    with pytest.raises(TypeError, match="not JSON serializable"):
        saver.failures()


def test_a_line_that_a_full_disk_cuts_short_is_taken_back_and_written_with_the_next(
    tmp_path: Path,
) -> None:
    lines = JsonlWriter(tmp_path / "metrics.jsonl")
    file = tmp_path / "metrics.jsonl"
    assert not lines.append([{"step": 1}])
    with _no_file_over(file.stat().st_size + 5):
        assert "metrics.jsonl could not be written" in lines.append([{"step": 2}])
    assert file.read_text() == '{"step": 1}\n'
    assert not lines.append([{"step": 3}])
    assert [row["step"] for row in read_rows(file)] == [1, 2, 3]


def _wait_for_the_saver() -> None:
    """Wait until what is being written beside the steps is written or refused, before the disk
    changes.
    """
    for thread in threading.enumerate():
        if thread.name == "saver":
            thread.join(60)
            assert not thread.is_alive()


def _full_between(
    first: int, last: int, size: int
) -> Callable[..., Mapping[str, float]]:
    """A validation after which files may not grow beyond `size`, from one step to another."""
    steps = iter(range(1, 99))
    limits: list[Any] = []

    def score(encoder: Encoder, should_stop: Callable[[], bool]) -> Mapping[str, float]:
        step = next(steps)
        _wait_for_the_saver()
        if step == first:
            limits.append(_no_file_over(size))
            limits[0].__enter__()
        if step == last:
            limits.pop().__exit__(None, None, None)
        return {"some score": float(step)}

    return score


def test_a_disk_that_is_full_for_a_while_costs_checkpoints_and_a_warning_each_and_nothing_else(
    recipe: Recipe, tmp_path: Path
) -> None:
    """Full after step 3 and until after step 5, to the byte: lists and the best model cannot be
    written either.
    """
    changes = {
        "steps": 7,
        "save_every": 2,
        "keep": 9,
        "eval": {"suite": "none", "every": 1, "best": "some score"},
    }
    whole = recipe({"run": str(tmp_path / "whole"), **changes})
    train(whole, evaluate=lambda embedder, should_stop: {"some score": 0.0})
    config = recipe({"run": str(tmp_path / "run"), **changes})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(config, evaluate=_full_between(3, 5, 0))
    messages = [str(warning.message) for warning in caught]
    lost = "checkpoint step-00000004 could not be written"
    assert sum(lost in message for message in messages) == 1
    assert any(
        "metrics.jsonl could not be written ([Errno 27] File too large); its rows are kept"
        in message
        for message in messages
    )
    best = "the best model, of step 4, could not be written"
    assert any(best in message for message in messages)
    assert _names(Path(config.run)) == [
        "step-00000002",
        "step-00000006",
        "step-00000007",
    ]
    assert not list(Path(config.run).rglob("*.part"))
    ours, theirs = (
        [
            {
                name: value
                for name, value in row.items()
                if name not in ("failed_saves", "val/some score")
            }
            for row in rows
        ]
        for rows in (rows_of(config.run), rows_of(whole.run))
    )
    assert ours == theirs
    assert sum(row.get("failed_saves", 0) for row in rows_of(config.run)) == len(
        messages
    )
    assert_same_weights(Path(config.run), Path(whole.run), exact=True)


def test_a_model_that_cannot_be_written_is_an_error_that_names_the_newest_checkpoint(
    recipe: Recipe,
) -> None:
    config = recipe(
        {"steps": 4, "save_every": 2, "eval": {"suite": "none", "every": 1}}
    )
    score = _full_between(3, 99, 20_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.raises(
                OSError,
                match=r"the model could not be written to .*model .*step-00000002",
            ),
            pytest.warns(
                UserWarning, match="checkpoint step-00000004 could not be written"
            ),
        ):
            train(config, evaluate=score)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (Path(config.run) / "model.part").exists()
    assert rows_of(config.run)[-1] == {"step": 4, "failed_saves": 1}
    load(train(config, evaluate=lambda embedder, should_stop: {}, resume=True))


def test_a_stop_on_a_full_disk_says_which_step_is_lost(recipe: Recipe) -> None:
    config = recipe(
        {"steps": 6, "save_every": 2, "eval": {"suite": "none", "every": 1}}
    )

    def score(encoder: Encoder, should_stop: Callable[[], bool]) -> Mapping[str, float]:
        import os
        import signal

        if len(rows_of(config.run)) == 5:  # steps 1 to 3, and two validations
            _wait_for_the_saver()
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
            os.kill(os.getpid(), signal.SIGTERM)
        return {"some score": 0.0}

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with (
            pytest.warns(
                UserWarning,
                match=r"step-00000003 could not be written|metrics.jsonl could not be written",
            ),
            pytest.raises(
                Stopped,
                match=r"at step 3 of 6, which could not be saved \(the newest .* is of 2\)",
            ),
        ):
            train(config, evaluate=score)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _one_rank_is_full(folder: str, rank: int) -> Any:
    """Two ranks with a part each; the second save fails on rank 1 alone, the third is given up on
    both.
    """
    run = Path(folder) / "run"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    torch.manual_seed(0)
    tower = ImageTowerConfig(name="test_vit", kwargs={"depth": 1})
    model = build_model(ModelConfig(embed_dim=8, image=tower))
    saver = Saver(run, None, 9, "", None, sharded=True)
    said = []
    for step in (1, 2, 3, 4):
        part = torch.full((2, 3), 10.0 * step + rank)
        moments = Moments({"a/exp_avg": part}, {"a/exp_avg": [2 * rank, 0]})
        if step == 2 and rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))
        saver.save(
            Snapshot(
                model.config,
                copy_weights(model, {}),
                moments,
                RunState(step),
                "# A card\n",
            )
        )
        if step == 3:
            saver.abandon(4)
        saver.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        said.append(saver.failures())
    return said


def test_a_disk_that_is_full_on_one_rank_costs_a_checkpoint_and_no_rank_waits(
    tmp_path: Path,
) -> None:
    answers = on_two_ranks(tmp_path, partial(_one_rank_is_full, str(tmp_path)))
    assert answers[1] == [[], [], [], []]
    assert [len(said) for said in answers[0]] == [0, 1, 0, 0]
    assert "checkpoint step-00000002 could not be written" in answers[0][1][0]
    assert "rank-00001-of-00002.safetensors" in answers[0][1][0]
    names = _names(tmp_path / "run")
    assert (
        {"step-00000001", "step-00000004"}
        <= set(names)
        <= {"step-00000001", "step-00000003", "step-00000004"}
    )
    for folder in checkpoints(tmp_path / "run"):
        assert not problem_of(folder)
        step = int(folder.name[-1])
        expected = (
            torch.tensor([10.0 * step, 10.0 * step + 1])
            .repeat_interleave(2)[:, None]
            .expand(4, 3)
        )
        assert torch.equal(read_moments(folder)["a/exp_avg"], expected)


def test_of_the_lines_of_metrics_only_validations_are_kept_in_memory(
    recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "lr": 0.1}\n{"step": 1, "val/a task hit": 0.5}\n'
    )
    log = MetricsLog(tmp_path, recipe(), 1, None)
    log.append({"step": 2, "lr": 0.1})
    assert log.validations == [{"step": 1, "val/a task hit": 0.5}]
    assert (log.has_validated(1), log.has_validated(2), log.last_validation()) == (
        True,
        False,
        {"a task hit": 0.5},
    )
