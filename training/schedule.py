"""What happens at which step: pure functions, so that a run resumed anywhere knows its past without
replaying it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from .config import OptimConfig, Stage


def interleave(position: int, weights: Sequence[float]) -> tuple[int, int]:
    """Who is at `position` of a sequence that gives each its share, and how often it was there
    before.

    The first takes a position whenever position x (its share) reaches a new whole number, the
    others divide the positions that are left in the same way. Shares are exact fractions, so at
    every position, however far, the count of the first is within one of its share, and that of each
    later one within one more; the cost does not grow with it.
    """
    whole = whole_weights(tuple(weights))
    left = position
    for index in range(len(whole) - 1):
        count = _taken(
            left, whole[index], sum(whole[index:])
        )  # positions below this one that it took
        if _taken(left + 1, whole[index], sum(whole[index:])) > count:
            return index, count
        left -= count
    return len(whole) - 1, left


def counts_before(position: int, weights: Sequence[float]) -> list[int]:
    """How often each was at the positions below `position` of the sequence of `interleave`."""
    whole = whole_weights(tuple(weights))
    left = position
    counts = []
    for index in range(len(whole) - 1):
        counts.append(_taken(left, whole[index], sum(whole[index:])))
        left -= counts[-1]
    return [*counts, left]


def _taken(positions: int, weight: int, total: int) -> int:
    return -(-positions * weight // total) if weight else 0


@lru_cache(maxsize=256)
def whole_weights(weights: tuple[float, ...]) -> tuple[int, ...]:
    """The same shares as whole numbers; 0.1 is a tenth, not the double nearest to it."""
    exact = [Fraction(str(weight)) for weight in weights]
    common = math.lcm(*(fraction.denominator for fraction in exact))
    return tuple(int(fraction * common) for fraction in exact)


class Place(NamedTuple):
    """Where a global step lies."""

    stage: int
    step: int  # within the stage


def place_of(stages: Sequence[Stage], step: int) -> Place:
    """The stage of a global step and its step there; raises ValueError past the end."""
    for number, stage in enumerate(stages):
        if step < stage.steps:
            return Place(number, step)
        step -= stage.steps
    raise ValueError(f"step is {step + 1} past the last stage; raise steps.")


def tasks_at(stage: Stage, step: int) -> list[tuple[str, int]]:
    """The tasks of a step of a stage, each with the number of steps it had before in that stage."""
    names = list(stage.tasks)
    if stage.schedule == "joint":
        return [(name, step) for name in names]
    index, count = interleave(step, [stage.tasks[name].share for name in names])
    return [(names[index], count)]


def task_steps_before(stages: Sequence[Stage], step: int) -> dict[tuple[int, str], int]:
    """How many steps each task of each stage had before a global step."""
    done: dict[tuple[int, str], int] = {}
    for number, stage in enumerate(stages):
        inside = min(max(step, 0), stage.steps)
        step -= stage.steps
        shares = [task.share for task in stage.tasks.values()]
        counts = (
            counts_before(inside, shares)
            if stage.schedule == "alternate"
            else [inside] * len(shares)
        )
        done.update(
            {
                (number, name): count
                for name, count in zip(stage.tasks, counts, strict=True)
            }
        )
    return done


def learning_rate(optim: OptimConfig, step: int, steps: int) -> float:
    """Linear warm-up over `warmup_steps`, then half a cosine down to `min_lr` at the stage's last
    step.
    """
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    return optim.min_lr + (optim.lr - optim.min_lr) * 0.5 * (
        1 + math.cos(math.pi * progress)
    )
