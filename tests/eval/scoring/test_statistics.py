from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats

from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.results import TaskResult, compare
from eval.scoring import statistics
from eval.scoring.score_row import ScoreRow
from eval.scoring.statistics import (
    CORRELATIONS,
    correlation_intervals,
    mean_intervals,
    score_intervals,
    sign_flip_test,
    swap_test,
)

Values = npt.NDArray[np.float64]
VECTORS = np.eye(300, dtype=np.float32)


def scored(*values: Values, name: str = "task") -> TaskResult:
    """A retrieval task with a metric for each of the values."""
    queries = [f"q{number}" for number in range(len(values[0]))]
    data = RetrievalData(list(queries), ["d"], [[0] for _ in queries])
    return TaskResult(
        name,
        "text",
        data,
        [],
        {f"metric_{n}": one for n, one in enumerate(values)},
        VECTORS[: len(queries)],
    )


def paired(cosines: Values, human: Sequence[float]) -> TaskResult:
    names = [str(number) for number in range(len(human))]
    data = PairData(names, names, list(human), {"half": list(range(0, len(human), 2))})
    rows = [ScoreRow("pairs", metric, 0.0, 0.0, None) for metric in CORRELATIONS]
    return TaskResult(
        "pairs", "text", data, rows, {"cosine": cosines}, VECTORS[: len(human)]
    )


def test_an_interval_of_a_mean_is_scipys() -> None:
    random = np.random.default_rng(0)
    values = [random.random(200) ** 3, (random.random(200) < 0.8).astype(np.float64)]
    for one, (low, high) in zip(
        values, mean_intervals(values, resamples=4000), strict=True
    ):
        theirs = scipy.stats.bootstrap(
            (one,), np.mean, n_resamples=4000, method="percentile", rng=random
        )
        width = theirs.confidence_interval.high - theirs.confidence_interval.low
        assert low == pytest.approx(theirs.confidence_interval.low, abs=0.06 * width)
        assert high == pytest.approx(theirs.confidence_interval.high, abs=0.06 * width)


def test_nineteen_in_twenty_intervals_hold_the_true_mean() -> None:
    random = np.random.default_rng(1)
    queries = list((random.random((400, 250)) < 0.3).astype(float))
    low, high = np.array(mean_intervals(queries), dtype=np.float64).T
    held = (low <= 0.3) & (high >= 0.3)
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize(
    ("hits", "count"), [(0, 7), (7, 7), (1, 1), (3, 10), (199, 200), (1000, 1000)]
)
def test_an_interval_of_a_hit_rate_is_wilsons(hits: int, count: int) -> None:
    ((low, high),) = score_intervals([np.repeat([1.0, 0.0], [hits, count - hits])])
    expected = scipy.stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert low is not None
    assert high is not None
    assert 0 <= low <= hits / count <= high <= 1
    assert low < high


def test_a_metric_that_is_equal_for_all_queries_has_no_interval_and_others_have() -> (
    None
):
    spread = np.random.default_rng(11).random(20)
    hits, same, others = score_intervals([np.ones(20), np.full(20, 0.63), spread])
    assert hits == pytest.approx((1 / (1 + 1.959963984540054**2 / 20), 1.0))
    assert same == (None, None)
    assert others == mean_intervals([spread])[0]


def test_a_perfect_correlation_of_a_few_pairs_has_no_interval() -> None:
    assert (
        correlation_intervals(np.arange(9.0), np.arange(9.0), list(CORRELATIONS))
        == [(None, None)] * 2
    )


def test_an_interval_of_a_correlation_is_scipys() -> None:
    random = np.random.default_rng(2)
    human = random.integers(0, 6, 150).astype(np.float64)
    model = human + random.normal(scale=3, size=150)
    intervals = correlation_intervals(model, human, list(CORRELATIONS), resamples=3000)
    for (low, high), theirs in zip(
        intervals, (scipy.stats.spearmanr, scipy.stats.pearsonr), strict=True
    ):
        expected = scipy.stats.bootstrap(
            (model, human),
            lambda a, b, f=theirs: f(a, b).statistic,
            n_resamples=1500,
            paired=True,
            vectorized=False,
            method="percentile",
            rng=random,
        ).confidence_interval
        assert low == pytest.approx(expected.low, abs=0.02)
        assert high == pytest.approx(expected.high, abs=0.02)


def test_a_correlation_of_a_resample_is_that_of_the_pairs_written_out() -> None:
    random = np.random.default_rng(3)
    left = random.integers(0, 4, 30).astype(np.float64)
    right = random.random(30)
    counts = next(statistics._resampled(30, 5, seed=0))
    for metric, correlation in CORRELATIONS.items():
        found = statistics._correlations(left, right, counts, metric)
        written_out = [np.repeat(np.arange(30), row.astype(int)) for row in counts]
        np.testing.assert_allclose(
            found,
            [correlation(left[one], right[one]) for one in written_out],
            atol=1e-12,
        )


def test_the_same_seed_gives_the_same_interval_whatever_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(4).random(50)
    first = np.array(mean_intervals([values]), dtype=np.float64)
    monkeypatch.setattr(statistics, "BLOCK", 170)
    again = np.array(mean_intervals([values]), dtype=np.float64)
    np.testing.assert_allclose(again, first, rtol=1e-12)
    other_seed = np.array(mean_intervals([values], seed=1), dtype=np.float64)
    assert abs(other_seed - first)[0, 0] > 1e-6


def test_the_p_value_of_hit_rates_is_the_binomial_tests() -> None:
    for wins, losses, ties in ((30, 12, 500), (5, 0, 3), (200, 180, 0)):
        differences = np.repeat([1.0, -1.0, 0.0], [wins, losses, ties])
        expected = scipy.stats.binomtest(wins, wins + losses).pvalue
        assert sign_flip_test(differences) == pytest.approx(expected, rel=1e-9)


def test_the_p_value_of_few_queries_is_that_of_all_flips() -> None:
    differences = np.random.default_rng(5).normal(0.3, 1, 11)
    flips = np.array(list(itertools.product([1, -1], repeat=11)))
    expected = np.mean(np.abs(flips @ differences) >= abs(differences.sum()) - 1e-12)
    assert sign_flip_test(differences) == pytest.approx(expected, rel=1e-12)
    theirs = scipy.stats.permutation_test(
        (differences, np.zeros(11)),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert sign_flip_test(differences) == pytest.approx(theirs.pvalue, rel=1e-9)


def test_the_p_value_of_many_queries_is_near_the_t_tests() -> None:
    differences = np.random.default_rng(6).normal(0.13, 1, 300)
    assert sign_flip_test(differences) == pytest.approx(
        scipy.stats.ttest_1samp(differences, 0).pvalue, abs=0.01
    )


def test_equal_models_do_not_differ() -> None:
    assert sign_flip_test(np.zeros(10)) == 1.0
    (comparison,) = compare([scored(np.ones(10))], [scored(np.ones(10))])
    assert (comparison.difference, comparison.p_value) == (0.0, 1.0)


@pytest.mark.parametrize(
    "difference", [np.zeros(10), np.full(10, 0.1), np.array([0.3])]
)
def test_a_difference_that_does_not_vary_has_no_interval(difference: Values) -> None:
    (comparison,) = compare(
        [scored(np.full(len(difference), 0.5))], [scored(0.5 + difference)]
    )
    assert comparison.difference == pytest.approx(difference.mean())
    assert (comparison.low, comparison.high) == (None, None)


def test_an_undefined_correlation_is_not_compared() -> None:
    random = np.random.default_rng(12)
    human = [3.0, 1.0, 3.0, 4.0, 3.0, 2.0]  # of its half all are 3
    found = compare(
        [paired(random.random(6), human)], [paired(random.random(6), human)]
    )
    assert [one.task for one in found] == ["pairs", "pairs"]
    assert (
        compare([paired(np.full(6, 0.5), human)], [paired(random.random(6), human)])
        == []
    )


def test_resamples_without_a_correlation_are_left_out_of_its_interval() -> None:
    cosines = np.array([0.1, 0.2, 0.4, 0.3])
    human = np.array([1.0, 1.0, 1.0, 2.0])
    drawn = np.concatenate(list(statistics._resampled(4, 1000, seed=0)))
    for metric, bounds in zip(
        CORRELATIONS,
        correlation_intervals(cosines, human, list(CORRELATIONS)),
        strict=True,
    ):
        repeated = [np.repeat(np.arange(4), row.astype(int)) for row in drawn]
        values = np.array(
            [CORRELATIONS[metric](cosines[one], human[one]) for one in repeated]
        )
        assert np.isnan(values).mean() > 0.25  # those without the fourth pair
        assert bounds == pytest.approx(tuple(np.nanpercentile(values, [2.5, 97.5])))


def test_p_values_of_equal_models_are_spread_evenly() -> None:
    random = np.random.default_rng(7)
    found = [sign_flip_test(random.normal(size=40), flips=400) for _ in range(400)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.025)


def test_a_better_model_is_told_in_every_metric_that_both_have() -> None:
    random = np.random.default_rng(8)
    before = random.random(300) * 0.5
    after = random.random(300) * 0.5 + 0.1
    hits = (random.random(300) < 0.5).astype(np.float64)
    first, second = compare([scored(before, hits)], [scored(after, hits, after)])
    assert (first.task, first.metric, first.num) == ("task", "metric_0", 300)
    assert first.difference == pytest.approx(after.mean() - before.mean())
    assert first.low is not None
    assert first.high is not None
    assert 0 < first.low < first.difference < first.high
    assert first.p_value < 0.001
    assert (second.metric, second.p_value) == ("metric_1", 1.0)


def test_tasks_of_one_model_alone_are_not_compared() -> None:
    unscored = dataclasses.replace(scored(np.ones(3)), queries=None)
    assert (
        compare([scored(np.ones(3))], [scored(np.ones(3), name="other"), unscored])
        == []
    )


def test_other_queries_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match="task has 3 queries for one model and 4 for the other; score both on the sa",
    ):
        compare([scored(np.ones(3))], [scored(np.ones(4))])


def test_correlations_are_compared_over_all_pairs_and_over_each_group() -> None:
    random = np.random.default_rng(9)
    human = random.random(300)
    weak = human + random.normal(scale=1, size=300)
    strong = human + random.normal(scale=0.2, size=300)
    found = compare([paired(weak, human.tolist())], [paired(strong, human.tolist())])
    assert [(one.task, one.metric, one.num) for one in found] == [
        ("pairs", "spearman", 300),
        ("pairs", "pearson", 300),
        ("pairs/half", "spearman", 150),
        ("pairs/half", "pearson", 150),
    ]
    for one in found:
        assert one.low is not None
        assert one.high is not None
        assert 0 < one.low < one.difference < one.high
        assert one.p_value < 0.01
    assert found[0].second == pytest.approx(
        scipy.stats.spearmanr(strong, human).statistic
    )
    same = compare(
        [paired(weak, human.tolist())], [paired(2 * weak - 1, human.tolist())]
    )
    assert [one.p_value for one in same] == [1.0] * 4


@pytest.mark.parametrize("metric", list(CORRELATIONS))
def test_p_values_of_equally_good_correlations_are_spread_evenly(metric: str) -> None:
    random = np.random.default_rng(10)
    found = []
    for _ in range(100):
        human = random.normal(size=40)
        first = human + random.normal(size=40)
        second = 5 * (human + random.normal(size=40))
        found.append(swap_test(human, first, second, metric, swaps=99))
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=0.08)
