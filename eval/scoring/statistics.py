"""How sure is a score, and is one model really better than another? Seeded: the same numbers give
the same answer.

An interval is the percentile bootstrap's (Efron, 1979): queries are drawn with replacement as often
as there are queries, a thousand times, and the middle 95 % of the scores are the interval. Of a
share (a hit rate, an accuracy) it is Wilson's (1927), as no resample of ten hits out of ten ever
misses. A difference of two models on the same queries is tested by flipping its sign (Fisher,
1935): if the models were alike, which of the two had which score would be chance.

Q queries, P pairs, R resamples, M metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..data.datasets import PairData
from .metrics import average_ranks, pearson, spearman, unordered
from .results import TaskResult, Values

RESAMPLES = 1000
FLIPS = 10_000
MAX_STATES = (
    1 << 16
)  # sums of flipped differences that are all gone through, so that the p value is exact
MAX_SWAPS = 2000  # of pairs, each of which has to be ranked anew
BLOCK = 1 << 22  # drawn numbers held at a time, 32 MB
# share of the squares that a variance has to be: what float64 leaves of equal values is below
CONSTANT = 1e-24

Bounds = tuple[
    float | None, float | None
]  # of an interval; None where it cannot be told
NORMAL = (
    1.959963984540054  # 95 % of a standard normal distribution lie within so many of 0
)
CORRELATIONS: dict[str, Callable[[npt.ArrayLike, npt.ArrayLike], float]] = {
    "spearman": spearman,
    "pearson": pearson,
}


@dataclass(frozen=True)
class Comparison:
    """Two models on the same queries (or pairs) of one task, in one metric."""

    task: str
    metric: str
    first: float
    second: float
    difference: float  # second - first
    low: (
        float | None
    )  # of a 95 % interval of the difference; None where all queries differ alike (or there is one)
    high: float | None
    p_value: (
        float  # of a difference at least as large either way, were the models alike
    )
    num: int  # queries or pairs


def compare(
    first: Iterable[TaskResult], second: Iterable[TaskResult]
) -> list[Comparison]:
    """Every metric of every task that both models were scored on.

    Tests stand alone: of twenty comparisons of equal models one has p < 0.05. What is undefined for
    one of them (the correlation of equal scores) is not compared. Raises ValueError for a task that
    has other queries or pairs in the two.
    """
    others = {result.name: result for result in second}
    found: list[Comparison] = []
    for one in first:
        other = others.get(one.name)
        if other is None or one.queries is None or other.queries is None:
            continue
        if len(one.queries) != len(other.queries):
            raise ValueError(
                f"{one.name} has {len(one.queries)} queries for one model and "
                f"{len(other.queries)} for the other; score both on the same data."
            )
        found += (
            _compare_pairs(one, other)
            if isinstance(one.data, PairData)
            else _compare_queries(one, other)
        )
    return found


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
    """95 % intervals of the means of several differences (Q,) each, over the same resamples of the
    queries.

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
    """95 % intervals of correlations ("spearman", "pearson") of two sides (P,), over resamples of
    the pairs.

    (None, None) where all resamples have the same: a perfect order stays perfect, however few pairs
    it is of. Resamples in which the correlation is undefined are left out.
    """
    return _percentiles(_resampled_correlations(left, right, metrics, resamples, seed))


def sign_flip_test(differences: Values, *, flips: int = FLIPS, seed: int = 0) -> float:
    """The two-sided p value of a mean difference: in how many of all flips of signs is it at least
    as far from 0?

    differences: (Q,) of two models on the same queries. Equal sizes are flipped together (how many
    of n stay positive is binomial), so that for hit rates, and wherever there are up to 65,536
    different sums, all are gone through and p is exact; else it is estimated from `flips` draws,
    the observed one counted in.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    observed = abs(float(differences.sum()))
    least = observed - 1e-9 * float(
        sizes @ counts
    )  # sums that are equal on paper differ in their last bits
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
        average_ranks(one) if metric == "spearman" else _standardised(one)
        for one in (first, second)
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


def _compare_queries(one: TaskResult, other: TaskResult) -> list[Comparison]:
    metrics = [metric for metric in one.values if metric in other.values]
    differences = [other.values[metric] - one.values[metric] for metric in metrics]
    intervals = mean_intervals(differences) if metrics else []
    return [
        Comparison(
            one.name,
            metric,
            float(one.values[metric].mean()),
            float(other.values[metric].mean()),
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


def _compare_pairs(one: TaskResult, other: TaskResult) -> list[Comparison]:
    assert isinstance(one.data, PairData)
    human = np.array(one.data.scores)
    groups = {one.name: np.arange(len(human))}
    groups.update(
        {
            f"{one.name}/{name}": np.array(positions)
            for name, positions in one.data.groups.items()
        }
    )
    metrics = [
        metric
        for metric in CORRELATIONS
        if any(row.metric == metric for row in one.rows)
    ]
    found = []
    for name, positions in groups.items():
        wanted = human[positions]
        first = one.values["cosine"][positions]
        second = other.values["cosine"][positions]
        if unordered(first, wanted) or unordered(second, wanted):
            continue
        drawn = [
            _resampled_correlations(side, wanted, metrics, RESAMPLES, 0)
            for side in (first, second)
        ]
        for metric, (low, high) in zip(
            metrics, _percentiles(drawn[1] - drawn[0]), strict=True
        ):
            before, after = (
                CORRELATIONS[metric](side, wanted) for side in (first, second)
            )
            p_value = swap_test(wanted, first, second, metric)
            found.append(
                Comparison(
                    name,
                    metric,
                    before,
                    after,
                    after - before,
                    low,
                    high,
                    p_value,
                    len(wanted),
                )
            )
    return found


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
    blocks = [
        np.stack(
            [_correlations(left, right, counts, metric) for metric in metrics], axis=1
        )
        for counts in _resampled(len(left), resamples, seed)
    ]
    return np.concatenate(blocks)


def _correlations(left: Values, right: Values, counts: Values, metric: str) -> Values:
    """(R,) correlations of two sides (P,) whose pairs count (R, P) times; NaN where one side is
    constant.
    """
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
    """(R, P) average ranks of values (P,) that occur (R, P) times: sorted once for
    all resamples.
    """
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
    """(R, M) -> the middle 95 % of each metric, of the resamples in which it is defined; None
    without any.
    """
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
