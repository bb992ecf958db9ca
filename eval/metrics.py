"""What a ranking or a similarity is worth: hit rate, recall, nDCG, MRR, Spearman, and what chance would give.

Every retrieval metric here depends only on the ranks of the relevant documents. A rank is one plus the number of
documents with a better score, so no sorting, no top-k and no dictionaries are needed: a matrix product and a count.

The definitions are trec_eval's (https://github.com/usnistgov/trec_eval), which pytrec_eval and mteb use too: documents
with equal scores stand in descending order of their ids, compared as strings. A model cannot gain from ties then,
as it could if they were all counted as found.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

# Q queries, N documents, D embedding dimension, P pairs of a query and one of its relevant documents
Vectors = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]
Ranks = Sequence[npt.NDArray[np.int64]]  # for each query the ranks (1 is best) of its relevant documents

BLOCK_SCORES = 1 << 24  # scores held at a time: 64 MB in float32
COLLAPSED = 1e-3  # spread of unit vectors below which float32 cosines (steps of 6e-8) can hardly tell two of them apart


def ranks(
    query_vectors: Vectors,
    document_vectors: Vectors,
    relevant: Sequence[Sequence[int]],
    document_ids: Sequence[str] | None = None,
) -> Ranks:
    """Ranks of the relevant documents of each query by dot product.

    query_vectors: (Q, D), document_vectors: (N, D), unit vectors in float32: a lower precision creates ties.
    relevant: for each query the positions of its relevant documents; the ranks come in the same order.
    document_ids: what ties are ordered by; without them the position as a string.
    """
    block_size = max(1, BLOCK_SCORES // max(1, len(document_vectors)))
    blocks = _products(query_vectors, document_vectors, block_size)
    return ranks_of_scores(blocks, relevant, len(document_vectors), document_ids)


def ranks_of_scores(
    blocks: Iterable[Vectors],
    relevant: Sequence[Sequence[int]],
    num_documents: int,
    document_ids: Sequence[str] | None = None,
) -> Ranks:
    """As `ranks`, from scores that come in blocks (some queries, N) in the order of the queries."""
    if not all(relevant):
        raise ValueError(f"query {[bool(r) for r in relevant].index(False)} has no relevant document; leave it out.")
    ids = [str(i) for i in range(num_documents)] if document_ids is None else document_ids
    id_order = np.empty(num_documents, dtype=np.int64)
    id_order[sorted(range(num_documents), key=ids.__getitem__)] = np.arange(num_documents)
    found: list[npt.NDArray[np.int64]] = []
    for scores in blocks:
        found += _ranks_in_block(scores, relevant[len(found) : len(found) + len(scores)], id_order)
    return found


def hit_rate_at_k(ranks: Ranks, k: int) -> Values:
    """(Q,) 1 where any relevant document is in the top k, else 0. What CLIP papers call R@k."""
    return np.array([ranks_of_one.min() <= k for ranks_of_one in ranks], dtype=np.float64)


def recall_at_k(ranks: Ranks, k: int) -> Values:
    """(Q,) the share of a query's relevant documents that is in the top k."""
    return np.array([(ranks_of_one <= k).mean() for ranks_of_one in ranks], dtype=np.float64)


def ndcg_at_k(ranks: Ranks, k: int, gains: Sequence[Sequence[float]] | None = None) -> Values:
    """(Q,) normalised discounted cumulative gain (Järvelin and Kekäläinen, 2002) as trec_eval's ndcg_cut_k.

    DCG = sum of gain / log2(1 + rank) over the relevant documents with rank <= k, divided by the best DCG there can be.
    gains: one for each relevant document in the order of `relevant`; 1 each if left out.
    """
    values = np.zeros(len(ranks))
    for query, ranks_of_one in enumerate(ranks):
        gain = np.ones(len(ranks_of_one)) if gains is None else np.asarray(gains[query], dtype=np.float64)
        inside = ranks_of_one <= k
        dcg = (gain[inside] / np.log2(1.0 + ranks_of_one[inside])).sum()
        best = -np.sort(-gain)[:k]
        values[query] = dcg / (best * _discounts(len(best))).sum()
    return values


def mrr(ranks: Ranks, k: int | None = None) -> Values:
    """(Q,) 1 / rank of the first relevant document, 0 where that is below the top k."""
    first = np.array([ranks_of_one.min() for ranks_of_one in ranks], dtype=np.float64)
    return np.where(first <= (np.inf if k is None else k), 1.0 / first, 0.0)


def chance_hit_rate(num_documents: int, num_relevant: npt.ArrayLike, k: int) -> Values:
    """Expected hit rate at k of a random order: 1 - C(N - R, k) / C(N, k), the hypergeometric chance of no hit in k.

    num_relevant: R, a number or one for each query.
    """
    relevant = np.asarray(num_relevant, dtype=np.float64)
    miss = np.ones_like(relevant)
    for drawn in range(min(k, num_documents)):
        miss = miss * np.maximum(0.0, num_documents - relevant - drawn) / (num_documents - drawn)
    return 1.0 - miss


def chance_ndcg(num_documents: int, num_relevant: npt.ArrayLike, k: int) -> Values:
    """Expected nDCG at k of a random order, all gains 1.

    Each rank holds a relevant document with probability R / N, so
    E[DCG] = R / N * sum over r = 1..min(k, N) of 1 / log2(1 + r); the best DCG is the same sum over r = 1..min(k, R).
    """
    relevant = np.asarray(num_relevant, dtype=np.int64)
    sums = np.concatenate([[0.0], np.cumsum(_discounts(min(k, num_documents)))])
    return np.asarray(relevant / num_documents * sums[-1] / sums[np.minimum(relevant, len(sums) - 1)])


def spearman(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Spearman's rank correlation, tied values sharing their average rank.

    Where one side is constant the correlation is undefined; 0 is returned, for such scores order nothing.
    """
    left_ranks, right_ranks = _average_ranks(left), _average_ranks(right)
    left_ranks, right_ranks = left_ranks - left_ranks.mean(), right_ranks - right_ranks.mean()
    norm = float(np.sqrt((left_ranks @ left_ranks) * (right_ranks @ right_ranks)))
    return float(left_ranks @ right_ranks) / norm if norm > 0 else 0.0


def check_vectors(vectors: Vectors, name: str) -> None:
    """Refuse vectors that are not finite, and warn of an embedding that gives all inputs the same vector.

    Comparisons with NaN are false, so a broken model would rank its relevant documents first and look perfect.
    """
    broken = int((~np.isfinite(vectors).all(axis=1)).sum())
    if broken:
        raise ValueError(
            f"{name}: {broken} of {len(vectors)} vectors hold NaN or infinity; the model has diverged or overflows "
            "its precision, so go back to an earlier checkpoint or encode in float32."
        )
    spread = float(np.sqrt(vectors.astype(np.float64).var(axis=0).sum()))
    if len(vectors) > 1 and spread < COLLAPSED:
        warnings.warn(
            f"{name}: all {len(vectors)} vectors are nearly equal (spread {spread:.1e}); the embedding has collapsed "
            "and its scores mean nothing.",
            RuntimeWarning,
            stacklevel=2,
        )


def _products(query_vectors: Vectors, document_vectors: Vectors, block_size: int) -> Iterator[Vectors]:
    queries = np.asarray(query_vectors, dtype=np.float32)
    documents = np.asarray(document_vectors, dtype=np.float32)
    for start in range(0, len(queries), block_size):
        yield queries[start : start + block_size] @ documents.T  # (block_size, N)


def _ranks_in_block(
    scores: Vectors, relevant: Sequence[Sequence[int]], id_order: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.int64]]:
    counts = [len(positions) for positions in relevant]
    rows = np.repeat(np.arange(len(counts)), counts)  # (P,)
    columns = np.fromiter((position for positions in relevant for position in positions), np.int64, len(rows))
    found = np.empty(len(rows), dtype=np.int64)
    step = max(1, BLOCK_SCORES // scores.shape[1])
    for start in range(0, len(rows), step):
        row, column = rows[start : start + step], columns[start : start + step]
        others = scores[row]  # (step, N)
        own = scores[row, column][:, None]
        better = np.count_nonzero(others > own, axis=1)
        tied = np.flatnonzero(np.count_nonzero(others == own, axis=1) > 1)  # each document ties with itself
        ahead = (others[tied] == own[tied]) & (id_order > id_order[column[tied], None])
        better[tied] += np.count_nonzero(ahead, axis=1)
        found[start : start + step] = better + 1
    return np.split(found, np.cumsum(counts)[:-1])


def _discounts(length: int) -> Values:
    """1 / log2(1 + rank) for the ranks 1..length."""
    return np.asarray(1.0 / np.log2(np.arange(2, length + 2)))


def _average_ranks(values: npt.ArrayLike) -> Values:
    _, positions, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[positions], dtype=np.float64)
