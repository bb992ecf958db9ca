"""Scores of a retrieval task, in vectors or in words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from unimodal.bm25 import Bm25Index

from .datasets import RetrievalData
from .metrics import (
    Ranks,
    Values,
    Vectors,
    chance_hit_rate,
    chance_ndcg,
    check_vectors,
    hit_rate_at_k,
    ndcg_at_k,
    ranks,
    ranks_of_scores,
)
from .results import Row

Metric = Callable[[Ranks], Values]
Chance = Callable[[int, npt.ArrayLike], Values]

METRICS: dict[str, tuple[Metric, Chance]] = {
    "hit_rate_at_1": (functools.partial(hit_rate_at_k, k=1), functools.partial(chance_hit_rate, k=1)),
    "hit_rate_at_5": (functools.partial(hit_rate_at_k, k=5), functools.partial(chance_hit_rate, k=5)),
    "hit_rate_at_10": (functools.partial(hit_rate_at_k, k=10), functools.partial(chance_hit_rate, k=10)),
    "ndcg_at_10": (functools.partial(ndcg_at_k, k=10), functools.partial(chance_ndcg, k=10)),
}
IMAGE_TEXT_METRICS = ("hit_rate_at_1", "hit_rate_at_5", "hit_rate_at_10")
TEXT_METRICS = ("ndcg_at_10", "hit_rate_at_1")


def retrieval_rows(
    task: str, data: RetrievalData, metrics: Sequence[str], found: Ranks | None, baseline: Ranks | None
) -> list[Row]:
    """One row for each metric. found, baseline: ranks by the model and by BM25; None where there are none."""
    num_relevant = [len(positions) for positions in data.relevant]
    rows = []
    for name in metrics:
        metric, chance = METRICS[name]
        value, words = (None if one is None else float(metric(one).mean()) for one in (found, baseline))
        rows.append(Row(task, name, value, float(chance(len(data.documents), num_relevant).mean()), words))
    return rows


def vector_ranks(task: str, data: RetrievalData, query_vectors: Vectors, document_vectors: Vectors) -> Ranks:
    """Ranks of the relevant documents by cosine similarity, once the vectors are seen to be sound."""
    check_vectors(query_vectors, f"queries of {task}")
    check_vectors(document_vectors, f"documents of {task}")
    return ranks(query_vectors, document_vectors, data.relevant)


def bm25_ranks(data: RetrievalData) -> Ranks:
    """Ranks of the relevant documents by BM25; remembered, as an evaluation inside training asks again and again."""
    queries, documents = tuple(map(str, data.queries)), tuple(map(str, data.documents))
    return _bm25_ranks(queries, documents, tuple(map(tuple, data.relevant)))


@functools.lru_cache(maxsize=32)
def _bm25_ranks(
    queries: tuple[str, ...], documents: tuple[str, ...], relevant: tuple[tuple[int, ...], ...]
) -> list[npt.NDArray[np.int64]]:
    blocks = Bm25Index(documents).score_blocks(queries)
    return list(ranks_of_scores(blocks, relevant, len(documents)))
