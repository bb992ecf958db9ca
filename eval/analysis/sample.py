"""Samples of what would take too long as a whole; always the same ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Positions = npt.NDArray[np.int64]


def sampled(numbers: Positions, limit: int) -> Positions:
    """(n,) numbers in their order; of more than `limit` a sample of that size, by seed 0."""
    if len(numbers) <= limit:
        return numbers
    return np.sort(np.random.default_rng(0).choice(numbers, limit, replace=False))
