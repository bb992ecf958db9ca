"""kill -9 at any moment, a flipped bit, a dead worker: a resumed run ends as one without faults."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Recipe
from tests.torture.conftest import Figure, Start, stretched
from tests.torture.nursery import Life, parent_of
from tests.torture.runs import assert_same_run, named, recording, steps_file
from training.config import TrainConfig

KILLS = 100
# Of a hundred: in the middle of a checkpoint's writing, at any moment, at any moment with loader
# workers, and workers.
KINDS = ["save"] * 34 + ["any"] * 54 + ["any, workers"] * 5 + ["worker"] * 7


@pytest.fixture
def config(recipe: Recipe, many: Path) -> TrainConfig:
    """Sixty steps of a run that saves every third one."""
    source = {"squares": {"path": str(many)}}
    return recipe(
        {"steps": 60, "save_every": 3, "tasks": {"pictures": {"sources": source}}}
    )


def finish(start: Start, config: TrainConfig, *words: str, **options: Any) -> Path:
    """Run to the end without a fault; returns the folder."""
    life = start(config, *words, before=recording(config, **options))
    assert life.wait(120) == 0, life.output()
    return Path(config.run)


@pytest.mark.torture
@pytest.mark.timeout(900)
def test_a_hundred_kills_lose_no_sample_and_change_no_bit(
    config: TrainConfig, start: Start, figure: Figure
) -> None:
    reference = finish(start, named(config, "reference"))
    draw = random.Random(0)
    kinds = draw.sample(KINDS, KILLS)
    count: Counter[str] = Counter()
    slowest = 0.0
    started = time.perf_counter()
    while kinds:
        run = Path(config.run).with_name(f"run{count['runs']}")
        ended = False
        while not ended:
            kind = kinds[0] if kinds else "none"
            current = named(config, run.name, workers=2 if "worker" in kind else 0)
            life = start(current, "--resume", before=recording(current))
            if kind == "worker":
                seconds = kill_a_worker(life, steps_file(run), draw)
                slowest = max(slowest, seconds)
                killed = seconds > 0
            else:
                killed = kill_at_a_moment(kind, life, run, draw)
                count["torn"] += killed and any((run / "checkpoints").glob("*.part"))
            # a life that ended first leaves its kill to the next one
            kinds = kinds[killed:]
            ended = life.wait(120) == 0
            assert (
                ended
                or life.status() == -9
                or (kind == "worker" and "worker" in life.output())
            ), life.output()
        history = assert_same_run(run, reference)
        count.update(runs=1, taken=history.taken, differing=history.differing)
    steps = count["runs"] * config.steps
    figure("kills dealt with SIGKILL", KILLS, "kills")
    figure("of them with a checkpoint half written", count["torn"], "kills")
    figure(
        "runs that were finished in spite of them, each equal to the bit",
        count["runs"],
        "runs",
    )
    figure("steps compared with the undisturbed run", steps, "steps")
    figure(
        "of them with samples lost, repeated or otherwise augmented",
        count["differing"],
        "steps",
    )
    figure("steps computed again", count["taken"] - steps, "steps")
    figure("longest time until a run noticed its dead worker", slowest, "s")
    figure("kills and resumes took", time.perf_counter() - started, "s")
    assert count["torn"] >= KILLS // 6


def kill_at_a_moment(kind: str, life: Life, run: Path, draw: random.Random) -> bool:
    """Kill the life at a moment of this kind; returns False if it ended first."""
    if kind == "none":
        return False
    if kind == "save":
        life.until(lambda: any((run / "checkpoints").glob("*.part")), 60)
        time.sleep(draw.uniform(0, 0.01))
    else:
        if draw.random() < 0.7:  # else during its start
            size = steps_file(run).stat().st_size if steps_file(run).exists() else 0
            life.until(
                lambda: (
                    steps_file(run).exists() and steps_file(run).stat().st_size > size
                ),
                60,
            )
        time.sleep(draw.uniform(0, 0.8))
    if life.status() is not None:
        return False
    life.signal()
    return True


def kill_a_worker(life: Life, steps: Path, draw: random.Random) -> float:
    """Kill a loader worker after some steps; the seconds until the run ends, or 0."""
    size = steps.stat().st_size if steps.exists() else 0
    life.until(lambda: steps.exists() and steps.stat().st_size > size + 60, 60)
    workers = workers_of(life)
    if life.status() is not None or not workers:
        return 0.0
    os.kill(draw.choice(workers), 9)
    started = time.perf_counter()
    life.wait(60)
    return time.perf_counter() - started


def workers_of(life: Life) -> list[int]:
    """Its loader processes: the children of its fork server."""
    descendants = life.descendants()
    return [pid for pid in descendants if parent_of(pid) in descendants]


@pytest.mark.torture
def test_a_killed_worker_ends_the_run_with_an_error_that_names_it_within_ten_seconds(
    config: TrainConfig, start: Start, figure: Figure
) -> None:
    config = named(config, "run", workers=2, steps=2000)
    life = start(config, before=recording(config, slow_steps={"seconds": 0.02}))
    seconds = kill_a_worker(life, steps_file(config.run), random.Random(0))
    assert 0 < seconds < stretched(10)
    assert life.status() == 1
    assert "worker" in life.output().splitlines()[-1], life.output()
    figure("error after the death of a worker", seconds, "s")


@pytest.mark.torture
def test_a_batch_that_comes_twice_is_seen(config: TrainConfig, start: Start) -> None:
    config = config.model_copy(update={"steps": 9})
    reference = finish(start, named(config, "reference"))
    assert_same_run(finish(start, named(config, "again")), reference)
    with pytest.raises(AssertionError, match="samples were lost or repeated"):
        assert_same_run(
            finish(start, named(config, "broken"), repeat_batches={"every": 5}),
            reference,
        )
