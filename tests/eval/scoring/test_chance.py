from __future__ import annotations

import math

import numpy as np
import pytest

from eval.scoring.chance import CHANCE, chance, chance_hit_rate
from eval.scoring.metrics import METRICS, metric_values
from eval.scoring.ranks import ranks_of_lists


@pytest.mark.parametrize("family", list(METRICS))
@pytest.mark.parametrize("gains", [[1.0] * 4, [1.0, 3.0, 1.0, 2.0]])
def test_chance_equals_a_simulation(family: str, gains: list[float]) -> None:
    random = np.random.default_rng(3)
    num_documents = 30
    trials = 20_000
    shuffled = ranks_of_lists(
        [(random.permutation(num_documents)[:4] + 1).tolist() for _ in range(trials)],
        [gains] * trials,
    )
    for k in (1, 5, 10, 100):
        simulated = metric_values(f"{family}_at_{k}", shuffled).mean()
        assert chance(f"{family}_at_{k}", num_documents, shuffled) == pytest.approx(
            simulated, abs=0.012
        )


def test_every_metric_has_its_chance() -> None:
    assert {*CHANCE, "ndcg"} == METRICS.keys()


def test_chance_is_the_mean_over_queries_with_more_and_fewer_relevant_documents() -> (
    None
):
    mixed = ranks_of_lists([[1], [1, 2, 3], [4]])
    for family, expected in CHANCE.items():
        assert chance(f"{family}_at_5", 9, mixed) == pytest.approx(
            expected(9, [1, 3, 1], 5).mean()
        )


def test_chance_equals_the_binomial_formula_and_ends_at_one() -> None:
    expected = [
        1 - math.comb(50 - relevant, 10) / math.comb(50, 10) for relevant in (1, 3, 45)
    ]
    np.testing.assert_allclose(chance_hit_rate(50, [1, 3, 45], 10), expected)
    assert chance_hit_rate(5, [1, 2], 10).tolist() == [1.0, 1.0]
    assert chance("ndcg_at_10", 1, ranks_of_lists([[1]])) == 1.0


def test_chance_of_ndcg_is_the_mean_of_each_query_alone() -> None:
    gains = [[1.0], [3.0, 1.0, 2.0], [1.0]]
    alone = [ranks_of_lists([[*range(1, len(one) + 1)]], [one]) for one in gains]
    mixed = ranks_of_lists([[1], [1, 2, 3], [4]], gains)
    assert chance("ndcg_at_5", 9, mixed) == pytest.approx(
        np.mean([chance("ndcg_at_5", 9, one) for one in alone])
    )
