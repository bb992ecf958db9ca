"""How sure is a score, and is one model really better than another?

An interval is the percentile bootstrap's (Efron, 1979): queries are drawn with replacement, as many
as there are, a thousand times, and the middle 95 % of the scores are the interval. Of a share (a
hit rate, an accuracy) it is Wilson's (1927), as no resample of ten hits out of ten ever misses. A
difference of two models on the same queries is tested by flipping its sign (Fisher, 1935): if the
models were alike, which of the two had which score would be chance.

Draws are seeded: the same numbers give the same answer.

Q queries, P pairs, R resamples, M metrics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .metrics import average_ranks, pearson, spearman, unordered
from .score_row import ScoreRow, Values

RESAMPLES = 1000
FLIPS = 10_000
# Up to this number of sums of flipped differences all are computed: the p value is then exact.
MAX_STATES = 1 << 16
MAX_SWAPS = 2000  # of pairs, each of which has to be ranked again
BLOCK = 1 << 22  # drawn numbers held at a time, 32 MB
# share of the squares that a variance must reach: rounding of equal values in float64 is below
CONSTANT = 1e-24
NORMAL = (
    1.959963984540054  # 95 % of a standard normal distribution lie within this of 0
)

Bounds = tuple[float | None, float | None]  # of an interval; None where it is unknown
CORRELATIONS: dict[str, Callable[[npt.ArrayLike, npt.ArrayLike], float]] = {
    "spearman": spearman,
    "pearson": pearson,
}


class Score(NamedTuple):
    """A score and its 95 % interval."""

    value: float | None  # None: undefined
    bounds: Bounds = (None, None)
    note: str = ""  # why it is undefined


@dataclass(frozen=True)
class Comparison:
    """Two models on the same queries (or pairs) of one task, in one metric."""

    task: str
    metric: str
    first: float
    second: float
    difference: float  # second - first
    # of a 95 % interval of the difference; None where all queries differ alike, or there is one
    low: float | None
    high: float | None
    p_value: (
        float  # of a difference at least as large either way, if the models were alike
    )
    num: int  # queries or pairs


def mean_scores(values: Mapping[str, Values]) -> dict[str, Score]:
    """metric -> the mean of its values (Q,), with an interval."""
    if not values:
        return {}
    intervals = score_intervals(list(values.values()))
    return {
        metric: Score(float(values[metric].mean()), bounds)
        for metric, bounds in zip(values, intervals, strict=True)
    }


def mean_rows(
    task: str,
    metrics: Sequence[str],
    values: Mapping[str, Values],
    chance: Mapping[str, float],
    baseline: Mapping[str, float],
    *,
    with_intervals: bool,
) -> list[ScoreRow]:
    """A row for each metric that is the mean of its values; None if there are no values."""
    if not values:
        return [
            ScoreRow(task, metric, None, chance[metric], baseline.get(metric))
            for metric in metrics
        ]
    rows = [
        ScoreRow(
            task,
            metric,
            float(values[metric].mean()),
            chance[metric],
            baseline.get(metric),
            num=len(values[metric]),
        )
        for metric in metrics
    ]
    if not with_intervals:
        return rows
    intervals = score_intervals([values[metric] for metric in metrics])
    return [
        dataclasses.replace(row, low=low, high=high)
        for row, (low, high) in zip(rows, intervals, strict=True)
    ]


def correlation_scores(
    similarities: Values,
    human: Values,
    metrics: Sequence[str],
    *,
    with_intervals: bool = True,
) -> list[Score]:
    """Each metric's correlation of the two sides (P,); a note says why one is undefined."""
    if reason := unordered(similarities, human):
        return [Score(None, note=reason) for _ in metrics]
    intervals: list[Bounds] = [(None, None)] * len(metrics)
    if with_intervals:
        intervals = correlation_intervals(similarities, human, metrics)
    return [
        Score(CORRELATIONS[metric](similarities, human), bounds)
        for metric, bounds in zip(metrics, intervals, strict=True)
    ]


def score_intervals(values: Sequence[Values]) -> list[Bounds]:
    """95 % intervals of the scores of several metrics, each the mean of its values (Q,) from 0 up.

    Wilson's where every value is 0 or 1, the bootstrap's elsewhere; (None, None) where all are the
    same and not 0 or 1, as nothing says then how far another query would lie.
    """
    return [
        _wilson(one)
        if np.minimum(np.abs(one), np.abs(one - 1)).max() < 1e-9
        else bounds
        for one, bounds in zip(values, mean_intervals(values), strict=True)
    ]


def mean_intervals(
    values: Sequence[Values], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Bounds]:
    """95 % intervals of the means of several (Q,) differences, over the same resamples.

    (None, None) where all are the same, or there is one: nothing says how far another query would
    lie.
    """
    table = np.stack(values, axis=1)  # (Q, M)
    means = np.concatenate(
        [
            counts @ table / len(table)
            for counts in _resampled(len(table), resamples, seed)
        ]
    )
    return _percentiles(means)


def correlation_intervals(
    left: Values,
    right: Values,
    metrics: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Bounds]:
    """95 % intervals of correlations of two sides (P,), over resamples of the pairs.

    metrics: "spearman", "pearson".

    (None, None) where all resamples have the same: a perfect order stays perfect, however few pairs
    it is of. Resamples in which the correlation is undefined are left out.
    """
    return _percentiles(_resampled_correlations(left, right, metrics, resamples, seed))


def sign_flip_test(differences: Values, *, flips: int = FLIPS, seed: int = 0) -> float:
    """The two-sided p value of a mean difference, by flips of signs.

    It is the share of all flips in which the mean is at least as far from 0. Equal sizes are
    flipped together (the number of n that stay positive is binomial). So p is exact for hit rates,
    and wherever there are up to 65,536 different sums; else it is estimated from `flips` draws, and
    the observed one counts as a draw.

    differences: (Q,) of two models on the same queries.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    observed = abs(float(differences.sum()))
    # Sums that are equal on paper differ in their last bits.
    least = observed - 1e-9 * float(sizes @ counts)
    if float(np.log2(counts + 1.0).sum()) <= np.log2(MAX_STATES):
        sums = np.zeros(1)
        chances = np.ones(1)
        for size, count in zip(sizes, counts, strict=True):
            kept = np.arange(count + 1)
            sums = (sums[:, None] + size * (2 * kept - count)).ravel()
            chances = (chances[:, None] * _binomial(int(count))).ravel()
        return min(1.0, float(chances[np.abs(sums) >= least].sum()))
    random = np.random.default_rng(seed)
    extreme = 0
    step = max(1, BLOCK // len(sizes))
    for start in range(0, flips, step):
        kept = random.binomial(counts, 0.5, size=(min(step, flips - start), len(sizes)))
        extreme += int(np.count_nonzero(np.abs((2 * kept - counts) @ sizes) >= least))
    return (1 + extreme) / (1 + flips)


def swap_test(
    human: Values,
    first: Values,
    second: Values,
    metric: str,
    *,
    swaps: int = MAX_SWAPS,
    seed: int = 0,
) -> float:
    """The two-sided p value of a difference of two correlations with `human`: (P,) each.

    If the models were alike, their similarities of a pair could change places. Models differ in the
    scale of their cosines, so for Spearman ranks change places, for Pearson similarities of mean 0
    and variance 1.
    """
    correlation = CORRELATIONS[metric]
    sides = [
        average_ranks(side) if metric == "spearman" else _standardised(side)
        for side in (first, second)
    ]
    observed = abs(correlation(sides[1], human) - correlation(sides[0], human))
    random = np.random.default_rng(seed)
    extreme = 0
    for _ in range(swaps):
        swapped = random.random(len(human)) < 0.5
        one = np.where(swapped, sides[1], sides[0])
        other = np.where(swapped, sides[0], sides[1])
        # an undefined one (all similarities alike) says nothing against chance
        extreme += (
            not abs(correlation(other, human) - correlation(one, human))
            < observed - 1e-12
        )
    return (1 + extreme) / (1 + swaps)


def compare_means(
    task: str, first: Mapping[str, Values], second: Mapping[str, Values]
) -> list[Comparison]:
    """Compare two models in every metric that both have, by each query's values (Q,)."""
    metrics = [metric for metric in first if metric in second]
    if not metrics:
        return []
    differences = [second[metric] - first[metric] for metric in metrics]
    intervals = mean_intervals(differences)
    return [
        Comparison(
            task,
            metric,
            float(first[metric].mean()),
            float(second[metric].mean()),
            float(difference.mean()),
            low,
            high,
            sign_flip_test(difference),
            len(difference),
        )
        for metric, difference, (low, high) in zip(
            metrics, differences, intervals, strict=True
        )
    ]


def compare_correlations(
    task: str, metrics: Sequence[str], human: Values, first: Values, second: Values
) -> list[Comparison]:
    """Compare two models in their correlations with `human`: (P,) each.

    There is nothing to compare if the correlation of one of them is undefined.
    """
    if unordered(first, human) or unordered(second, human):
        return []
    drawn = [
        _resampled_correlations(side, human, metrics, RESAMPLES, 0)
        for side in (first, second)
    ]
    intervals = _percentiles(drawn[1] - drawn[0])
    comparisons = []
    for metric, (low, high) in zip(metrics, intervals, strict=True):
        before = CORRELATIONS[metric](first, human)
        after = CORRELATIONS[metric](second, human)
        comparisons.append(
            Comparison(
                task,
                metric,
                before,
                after,
                after - before,
                low,
                high,
                swap_test(human, first, second, metric),
                len(human),
            )
        )
    return comparisons


def _resampled(count: int, resamples: int, seed: int) -> Iterator[Values]:
    """(some of R, count) how often each of `count` is in a resample."""
    random = np.random.default_rng(seed)
    step = max(1, BLOCK // count)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = (
            random.integers(0, count, (rows, count)) + np.arange(rows)[:, None] * count
        )
        yield (
            np.bincount(drawn.ravel(), minlength=rows * count)
            .reshape(rows, count)
            .astype(np.float64)
        )


def _resampled_correlations(
    left: Values, right: Values, metrics: Sequence[str], resamples: int, seed: int
) -> Values:
    """(R, M) correlations over the resamples."""
    blocks = []
    for counts in _resampled(len(left), resamples, seed):
        columns = [_correlations(left, right, counts, metric) for metric in metrics]
        blocks.append(np.stack(columns, axis=1))
    return np.concatenate(blocks)


def _correlations(left: Values, right: Values, counts: Values, metric: str) -> Values:
    """(R,) correlations of two sides (P,) with pair counts (R, P); NaN where one is constant."""
    x, y = (
        _weighted_ranks(side, counts)
        if metric == "spearman"
        else np.broadcast_to(side, counts.shape)
        for side in (left, right)
    )
    total = counts.sum(axis=1, keepdims=True)
    sizes = [np.einsum("rp,rp,rp->r", counts, side, side) for side in (x, y)]
    x, y = (
        side - (counts * side).sum(axis=1, keepdims=True) / total for side in (x, y)
    )
    together, own_x, own_y = (
        np.einsum("rp,rp,rp->r", counts, *sides) for sides in ((x, y), (x, x), (y, y))
    )

    is_defined = (own_x > CONSTANT * sizes[0]) & (own_y > CONSTANT * sizes[1])
    undefined = np.full_like(together, np.nan)
    return np.asarray(
        np.divide(together, np.sqrt(own_x * own_y), out=undefined, where=is_defined)
    )


def _weighted_ranks(values: Values, counts: Values) -> Values:
    """(R, P) average ranks of values (P,) that occur (R, P) times; sorted once for all."""
    _, first, positions = np.unique(
        np.sort(values), return_index=True, return_inverse=True
    )
    order = np.argsort(values, kind="stable")
    ties = np.add.reduceat(counts[:, order], first, axis=1)  # (R, distinct values)
    average = np.cumsum(ties, axis=1) - (ties - 1) / 2
    found = np.empty_like(counts)
    found[:, order] = average[:, positions]
    return found


def _percentiles(drawn: Values) -> list[Bounds]:
    """(R, M) -> the middle 95 % of each metric over the resamples that define it, or None."""
    bounds: list[Bounds] = []
    for values in drawn.T:
        defined = values[~np.isnan(values)]
        low, high = (
            np.percentile(defined, [2.5, 97.5]).tolist() if len(defined) else (0.0, 0.0)
        )
        bounds.append(_known(low, high))
    return bounds


def _known(low: float, high: float) -> Bounds:
    """The interval, unless it is a point: what does not vary claims to be certain."""
    return (low, high) if high - low > 1e-9 else (None, None)


def _wilson(values: Values) -> tuple[float, float]:
    """The score interval of a share (Wilson, 1927). values: (Q,) of 0 and 1."""
    share = float(values.mean())
    count = len(values)
    shrink = 1 + NORMAL**2 / count
    centre = (share + NORMAL**2 / (2 * count)) / shrink
    half = (
        NORMAL
        * float(np.sqrt(share * (1 - share) / count + (NORMAL / (2 * count)) ** 2))
        / shrink
    )
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def _binomial(count: int) -> Values:
    """(count + 1,) the chances of 0, 1, ... heads in as many throws of a coin."""
    logs = np.concatenate(
        [
            [0.0],
            np.cumsum(
                np.log(np.arange(count, 0, -1)) - np.log(np.arange(1, count + 1))
            ),
        ]
    )
    return np.asarray(np.exp(logs - count * np.log(2.0)))


def _standardised(values: Values) -> Values:
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)
