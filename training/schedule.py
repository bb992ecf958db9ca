"""What happens at which step: pure functions, so that a run resumed anywhere knows its past without replaying it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from .config import OptimConfig, Stage


def interleave(position: int, weights: Sequence[float]) -> tuple[int, int]:
    """Who is at `position` of a sequence that gives each its share, and how often it was there before.

    The first takes a position whenever position x (its share) reaches a new whole number, the others divide the
    positions that are left in the same way. Shares are exact fractions, so at every position, however far, the count of
    the first is within one of its share, and that of each later one within one more; the cost does not grow with it.
    """
    left = [Fraction(str(weight)) for weight in weights]
    for index in range(len(left) - 1):
        share = left[index] / sum(left[index:])
        count = math.ceil(position * share)  # positions below this one that it took
        if math.ceil((position + 1) * share) > count:
            return index, count
        position -= count
    return len(left) - 1, position


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


def learning_rate(optim: OptimConfig, step: int, steps: int) -> float:
    """Linear warm-up over `warmup_steps`, then half a cosine down to `min_lr` at the stage's last step."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    return optim.min_lr + (optim.lr - optim.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
