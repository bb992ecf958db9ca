from __future__ import annotations

import numpy as np

from unimodal.vectors import unit


def test_directions_stay_lengths_become_one_and_nothing_stays_nothing() -> None:
    found = unit(np.array([[3.0, 4.0], [0.0, 0.0], [-2.0, 0.0]]))
    assert np.abs(found - np.array([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]])).max() < 1e-7
    assert found.dtype == np.float32
