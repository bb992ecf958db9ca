from __future__ import annotations

import numpy as np

from eval.analysis.sample import sampled


def test_a_sample_holds_distinct_numbers_in_their_order_and_is_the_same_at_every_look() -> (
    None
):
    numbers = np.arange(100, 1100)
    found = sampled(numbers, 50)
    assert len(found) == 50
    assert (np.diff(found) > 0).all()
    assert set(found) <= set(numbers)
    assert found[0] < 200
    assert found[-1] > 1000
    np.testing.assert_array_equal(found, sampled(numbers, 50))


def test_few_numbers_are_all_there() -> None:
    assert sampled(np.array([3, 7]), 2).tolist() == [3, 7]
