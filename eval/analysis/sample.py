"""Some of many, where all would take too long: the same ones at every look."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


def sampled(numbers: Positions, limit: int) -> Positions:
    """(n,) numbers in their order, if there are more than `limit` only so many of them, drawn with
    seed 0.
    """
    if len(numbers) <= limit:
        return numbers
    return np.sort(np.random.default_rng(0).choice(numbers, limit, replace=False))
