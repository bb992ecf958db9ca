"""Going on: from the newest checkpoint that is still what was written, as if
nothing had happened.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.conftest import Recipe
from tests.ranks import on_two_ranks
from tests.training.runs import assert_same_weights, rows_of, torchrun
from training.config import TrainConfig
from training.loop import Stopped, train
from training.run.checksums import MANIFEST
from training.run.choice import check_shared
from training.run.moments import read_moments
from training.run.resume import (
    check_resumable,
    checkpoints,
    newest_good,
    remove_leftovers,
    write_config,
)
from unimodal.encoder import Encoder


def _flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def _cut(folder: Path) -> None:
    with next((folder / "optimizer").iterdir()).open("r+b") as file:
        file.truncate(100)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (
        _flip,
        r"model.safetensors .*checksum",
    ),
    "cut": (_cut, "optimizer/rank-00000-of-00001.safetensors has 100 bytes"),
    "missing": (
        lambda folder: (folder / "state.json").unlink(),
        "state.json is missing",
    ),
    "unverified": (
        lambda folder: (folder / MANIFEST).unlink(),
        f"it has no {MANIFEST}",
    ),
    "manifest": (
        lambda folder: (folder / MANIFEST).write_text("{"),
        f"its {MANIFEST} is broken",
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where the one run of this module lies, once it is made."""
    return {"folder": tmp_path_factory.mktemp("finished")}


def _run(recipe: Recipe, finished: dict[str, Path], tmp_path: Path) -> Any:
    """A recipe of six steps, saved at 2, 4 and 6, that has run; a copy for each test."""
    changes = {"steps": 6, "save_every": 2, "keep": 9}
    whole = recipe({"run": str(finished["folder"] / "run"), **changes})
    if not Path(whole.run).exists():
        train(whole)
    config = recipe({"run": str(tmp_path / "copy"), **changes})
    shutil.copytree(whole.run, config.run)
    return config


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_whole_checkpoint_is_used_and_each_one_passed_over_is_a_warning(
    recipe: Recipe, finished: dict[str, Path], tmp_path: Path, damage: str
) -> None:
    config = _run(recipe, finished, tmp_path)
    work, message = DAMAGES[damage]
    work(checkpoints(Path(config.run))[-1])
    with pytest.warns(
        UserWarning,
        match=f"step-00000006 .*{message}.*step-00000004",
    ):
        train(config, resume=True)
    assert rows_of(config.run) == rows_of(finished["folder"] / "run")
    assert_same_weights(Path(config.run), finished["folder"] / "run", exact=True)
    assert [newest_good(Path(config.run)), len(checkpoints(Path(config.run)))] == [
        Path(config.run) / "checkpoints/step-00000006",
        3,
    ]


def test_a_run_begun_before_transparency_was_a_choice_is_resumed_as_it_was(
    recipe: Recipe, finished: dict[str, Path], tmp_path: Path
) -> None:
    file = Path(_run(recipe, finished, tmp_path).run) / "config.yaml"
    values = yaml.safe_load(file.read_text())
    assert values["model"]["preprocess"].pop("transparency") == "white"
    file.write_text(yaml.safe_dump(values))
    changes = {"run": str(file.parent), "steps": 6, "save_every": 2, "keep": 9}
    with pytest.raises(
        ValueError,
        match=r'with model\.preprocess\.transparency="drop" and the recipe says "white"',
    ):
        check_resumable(file.parent, recipe(changes))
    check_resumable(
        file.parent,
        recipe({**changes, "model": {"preprocess": {"transparency": "drop"}}}),
    )


def test_a_torn_folder_of_a_killed_run_is_no_checkpoint_and_is_removed(
    recipe: Recipe, finished: dict[str, Path], tmp_path: Path
) -> None:
    config = _run(recipe, finished, tmp_path)
    newest = checkpoints(Path(config.run))[-1]
    newest.rename(newest.with_name(newest.name + ".part"))
    assert newest_good(Path(config.run)) == checkpoints(Path(config.run))[-1] != newest
    train(config, resume=True)
    assert [
        path.name for path in sorted((Path(config.run) / "checkpoints").iterdir())
    ] == ["step-00000002", "step-00000004", "step-00000006"]


def test_where_all_checkpoints_are_broken_nothing_is_started_anew(
    recipe: Recipe, finished: dict[str, Path], tmp_path: Path
) -> None:
    config = _run(recipe, finished, tmp_path)
    for folder in checkpoints(Path(config.run)):
        _flip(folder)
    with pytest.raises(
        ValueError,
        match=r"none of the 3 checkpoint\(s\) .* is whole \(.*step-00000006: model",
    ):
        train(config, resume=True)


def test_a_checkpoint_holds_these_files_and_no_pickle(
    recipe: Recipe, finished: dict[str, Path], tmp_path: Path
) -> None:
    folder = checkpoints(Path(_run(recipe, finished, tmp_path).run))[-1]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    assert [path.relative_to(folder).as_posix() for path in files] == [
        "README.md",
        "checksums.json",
        "config.json",
        "model.safetensors",
        "optimizer/rank-00000-of-00001.safetensors",
        "state.json",
        "tokenizer.json",
    ]
    assert not any(
        path.read_bytes().startswith((b"PK\x03\x04", b"\x80")) for path in files
    )
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    assert set(listed) == {path.relative_to(folder).as_posix() for path in files} - {
        MANIFEST
    }


def _stop(encoder: Encoder, should_stop: Callable[[], bool]) -> Mapping[str, float]:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGTERM)
    return {}


@pytest.mark.parametrize("stopped_at", [2, 4, 7])
def test_every_line_of_metrics_is_equal_with_and_without_a_stop_between_two_lines(
    recipe: Recipe, tmp_path: Path, stopped_at: int
) -> None:
    """Losses, learning rate, gradient norm, samples and counts: averages go on where the checkpoint
    left them.
    """
    whole = recipe({"run": str(tmp_path / "whole"), "steps": 9, "log_every": 3})
    train(whole)
    stopped = recipe({"run": str(tmp_path / "stopped"), "steps": 9, "log_every": 3})
    validating = stopped.model_copy(
        update={"eval": recipe({"eval": {"suite": "none", "every": stopped_at}}).eval}
    )
    with pytest.raises(Stopped, match=f"stopped at step {stopped_at} of 9;.*--resume"):
        train(validating, evaluate=_stop)
    train(stopped, resume=True)
    assert rows_of(stopped.run) == rows_of(whole.run)
    assert [row["step"] for row in rows_of(whole.run)] == [3, 6, 9]


def test_lines_after_the_checkpoint_that_is_gone_on_from_are_written_anew(
    recipe: Recipe, finished: dict[str, Path], tmp_path: Path
) -> None:
    config = _run(recipe, finished, tmp_path)
    shutil.rmtree(
        checkpoints(Path(config.run))[-1]
    )  # as if killed while step 6 was being written
    (Path(config.run) / "skipped.jsonl").write_text('{"step": 3}\n{"step": 5}\n{"st')
    train(config, resume=True)
    assert rows_of(config.run) == rows_of(finished["folder"] / "run")
    assert (Path(config.run) / "skipped.jsonl").read_text() == '{"step": 3}\n'


def test_what_a_run_leaves_that_failed_before_its_first_step_is_in_nobodys_way(
    recipe: Recipe,
) -> None:
    config = recipe({"steps": 1})
    (Path(config.run) / "checkpoints").mkdir(parents=True)
    (Path(config.run) / "metrics.jsonl").touch()
    write_config(Path(config.run), config)
    train(recipe({"steps": 1, "optim": {"lr": 0.5}}))
    with pytest.raises(ValueError, match="exists already"):
        train(config)


def test_resuming_what_is_not_there_says_so_in_one_line_and_starts(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe({"steps": 1})
    train(config, resume=True)
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if "checkpoint" in line]
    assert line.startswith(f"{config.run} has no checkpoint")


def _start_on_its_own_disk(config: TrainConfig, rank: int) -> Any:
    """As on two machines whose folders have one name."""
    return train(config.model_copy(update={"run": f"{config.run}/{rank}"}))


def test_a_run_that_is_not_one_folder_for_all_ranks_is_refused_on_all_of_them(
    recipe: Recipe, tmp_path: Path
) -> None:
    config = recipe({"run": str(tmp_path / "disk")})
    for rank, said in on_two_ranks(
        tmp_path, partial(_start_on_its_own_disk, config)
    ).items():
        assert said == (
            f"ValueError: run {config.run}/{rank} is not the same folder on rank 0 and rank 1; "
            "set run= to a folder that all machines share."
        )
    assert not [path for path in Path(config.run).rglob("*") if path.is_file()]


def _check(run: Path, rank: int) -> Any:
    check_shared(run)
    return "shared"


def test_of_a_folder_that_all_ranks_share_nothing_is_said_and_nothing_is_left_in_it(
    tmp_path: Path,
) -> None:
    assert on_two_ranks(tmp_path, partial(_check, tmp_path / "run")) == {
        0: "shared",
        1: "shared",
    }
    assert not list((tmp_path / "run").iterdir())


def test_a_folder_that_cannot_be_written_into_is_an_error_on_all_ranks(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    found = on_two_ranks(tmp_path, partial(_check, tmp_path / "file" / "run"))
    assert "NotADirectoryError" in found[0]
    assert "rank 0 cannot write into" in found[1]


LEGS = [(1, "ddp"), (2, "fsdp"), (1, "ddp")]
ALL_LEGS = [(4, "fsdp"), (2, "fsdp"), (1, "fsdp"), (1, "ddp"), (2, "fsdp"), (2, "ddp")]


@pytest.mark.parametrize(
    "legs", [LEGS, pytest.param(ALL_LEGS, marks=pytest.mark.slow)], ids=["three", "all"]
)
def test_a_run_in_shards_is_gone_on_with_by_fewer_ranks_by_more_and_with_whole_weights(
    recipe: Recipe, tmp_path: Path, legs: list[tuple[int, str]]
) -> None:
    """Each leg takes one step from the checkpoint of another number of ranks; in all they equal one
    process.
    """
    changes = {"precision": "float64", "steps": len(legs), "save_every": 1, "keep": 9}
    one = recipe({"run": str(tmp_path / "one"), **changes})
    train(one)
    several = recipe({"run": str(tmp_path / "several"), "parallel": "fsdp", **changes})
    for step, (ranks, parallel) in enumerate(legs, 1):
        leg = several.model_copy(update={"parallel": parallel})
        if ranks == 1 and parallel == "ddp":
            train(leg, resume=True)
        else:
            torchrun(leg, ranks, "--resume")
        folders = checkpoints(Path(several.run))
        parts = sorted(
            path.name for path in (folders[step - 1] / "optimizer").iterdir()
        )
        writers = ranks if parallel == "fsdp" else 1
        assert [part.partition("-of-")[0] for part in parts] == [
            f"rank-{rank:05d}" for rank in range(writers)
        ]
        for folder in (
            folders[step:] if step < len(legs) else ()
        ):  # as if it had been stopped there
            shutil.rmtree(folder)
    for ours, theirs in zip(
        checkpoints(Path(several.run)), checkpoints(Path(one.run)), strict=True
    ):
        first, second = (read_moments(folder) for folder in (ours, theirs))
        assert first.keys() == second.keys()
        for name, tensor in first.items():
            torch.testing.assert_close(tensor, second[name], rtol=1e-9, atol=1e-12)
        assert (
            load_file(ours / "model.safetensors").keys()
            == load_file(theirs / "model.safetensors").keys()
        )
    assert_same_weights(Path(several.run), Path(one.run), exact=False)


KILLED = """
import os, signal, sys
import training.run.saving
from training.config import TrainConfig
from training.loop import train
from unimodal.config import read_config

def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)

count = iter(range(9))
write = training.run.saving.write_checksums
def write_or_die(*arguments):
    if next(count) == 1:
        die()
    write(*arguments)
training.run.saving.write_checksums = write_or_die
train(read_config(TrainConfig, sys.argv[1], []))
"""


def test_a_process_killed_while_it_saves_leaves_a_part_and_goes_on_to_the_same_end(
    recipe: Recipe, finished: dict[str, Path], tmp_path: Path
) -> None:
    _run(recipe, finished, tmp_path)
    config = recipe(
        {"run": str(tmp_path / "killed"), "steps": 6, "save_every": 2, "keep": 9}
    )
    write_config(tmp_path, config)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "config.yaml")]
    # One thread, as here: two add up in another order.
    assert (
        subprocess.run(
            command, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
        ).returncode
        == -9
    )
    assert sorted(
        path.name for path in (Path(config.run) / "checkpoints").iterdir()
    ) == ["step-00000002", "step-00000004.part"]
    train(config, resume=True)
    assert not list((Path(config.run) / "checkpoints").glob("*.part"))
    assert rows_of(config.run) == rows_of(finished["folder"] / "run")
    assert_same_weights(Path(config.run), finished["folder"] / "run", exact=True)


def test_a_folder_that_was_moved_aside_is_put_back_unless_its_successor_is_there(
    tmp_path: Path,
) -> None:
    """As after a kill between the two renames by which one model replaces another, and after one
    behind them.
    """
    for name in ("best.old", "best.part", "model", "model.old", "checkpoints"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "of").write_text(name)
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best",
        "checkpoints",
        "model",
    ]
    assert [(tmp_path / name / "of").read_text() for name in ("best", "model")] == [
        "best.old",
        "model",
    ]


def test_a_run_that_starts_anew_does_not_get_back_what_an_earlier_one_had_moved_aside(
    recipe: Recipe,
) -> None:
    config = recipe({"steps": 1})
    (Path(config.run) / "best.old").mkdir(parents=True)
    train(config, overwrite=True)
    assert not list(Path(config.run).glob("best*"))


def test_a_cut_shard_is_listed_once_though_a_run_is_started_again_before_its_first_checkpoint(
    recipe: Recipe, world: Path, tmp_path: Path
) -> None:
    shutil.copytree(world / "shards", tmp_path / "shards")
    file = min((tmp_path / "shards/pictures").glob("*.tar"))
    os.truncate(file, file.stat().st_size // 2)
    for sidecar in (tmp_path / "shards/pictures").glob(f"{file.name}.*"):
        sidecar.unlink()
    config = recipe({"steps": 2, "data_root": str(tmp_path / "shards")})
    with pytest.warns(UserWarning, match="is cut short"):
        train(config)
    shutil.rmtree(Path(config.run) / "checkpoints")
    with pytest.warns(UserWarning, match="is cut short"):
        train(config, resume=True)
    rows = [
        json.loads(line)
        for line in (Path(config.run) / "skipped.jsonl").read_text().splitlines()
    ]
    assert [(row["step"], row["shard"]) for row in rows if not row["step"]] == [
        (0, str(file))
    ]


def test_other_steps_at_a_resume_are_refused_with_the_reason(
    recipe: Recipe, finished: dict[str, Path], tmp_path: Path
) -> None:
    config = _run(recipe, finished, tmp_path)
    longer = config.model_copy(update={"steps": 9})
    with pytest.raises(
        ValueError,
        match=r"steps=6 and the recipe says 9 \(.*learning.rate.*\)",
    ):
        train(longer, resume=True)
