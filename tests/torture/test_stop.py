"""SIGTERM at any time: a checkpoint, exit status 143 within a step, a save and two seconds, and the
same end later.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Recipe
from tests.torture.conftest import Figure, Start, stretched
from tests.torture.nursery import Life
from tests.torture.runs import assert_same_run, named, recording, taken
from training.config import TrainConfig

SLACK = 2.0  # seconds beside one step and one save
SAVE = 0.5  # seconds that a save of this model takes on a slow disk


@pytest.fixture
def config(recipe: Recipe, many: Path, world: Path, tmp_path: Path) -> TrainConfig:
    """Twenty steps, with a validation of four tasks every tenth."""
    source = {"squares": {"path": str(many)}}
    task = {
        "kind": "text-retrieval",
        "rows": {"input": "pairs.jsonl"},
        "query": "query",
        "document": "document",
    }
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        yaml.safe_dump({"tasks": {f"task{number}": task for number in range(4)}}),
        encoding="utf-8",
    )
    validation = {"suite": str(suite), "every": 10, "data_root": str(world)}
    return recipe(
        {"steps": 20, "eval": validation, "tasks": {"pictures": {"sources": source}}}
    )


@pytest.fixture
def reference(config: TrainConfig, start: Start) -> Path:
    """The run that nobody stops."""
    own = named(config, "reference")
    life = start(own, before=recording(own))
    assert life.wait(60) == 0, life.output()
    return Path(own.run)


def stop_when(
    life: Life,
    moment: Callable[[], bool],
    number: int = signal.SIGTERM,
    send: Callable[[int], None] | None = None,
) -> float:
    """Send a signal as soon as the moment has come; the seconds until the process is gone."""
    assert life.until(moment, 60), life.output()
    (send or life.signal)(number)
    started = time.perf_counter()
    status = life.wait(60)
    seconds = time.perf_counter() - started
    assert status == 128 + number, (status, life.output())
    return seconds


@pytest.mark.torture
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_a_step(
    config: TrainConfig, reference: Path, start: Start, figure: Figure, number: int
) -> None:
    config = named(config, "run", workers=2)
    run = Path(config.run)
    life = start(config, before=recording(config, slow_steps={"seconds": 0.5}))
    seconds = stop_when(life, lambda: taken(run) >= 3, number)
    figure(
        f"{signal.Signals(number).name} in a step of 0.5 s until the exit", seconds, "s"
    )
    assert seconds < stretched(0.5 + SAVE + SLACK)
    assert_goes_on(config, reference, start)


@pytest.mark.torture
def test_in_a_validation(
    config: TrainConfig, reference: Path, start: Start, figure: Figure
) -> None:
    config = named(config, "run")
    run = Path(config.run)
    life = start(config, before=recording(config, slow_validation={"seconds": 1.0}))
    life.until(lambda: taken(run) >= 10, 60)
    begun = time.monotonic()
    seconds = stop_when(life, lambda: time.monotonic() > begun + 0.5)
    figure("SIGTERM in a validation (tasks of 1 s) until the exit", seconds, "s")
    assert seconds < stretched(1.0 + SAVE + SLACK)
    assert_goes_on(config, reference, start)


@pytest.mark.torture
def test_before_the_first_step(
    config: TrainConfig, reference: Path, start: Start, figure: Figure
) -> None:
    config = named(config, "run")
    life = start(config, before=recording(config, slow_start={"seconds": 8.0}))
    begun = time.monotonic()
    seconds = stop_when(life, lambda: time.monotonic() > begun + 1)
    figure(
        "SIGTERM in the warm-up, while a model is made for 8 s, until the exit",
        seconds,
        "s",
    )
    assert seconds < stretched(SLACK)
    assert_goes_on(config, reference, start)


@pytest.mark.torture
def test_a_group_that_is_told_with_its_workers(
    config: TrainConfig, reference: Path, start: Start, figure: Figure
) -> None:
    config = named(config, "run", workers=2)
    run = Path(config.run)
    life = start(config, before=recording(config, slow_steps={"seconds": 0.2}))
    assert life.until(lambda: taken(run) >= 3, 60), life.output()
    seconds = stop_when(life, lambda: True, send=life.signal_all)
    figure("SIGTERM to a run and all its processes until the exit", seconds, "s")
    assert seconds < stretched(0.2 + SAVE + SLACK)
    assert_goes_on(config, reference, start)


def assert_goes_on(
    config: TrainConfig, reference: Path, start: Start, **options: Any
) -> None:
    """The run, gone on with, ends as the reference; a stop in the warm-up has left nothing in the
    way.
    """
    life = start(config, "--resume", before=recording(config), **options)
    assert life.wait(60) == 0, life.output()
    assert_same_run(Path(config.run), reference)
