"""Semantic textual similarity: does the cosine order pairs of texts as people do?

P pairs, D embedding dimension.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from unimodal.bm25 import Bm25Index
from unimodal.vectors import Vectors

from .score_row import Values

STS_METRICS = ("spearman",)


def cosines(left: Vectors, right: Vectors) -> Values:
    """(P,) the cosine of each pair. left, right: (P, D) unit vectors."""
    return np.asarray(np.einsum("pd,pd->p", left, right, dtype=np.float64))


def bm25_similarities(left: Sequence[str], right: Sequence[str]) -> Values:
    """(P,) how similar two texts are by their words: BM25 made symmetric.

    Over the distinct texts of the task as the collection, s(a, b) = BM25(query a, document b) +
    BM25(query b, document a), divided by the geometric mean of s(a, a) and s(b, b) so that long
    texts do not win by their length: 1 for equal texts, 0 for texts without a common word.
    """
    return _bm25_similarities(tuple(left), tuple(right))


@functools.lru_cache(maxsize=32)
def _bm25_similarities(left: tuple[str, ...], right: tuple[str, ...]) -> Values:
    texts = list(dict.fromkeys((*left, *right)))
    position = {text: number for number, text in enumerate(texts)}
    partners: dict[str, set[str]] = {text: {text} for text in texts}
    for a, b in zip(left, right, strict=True):
        partners[a].add(b)
        partners[b].add(a)

    scores: dict[tuple[str, str], float] = {}
    rows = itertools.chain.from_iterable(Bm25Index(texts).score_blocks(texts))
    for query, row in zip(texts, rows, strict=True):
        for document in partners[query]:
            scores[query, document] = float(row[position[document]])

    norms = {text: math.sqrt(scores[text, text]) for text in texts}
    similarities = np.zeros(len(left))
    for pair, (a, b) in enumerate(zip(left, right, strict=True)):
        if norms[a] and norms[b]:
            similarities[pair] = (scores[a, b] + scores[b, a]) / (
                2 * norms[a] * norms[b]
            )
    return similarities
