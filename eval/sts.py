"""Semantic textual similarity: does the cosine order pairs of texts as people do?"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from unimodal.bm25 import Bm25Index

from .datasets import PairData
from .metrics import Vectors, check_vectors, spearman
from .results import Row

Similarities = npt.NDArray[np.float64]  # one for each pair


def sts_rows(task: str, pairs: PairData, model: Similarities | None, baseline: Similarities | None) -> list[Row]:
    """Spearman over all pairs, then over each group apart ("task/group"); chance is 0."""
    groups = {task: list(range(len(pairs.scores)))}
    groups.update({f"{task}/{name}": positions for name, positions in pairs.groups.items()})
    human = np.array(pairs.scores)
    rows = []
    for name, positions in groups.items():
        value, words = (
            None if one is None else spearman(one[positions], human[positions]) for one in (model, baseline)
        )
        rows.append(Row(name, "spearman", value, 0.0, words))
    return rows


def cosine_similarities(task: str, left: Vectors, right: Vectors) -> Similarities:
    """The cosine of each pair. left, right: (P, D) unit vectors."""
    check_vectors(left, f"texts of {task}")
    check_vectors(right, f"texts of {task}")
    return np.asarray(np.einsum("pd,pd->p", left, right, dtype=np.float64))


def bm25_similarities(pairs: PairData) -> Similarities:
    """How similar two texts are by their words: BM25 made symmetric.

    Over the distinct texts of the task as the collection, s(a, b) = BM25(query a, document b) + BM25(query b,
    document a), divided by the geometric mean of s(a, a) and s(b, b) so that long texts do not win by their length:
    1 for equal texts, 0 for texts without a common word.
    """
    return _bm25_similarities(tuple(pairs.left), tuple(pairs.right))


@functools.lru_cache(maxsize=32)
def _bm25_similarities(left: tuple[str, ...], right: tuple[str, ...]) -> Similarities:
    position = _positions((*left, *right))
    wanted: dict[str, set[str]] = {text: {text} for text in position}
    for a, b in zip(left, right, strict=True):
        wanted[a].add(b)
        wanted[b].add(a)
    found = itertools.chain.from_iterable(Bm25Index(list(position)).score_blocks(list(position)))
    scores = {
        (query, document): float(row[position[document]])
        for query, row in zip(position, found, strict=True)
        for document in wanted[query]
    }
    norms = {text: math.sqrt(scores[text, text]) for text in position}
    return np.array(
        [
            (scores[a, b] + scores[b, a]) / (2 * norms[a] * norms[b]) if norms[a] and norms[b] else 0.0
            for a, b in zip(left, right, strict=True)
        ]
    )


def _positions(texts: Iterable[str]) -> dict[str, int]:
    """Each distinct text and its number."""
    return {text: number for number, text in enumerate(dict.fromkeys(texts))}
