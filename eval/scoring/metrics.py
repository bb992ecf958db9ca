"""Metrics: hit rate, recall, precision, nDCG, MAP and MRR of rankings, Spearman and Pearson.

Every retrieval metric here depends only on the ranks of the relevant documents. A rank is one plus
the number of documents with a better score, so no sorting, no top-k and no dictionaries are needed:
a matrix product and a count.

The definitions are trec_eval's (https://github.com/usnistgov/trec_eval), which pytrec_eval and mteb
use too: documents with equal scores stand in descending order of their ids, compared as strings. A
model cannot gain from ties then, as it could if they were all counted as found.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from unimodal.config import nearest
from unimodal.vectors import Vectors

from .ranks import NEVER, Ranks
from .score_row import Values

# Q queries, N documents, D embedding dimension, P pairs of a query and one of its relevant
# documents
# spread of unit vectors below which float32 cosines (steps of 6e-8) can hardly tell two of them
# apart
COLLAPSED = 1e-3
# of a unit vector's length: bfloat16 towers normalised in float32 are within 1e-6
NORM_TOLERANCE = 1e-3
# cosines of float32 vectors that differ by less may be equal: each is off by up to 2e-7
ROUNDING = 1e-6
BLOCK_ROWS = 1 << 14  # vectors looked at together


def hit_rate_at_k(ranks: Ranks, k: int) -> Values:
    """(Q,) 1 where any relevant document is in the top k, else 0. What CLIP papers call R@k.

    Of graded documents those of at least `ranks.hit_gain` count.
    """
    counted = np.where(ranks.gains >= ranks.hit_gain, ranks.flat, NEVER)
    return np.asarray(_first(ranks, counted) <= k, dtype=np.float64)


def recall_at_k(ranks: Ranks, k: int) -> Values:
    """(Q,) the share of a query's R relevant documents that is in the top k: at most k / R."""
    return _sums(ranks, ranks.flat <= k) / ranks.counts


def precision_at_k(ranks: Ranks, k: int) -> Values:
    """(Q,) the share of the top k that is relevant; k counts in full with fewer documents."""
    return _sums(ranks, ranks.flat <= k) / k


def ndcg_at_k(ranks: Ranks, k: int) -> Values:
    """(Q,) normalized discounted cumulative gain, as trec_eval's ndcg_cut_k.

    (Järvelin and Kekäläinen, 2002.)
    DCG = sum of gain / log2(1 + rank) over the relevant documents with rank <= k, divided by the
    best DCG there can be.
    """
    gained = np.where(ranks.flat <= k, ranks.gains / np.log2(1.0 + ranks.flat), 0.0)
    return _sums(ranks, gained) / best_dcg(ranks, k)


def best_dcg(ranks: Ranks, k: int) -> Values:
    """(Q,) the DCG at k of an order in which no gain comes after a lower one."""
    order = np.lexsort((-ranks.gains, ranks.queries))  # descending within each query
    place = ranks.places
    return _sums(
        ranks,
        np.where(place <= k, ranks.gains[order] / np.log2(1.0 + place), 0.0),
    )


def map_at_k(ranks: Ranks, k: int) -> Values:
    """(Q,) average precision (map_cut_k).

    It is the mean over all relevant documents of the precision at their rank, 0 below the top k.
    """
    ascending = ranks.flat[np.lexsort((ranks.flat, ranks.queries))]  # within each query
    return (
        _sums(
            ranks,
            np.where(ascending <= k, ranks.places / ascending, 0.0),
        )
        / ranks.counts
    )


def mrr_at_k(ranks: Ranks, k: int) -> Values:
    """(Q,) 1 / rank of the first relevant document, 0 where that is below the top k."""
    first = _first(ranks, ranks.flat)
    return np.where(first <= k, 1.0 / first, 0.0)


METRICS: dict[str, Callable[[Ranks, int], Values]] = {
    "hit_rate": hit_rate_at_k,
    "recall": recall_at_k,
    "precision": precision_at_k,
    "ndcg": ndcg_at_k,
    "map": map_at_k,
    "mrr": mrr_at_k,
}


def metric_values(metric: str, ranks: Ranks) -> Values:
    """(Q,) each query's value of a metric by its name, such as "ndcg_at_10"."""
    family, k = parse_metric(metric)
    return METRICS[family](ranks, k)


def parse_metric(metric: str) -> tuple[str, int]:
    """("ndcg", 10) of "ndcg_at_10".

    Raises ValueError, with the nearest name, for what is not a metric of a ranking.
    """
    family, _, k = metric.rpartition("_at_")
    if family not in METRICS or not k.isdecimal() or int(k) == 0:
        wanted = [
            f"{name}_at_{k if k.isdecimal() and int(k) else 10}" for name in METRICS
        ]
        raise ValueError(
            f"there is no metric {metric!r} of a ranking; {nearest(metric, wanted)}"
        )
    return family, int(k)


def spearman(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Spearman's rank correlation, tied values sharing their average rank.

    NaN where it is undefined: one side is constant, or there are fewer than two pairs. That is the
    answer of scipy and mteb too; `unordered` puts it into words.
    """
    return pearson(average_ranks(left), average_ranks(right))


def pearson(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Pearson's correlation; NaN where it is undefined, as for `spearman`."""
    a, b = (np.asarray(side, dtype=np.float64) for side in (left, right))
    if len(a) < 2 or _is_constant(a) or _is_constant(b):
        return float("nan")

    a = a - a.mean()
    b = b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0 else float("nan")


def _is_constant(values: Values) -> bool:
    """Whether all are equal to the bit: the mean of equal numbers may differ from them."""
    return bool((values == values[0]).all())


def unordered(cosines: npt.ArrayLike, human: npt.ArrayLike) -> str:
    """Why no correlation of the two sides is defined; "" where it is.

    cosines: (P,) of the model. human: (P,) scores of the pairs.

    Cosines that are equal but for the rounding of float32 (`ROUNDING`) order nothing either: their
    order would be that of their last bits.
    """
    similarities, scores = (
        np.asarray(side, dtype=np.float64) for side in (cosines, human)
    )
    if len(scores) < 2:
        return f"{len(scores)} pair{'' if len(scores) == 1 else 's'}"
    if _is_constant(scores):
        return f"the scores of all {len(scores)} pairs are {scores[0]:g}"
    if np.ptp(similarities) <= ROUNDING:
        return f"the model gives all {len(scores)} pairs the same similarity"
    return ""


def average_ranks(values: npt.ArrayLike) -> Values:
    """Ranks from the lowest (1) to the highest value, tied ones sharing their average."""
    _, positions, counts = np.unique(
        np.asarray(values), return_inverse=True, return_counts=True
    )
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[positions], dtype=np.float64)


def check_vectors(
    vectors: Vectors, name: str, *, refuse_collapsed: bool = True
) -> None:
    """Refuse vectors that are not finite, not of length 1, or (nearly) the same for all inputs.

    Comparisons with NaN are false, so a broken model would rank its relevant documents first and
    look perfect; equal vectors are ranked by the ids of the documents and score anything but what
    chance would.

    vectors: (n, D). name: what they are of, for the message.
    refuse_collapsed: False warns of an embedding that gives all inputs the same vector, and goes
        on.
    """
    broken = 0
    worst = 1.0
    total = np.zeros(vectors.shape[1])
    squares = 0.0
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = np.asarray(vectors[start : start + BLOCK_ROWS], dtype=np.float64)
        squared = np.einsum("nd,nd->n", block, block)
        finite = np.isfinite(squared)  # a float32 squared in float64 cannot overflow
        broken += int((~finite).sum())
        lengths = np.sqrt(squared[finite])
        if len(lengths):
            farthest = float(lengths[np.argmax(np.abs(lengths - 1.0))])
            worst = farthest if abs(farthest - 1.0) > abs(worst - 1.0) else worst
        total += block[finite].sum(axis=0)
        squares += float(squared[finite].sum())
    if broken:
        raise ValueError(
            f"{name}: {broken} of {len(vectors)} vectors hold NaN or infinity; the model has "
            "diverged or overflows its precision, so go back to an earlier checkpoint or encode "
            "in float32."
        )
    if abs(worst - 1.0) > NORM_TOLERANCE:
        raise ValueError(
            f"{name}: a vector has the length {worst:.4g}, not 1; normalize vectors before they "
            "are scored, because their product is not a cosine otherwise."
        )
    mean = total / max(1, len(vectors))
    spread = float(
        np.sqrt(max(0.0, squares / max(1, len(vectors)) - float(mean @ mean)))
    )
    if len(vectors) > 1 and spread < COLLAPSED:
        message = (
            f"{name}: all {len(vectors)} vectors are nearly equal (spread {spread:.1e}); the "
            "embedding has collapsed and its scores mean nothing"
        )
        if refuse_collapsed:
            raise ValueError(f"{message}, so go back to an earlier checkpoint.")
        warnings.warn(f"{message}.", RuntimeWarning, stacklevel=2)


def _first(ranks: Ranks, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(P,) -> (Q,) the lowest."""
    return (
        np.asarray(np.minimum.reduceat(values, ranks.offsets[:-1]))
        if len(ranks)
        else values
    )


def _sums(ranks: Ranks, values: npt.NDArray[np.bool_] | Values) -> Values:
    """(P,) -> (Q,)"""
    if not len(ranks):
        return np.zeros(0)
    return np.asarray(np.add.reduceat(values, ranks.offsets[:-1], dtype=np.float64))
