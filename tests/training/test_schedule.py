"""Schedules are exact and pure."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from training.config import OptimConfig, Stage, TaskConfig
from training.schedule import interleave, learning_rate, place_of, tasks_at


@pytest.mark.parametrize(
    "weights",
    [[1], [1, 1], [3, 1], [1, 2, 4], [0.1, 0.2, 0.7], [5, 0.001], [1, 1, 1, 1, 1]],
)
def test_every_share_holds_to_within_one_for_two_and_to_within_the_number_for_more(
    weights: list[float],
) -> None:
    seen: Counter[int] = Counter()
    for position in range(2000):
        index, count = interleave(position, weights)
        assert count == seen[index]
        seen[index] += 1
        for other, weight in enumerate(weights):
            exact = (position + 1) * weight / sum(weights)
            assert abs(seen[other] - exact) < max(1, len(weights) - 1) + 1e-9


def test_a_position_far_away_costs_nothing_and_keeps_the_exact_share() -> None:
    index, count = interleave(10**15, [1, 2])
    assert count == pytest.approx(10**15 * [1, 2][index] / 3, abs=1)


def test_alternate_gives_each_step_to_one_task_at_the_exact_ratio() -> None:
    stage = _stage("alternate", pictures=3, texts=1)
    tasks = [tasks_at(stage, step) for step in range(400)]
    assert all(len(at) == 1 for at in tasks)
    assert Counter(at[0][0] for at in tasks) == {"pictures": 300, "texts": 100}


def test_joint_runs_every_task_in_every_step() -> None:
    stage = _stage("joint", pictures=3, texts=1)
    assert tasks_at(stage, 7) == [("pictures", 7), ("texts", 7)]


def test_a_global_step_lies_in_its_stage() -> None:
    stages = [
        _stage("alternate", steps=3, pictures=1),
        _stage("joint", steps=2, pictures=1),
    ]
    assert [tuple(place_of(stages, step)) for step in range(5)] == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
    ]
    with pytest.raises(ValueError, match="past the last stage"):
        place_of(stages, 5)


def test_the_learning_rate_warms_up_linearly_and_falls_by_half_a_cosine() -> None:
    optim = OptimConfig(lr=2.0, min_lr=0.2, warmup_steps=4)
    assert [learning_rate(optim, step, 104) for step in range(4)] == [
        0.5,
        1.0,
        1.5,
        2.0,
    ]
    for step in (4, 30, 103):
        expected = 0.2 + 1.8 * (1 + math.cos(math.pi * (step - 4) / 100)) / 2
        assert learning_rate(optim, step, 104) == pytest.approx(expected)


def _stage(schedule: str, steps: int = 400, **shares: float) -> Stage:
    tasks = {
        name: TaskConfig(
            kind="text-text", sources={"s": {"path": "p"}}, global_batch=4, share=share
        )  # type: ignore[dict-item]
        for name, share in shares.items()
    }
    return Stage(
        name="main", steps=steps, schedule=schedule, tasks=tasks, optim=OptimConfig()
    )  # type: ignore[arg-type]
