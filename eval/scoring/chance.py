"""The expected score of a random order of the documents, to print beside a model's.

N documents, R relevant ones of a query, all orders alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .metrics import best_dcg, parse_metric
from .ranks import NEVER, Ranks
from .score_row import Values


def chance(metric: str, num_documents: int, ranks: Ranks) -> float:
    """Expected mean over the queries.

    ranks: of these only how many there are for a query, their gains, and which of them are NEVER
        found, matters.
    """
    family, k = parse_metric(metric)
    if num_documents == 0:  # a query that searches nothing finds nothing
        return 0.0
    if family == "ndcg":
        return float(chance_ndcg(num_documents, ranks, k).mean())

    is_there = ranks.flat < NEVER
    counted = (
        is_there & (ranks.gains >= ranks.hit_gain) if family == "hit_rate" else is_there
    )
    relevant = np.bincount(ranks.queries[counted], minlength=len(ranks))
    counts, positions = np.unique(
        relevant, return_inverse=True
    )  # few distinct ones, however many queries
    values = CHANCE[family](num_documents, counts, k)[positions]
    if family in (
        "recall",
        "map",
    ):  # of all that are relevant, though some are not there
        values = values * (relevant / ranks.counts)
    return float(values.mean())


def chance_hit_rate(num_documents: int, num_relevant: npt.ArrayLike, k: int) -> Values:
    """Expected hit rate at k of a random order: 1 - C(N - R, k) / C(N, k).

    The quotient is the hypergeometric chance of no hit in k.
    num_relevant: R, a number or one for each query.
    """
    return np.asarray(1.0 - _misses(num_documents, num_relevant, k)[-1])


def chance_ndcg(num_documents: int, ranks: Ranks, k: int) -> Values:
    """(Q,) expected nDCG at k of a random order.

    On average each rank holds the Nth part of what all relevant documents are worth together, so
    E[DCG] = sum of gains / N * sum over r = 1..min(k, N) of 1 / log2(1 + r).
    """
    gains = np.where(ranks.flat < NEVER, ranks.gains, 0.0)
    gained = np.add.reduceat(gains, ranks.offsets[:-1]) / num_documents
    return np.asarray(
        gained * _discounts(min(k, num_documents)).sum() / best_dcg(ranks, k)
    )


def chance_recall(num_documents: int, num_relevant: npt.ArrayLike, k: int) -> Values:
    """Expected recall at k: each relevant document is in the top k with probability k / N."""
    return np.full(np.shape(num_relevant), min(k, num_documents) / num_documents)


def chance_precision(num_documents: int, num_relevant: npt.ArrayLike, k: int) -> Values:
    """Expected precision at k: R / N of the ranks there are."""
    return np.asarray(
        np.asarray(num_relevant) / num_documents * min(k, num_documents) / k
    )


def chance_map(num_documents: int, num_relevant: npt.ArrayLike, k: int) -> Values:
    """Expected average precision at k.

    Rank r is relevant with probability R / N, and each of the r - 1 before it is then with (R - 1)
    / (N - 1).
    """
    relevant = np.asarray(num_relevant, dtype=np.float64)[..., None]
    place = np.arange(1, min(k, num_documents) + 1)
    before = (place - 1) * (relevant - 1) / max(1, num_documents - 1)
    return np.asarray(((1 + before) / place).sum(axis=-1) / num_documents)


def chance_mrr(num_documents: int, num_relevant: npt.ArrayLike, k: int) -> Values:
    """Expected 1 / rank of the first relevant document: by the chance of a first hit at r <= k."""
    misses = _misses(num_documents, num_relevant, k)
    place = np.arange(1, len(misses)).reshape(-1, *[1] * (misses.ndim - 1))
    return np.asarray(((misses[:-1] - misses[1:]) / place).sum(axis=0))


CHANCE: dict[
    str, Callable[[int, npt.ArrayLike, int], Values]
] = {  # all but nDCG, which asks for gains too
    "hit_rate": chance_hit_rate,
    "recall": chance_recall,
    "precision": chance_precision,
    "map": chance_map,
    "mrr": chance_mrr,
}


def _misses(num_documents: int, num_relevant: npt.ArrayLike, k: int) -> Values:
    """(min(k, N) + 1, ...) the probability that none of the first 0, 1, ... ranks is relevant."""
    relevant = np.asarray(num_relevant, dtype=np.float64)
    drawn = np.arange(min(k, num_documents)).reshape(-1, *[1] * relevant.ndim)
    steps = np.maximum(0.0, num_documents - relevant - drawn) / (num_documents - drawn)
    return np.concatenate([np.ones((1, *relevant.shape)), np.cumprod(steps, axis=0)])


def _discounts(length: int) -> Values:
    """1 / log2(1 + rank) for the ranks 1..length."""
    return np.asarray(1.0 / np.log2(np.arange(2, length + 2)))
