"""Means over tasks: of languages and subsets, of a suite's averages, and of both halves."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterable, Sequence

from .results import TaskResult
from .scoring.score_row import Half, ScoreRow
from .suites import Suite

BALANCE = "balance"  # the name under which its rows stand
HALVES: tuple[Half, ...] = ("text", "cross-modal")


def summary_rows(results: Sequence[TaskResult], suite: Suite) -> list[ScoreRow]:
    """Means over languages and subsets, the suite's own averages, and the balance.

    Each variant has its own mean. A mean is left out if one of its tasks is missing, or if the
    model cannot do it. Undefined scores are left out of a mean, and its note names them.
    """
    rows = [row for result in results for row in result.rows]
    known = {(row.task, row.metric, row.variant): row for row in rows}
    variants = list(dict.fromkeys(row.variant for row in rows))
    averaged: list[ScoreRow | None] = []
    for name, tasks in suite.averages_of(row.task for row in rows).items():
        for metric in dict.fromkeys(row.metric for row in rows if row.task in tasks):
            averaged += [
                _mean(name, metric, variant, tasks, known) for variant in variants
            ]
    means = [row for row in averaged if row is not None]
    known.update({(row.task, row.metric, row.variant): row for row in means})
    for name, average in suite.averages.items():
        absent = [
            task for task in average.tasks if (task, average.metric, "") not in known
        ]
        if absent:
            warnings.warn(
                f"the average {name!r} is left out: {absent[0]} has no row of {average.metric}.",
                stacklevel=2,
            )
            continue
        averaged = [
            _mean(name, average.metric, variant, average.tasks, known)
            for variant in variants
        ]
        means += [row for row in averaged if row is not None]
    return means + balance_rows(results)


def balance_rows(results: Iterable[TaskResult]) -> list[ScoreRow]:
    """How good a model is in both halves: each mean score, the lower one, and the harmonic mean.

    The score of a half is the mean of its tasks' main metrics (the first one of each). Directions,
    languages and subsets of a task are averaged first, so that a task of 36 languages counts as
    one. Undefined scores are left out, and the note names them. There are no rows without both
    halves.
    """
    by_half: dict[Half, dict[str, list[float]]] = {half: {} for half in HALVES}
    main = [
        (result, result.rows[0])
        for result in results
        if result.half in by_half and result.rows
    ]
    for result, row in main:
        if row.value is not None:
            task = result.name.partition("/")[0]
            by_half[result.half].setdefault(task, []).append(row.value)
    if not all(by_half.values()):
        return []
    scores = {
        half: statistics.fmean(map(statistics.fmean, tasks.values()))
        for half, tasks in by_half.items()
    }
    both = list(scores.values())
    harmonic = statistics.harmonic_mean(both) if min(both) >= 0 else None
    values = {
        **{f"{half}_mean": score for half, score in scores.items()},
        "min": min(both),
        "harmonic_mean": harmonic,
    }
    note = _left_out([row.task for _, row in main if row.is_undefined], len(main))
    notes = dict.fromkeys(values, note)
    if harmonic is None:
        notes["harmonic_mean"] = (
            "the mean of a half is below 0, where a harmonic mean is not defined"
        )
    return [
        ScoreRow(BALANCE, metric, value, None, None, note=notes[metric])
        for metric, value in values.items()
    ]


def _mean(
    name: str,
    metric: str,
    variant: str,
    tasks: Sequence[str],
    known: dict[tuple[str, str, str], ScoreRow],
) -> ScoreRow | None:
    keys = [(task, metric, variant) for task in tasks]
    rows = [known[key] for key in keys if key in known]
    defined = [row for row in rows if row.value is not None]
    undefined = [row for row in rows if row.is_undefined]
    if len(defined) + len(undefined) < len(tasks):
        return None

    note = _left_out([row.task for row in undefined], len(tasks))
    value = _mean_of([row.value for row in defined])
    chance = _mean_of([row.chance for row in defined])
    baseline = _mean_of([row.baseline for row in defined])
    return ScoreRow(name, metric, value, chance, baseline, variant=variant, note=note)


def _mean_of(values: Sequence[float | None]) -> float | None:
    """The mean; None if there is no value, or one of them is None."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _left_out(undefined: Sequence[str], count: int) -> str:
    """The note of a mean that lacks undefined scores."""
    if not undefined:
        return ""
    named = ", ".join(undefined[:3]) + (" and others" if len(undefined) > 3 else "")
    return f"the mean of {count - len(undefined)} of {count}: {named} undefined"
