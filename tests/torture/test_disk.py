"""Disks that are full, files that may not grow, bytes that turn over, a small /dev/shm: the run
survives them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Recipe
from tests.torture.conftest import Figure, Start
from tests.torture.runs import (
    assert_same_run,
    assert_same_weights,
    named,
    recording,
    steps_file,
)
from training.config import TrainConfig


@pytest.fixture
def config(recipe: Recipe, many: Path) -> TrainConfig:
    """Thirty steps of a run that saves every second one."""
    source = {"squares": {"path": str(many)}}
    return recipe(
        {"steps": 30, "save_every": 2, "tasks": {"pictures": {"sources": source}}}
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB; a checkpoint is of about half a one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def reference(config: TrainConfig, start: Start) -> Path:
    """The run on a disk with room."""
    own = named(config, "reference")
    life = start(own, before=recording(own))
    assert life.wait(60) == 0, life.output()
    return Path(own.run)


def fill(disk: Path) -> Path:
    """Take all the room that is left, to the last byte; the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return ballast


def failed_saves(run: Path) -> int:
    """The sum of the failed saves of the rows."""
    rows = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    return sum(int(row["failed_saves"]) for row in rows)


@pytest.mark.torture
def test_a_disk_that_is_full_for_a_while_costs_saves_and_nothing_else(
    config: TrainConfig, small_disk: Path, reference: Path, start: Start, figure: Figure
) -> None:
    config = config.model_copy(update={"run": str(small_disk / "run")})
    run = Path(config.run)
    steps = reference.parent / "steps"
    life = start(
        config, before={"record": {"file": str(steps)}, "slow_steps": {"seconds": 0.05}}
    )
    life.until(lambda: len(list((run / "checkpoints").glob("step-????????"))) >= 2, 30)
    ballast = fill(small_disk)
    size = steps.stat().st_size
    life.until(
        lambda: steps.stat().st_size > size + 6 * 30, 30
    )  # six steps and three saves without room
    assert life.status() is None, life.output()
    ballast.unlink()
    assert life.wait(60) == 0, life.output()
    failures = failed_saves(run)
    assert failures >= 2
    assert_same_weights(run, reference)
    figure(
        "saves that a full disk refused, in a run that ended equal to the bit",
        failures,
        "saves",
    )


@pytest.mark.torture
def test_a_run_killed_on_a_full_disk_resumes_from_its_last_good_checkpoint(
    config: TrainConfig, small_disk: Path, reference: Path, start: Start
) -> None:
    config = config.model_copy(update={"run": str(small_disk / "run")})
    run, steps = Path(config.run), steps_file(config.run)
    os.symlink(
        reference.parent / "steps", steps
    )  # the record is not to fail with the disk
    life = start(config, before=recording(config, slow_steps={"seconds": 0.05}))
    life.until(lambda: len(list((run / "checkpoints").glob("step-????????"))) >= 2, 30)
    ballast = fill(small_disk)
    size = steps.stat().st_size
    life.until(lambda: steps.stat().st_size > size + 6 * 30, 30)
    life.signal()
    assert life.wait(10) == -9
    ballast.unlink()
    life = start(config, "--resume", before=recording(config))
    assert life.wait(60) == 0, life.output()
    assert_same_run(run, reference)


@pytest.mark.torture
def test_files_that_may_not_grow_cost_every_save_and_the_end_says_so(
    config: TrainConfig, start: Start, figure: Figure
) -> None:
    life = start(config, before=recording(config, limit_file_size={"size": 30_000}))
    assert life.wait(60) == 1
    run = Path(config.run)
    failures = failed_saves(run)
    assert failures == config.steps // config.save_every
    assert not any((run / "checkpoints").glob("*"))
    assert not (run / "model").exists()
    assert life.output().splitlines()[-1].startswith("error: "), life.output()
    figure("saves that RLIMIT_FSIZE refused, all of them counted", failures, "saves")


@pytest.mark.torture
def test_a_flipped_byte_in_any_file_of_a_checkpoint_costs_that_checkpoint(
    config: TrainConfig, reference: Path, start: Start, figure: Figure
) -> None:
    stopped = named(config, "stopped", keep=3)
    life = start(stopped, before=recording(stopped, slow_steps={"seconds": 0.02}))
    folder = Path(stopped.run) / "checkpoints"
    life.until(lambda: len(list(folder.glob("step-????????"))) >= 3, 30)
    life.signal()
    life.wait(10)
    newest = sorted(folder.glob("step-????????"))[-1]
    files = sorted(
        str(path.relative_to(newest)) for path in newest.rglob("*") if path.is_file()
    )
    draw = np.random.default_rng(0)
    for number, name in enumerate(files):
        broken = named(stopped, f"broken{number}")
        shutil.copytree(stopped.run, broken.run)
        shutil.copy(steps_file(stopped.run), steps_file(broken.run))
        flip(Path(broken.run) / "checkpoints" / newest.name / name, draw)
        life = start(broken, "--resume", before=recording(broken))
        assert life.wait(60) == 0, (name, life.output())
        assert newest.name in life.output(), (name, life.output())
        assert_same_run(Path(broken.run), reference)
    figure(
        "files of a checkpoint with a flipped byte, each noticed and skipped",
        len(files),
        "files",
    )


@pytest.mark.torture
def test_checkpoints_that_are_all_broken_are_an_error_and_no_new_start(
    config: TrainConfig, start: Start
) -> None:
    config = config.model_copy(update={"steps": 4})
    assert start(config).wait(60) == 0
    for weights in (Path(config.run) / "checkpoints").glob("*/model.safetensors"):
        flip(weights, np.random.default_rng(0))
    life = start(config, "--resume")
    assert life.wait(60) == 1
    assert "error: " in life.output()
    assert "step-" in life.output()


def flip(file: Path, draw: np.random.Generator) -> None:
    """Flip one bit of a file."""
    content = bytearray(file.read_bytes())
    content[int(draw.integers(len(content)))] ^= 1 << int(draw.integers(8))
    file.write_bytes(content)


@pytest.mark.torture
def test_a_shared_memory_of_64_mb_is_enough(
    recipe: Recipe, many: Path, start: Start, figure: Figure
) -> None:
    config = large_images(recipe, many, {"steps": 12, "workers": 2})
    started = time.perf_counter()
    life = start(config, before={"small_shared_memory": {"size": 64 << 20}})
    status = life.wait(120)
    if "no /dev/shm of its own" in life.output():
        pytest.skip("mounting is not permitted")
    assert status == 0, life.output()
    figure(
        "run of 12 steps of 256 images of 160 px with 64 MB of /dev/shm",
        time.perf_counter() - started,
        "s",
    )


def large_images(recipe: Recipe, many: Path, changes: dict[str, Any]) -> TrainConfig:
    """Batches of 20 MB: what two workers would fetch ahead does not fit into 64 MB."""
    source = {"squares": {"path": str(many)}}
    return recipe(
        {
            "model": {
                "image": {"kwargs": {"patch_size": 32}},
                "preprocess": {"image_size": 160},
            },
            "tasks": {
                "pictures": {"global_batch": 256, "streams": 8, "sources": source},
                "pairs": None,
            },
            **changes,
        }
    )
