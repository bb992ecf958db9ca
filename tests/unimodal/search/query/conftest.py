from __future__ import annotations

import numpy as np
import pytest

from tests.unimodal.search.query.catalogue import DIM, store_with
from tests.unimodal.search.stores.exact_store import ExactStore
from unimodal.vectors import Vectors, normalize


@pytest.fixture
def store() -> ExactStore:
    return store_with()


@pytest.fixture
def query_vector() -> Vectors:
    """(1, D)."""
    return normalize(np.random.default_rng(9).standard_normal((1, DIM)))
