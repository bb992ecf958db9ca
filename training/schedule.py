"""What happens at which step: pure functions, so that a resumed run need not replay its past."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from .config import OptimConfig, Stage


def interleave(position: int, weights: Sequence[float]) -> tuple[int, int]:
    """The member at `position` of a sequence with these shares, and how often it came before.

    The first member takes a position whenever position x (its share) reaches a new whole number;
    the others divide the positions that are left in the same way. Shares are exact fractions, so at
    every position, however far, the count of the first is within one of its share, and that of each
    later member within one more. The cost does not grow with the position.
    """
    shares = whole_weights(tuple(weights))
    left = position  # positions below this one that earlier members did not take
    for index in range(len(shares) - 1):
        total = sum(shares[index:])
        count = _num_taken(left, shares[index], total)
        if _num_taken(left + 1, shares[index], total) > count:
            return index, count
        left -= count
    return len(shares) - 1, left


def counts_before(position: int, weights: Sequence[float]) -> list[int]:
    """How often each member came before `position` in the sequence of `interleave`."""
    shares = whole_weights(tuple(weights))
    left = position
    counts = []
    for index in range(len(shares) - 1):
        count = _num_taken(left, shares[index], sum(shares[index:]))
        counts.append(count)
        left -= count
    return [*counts, left]


def _num_taken(positions: int, weight: int, total: int) -> int:
    """Positions x weight / total, rounded up."""
    return -(-positions * weight // total) if weight else 0


@lru_cache(maxsize=256)
def whole_weights(weights: tuple[float, ...]) -> tuple[int, ...]:
    """The same shares as whole numbers; 0.1 is a tenth, not the double nearest to it."""
    fractions = [Fraction(str(weight)) for weight in weights]
    common = math.lcm(*(fraction.denominator for fraction in fractions))
    return tuple(int(fraction * common) for fraction in fractions)


class Place(NamedTuple):
    """Where a global step lies."""

    stage: int
    step: int  # within the stage


def place_of(stages: Sequence[Stage], step: int) -> Place:
    """The stage of a global step, and its step there; raises ValueError past the end."""
    for number, stage in enumerate(stages):
        if step < stage.steps:
            return Place(number, step)
        step -= stage.steps
    raise ValueError(f"step is {step + 1} past the last stage; raise steps.")


def tasks_at(stage: Stage, step: int) -> list[tuple[str, int]]:
    """The tasks of a step of a stage, each with its number of earlier steps in that stage."""
    names = list(stage.tasks)
    if stage.schedule == "joint":
        return [(name, step) for name in names]
    shares = [task.share for task in stage.tasks.values()]
    index, count = interleave(step, shares)
    return [(names[index], count)]


def task_steps_before(stages: Sequence[Stage], step: int) -> dict[tuple[int, str], int]:
    """How many steps each task of each stage had before a global step."""
    counts: dict[tuple[int, str], int] = {}
    for number, stage in enumerate(stages):
        stage_step = min(max(step, 0), stage.steps)
        step -= stage.steps
        if stage.schedule == "joint":
            stage_counts = [stage_step] * len(stage.tasks)
        else:
            shares = [task.share for task in stage.tasks.values()]
            stage_counts = counts_before(stage_step, shares)
        for name, count in zip(stage.tasks, stage_counts, strict=True):
            counts[number, name] = count
    return counts


def learning_rate(optim: OptimConfig, step: int, steps: int) -> float:
    """Linear warm-up over `warmup_steps`, then half a cosine down to `min_lr` at the end."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, steps - optim.warmup_steps)
    cosine = math.cos(math.pi * progress)
    return optim.min_lr + (optim.lr - optim.min_lr) * 0.5 * (1 + cosine)
