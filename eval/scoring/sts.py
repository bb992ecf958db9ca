"""Semantic textual similarity: does the cosine order pairs of texts as people do?

P pairs, D embedding dimension.
"""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from unimodal.bm25 import Bm25Index
from unimodal.vectors import Vectors

from ..data.datasets import PairData
from .metrics import unordered
from .results import Row, Values
from .statistics import CORRELATIONS, Bounds, correlation_intervals

STS_METRICS = ("spearman",)


def sts_rows(
    task: str,
    pairs: PairData,
    metrics: Sequence[str],
    left: Vectors | None,
    right: Vectors | None,
    *,
    with_intervals: bool = True,
) -> tuple[list[Row], dict[str, Values]]:
    """A row for each metric ("spearman", "pearson") over all pairs, then over each group apart
    ("task/group").

    left, right: (P, D) unit vectors; None where the model has none: rows have the value None then.
    with_intervals: also 95 % intervals, from resampled pairs.

    Chance is 0, the baseline BM25's. The values are those of each pair, under "cosine": a
    correlation has no parts. An undefined correlation (all scores alike, all cosines alike, one
    pair) has the value None, a note that says why, and a warning.
    """
    groups = {task: list(range(len(pairs.scores)))}
    groups.update(
        {f"{task}/{name}": positions for name, positions in pairs.groups.items()}
    )
    human = np.array(pairs.scores, dtype=np.float64)
    words = bm25_similarities(pairs)
    model = None if left is None or right is None else cosines(left, right)
    rows: list[Row] = []
    for name, positions in groups.items():
        wanted = human[positions]
        baselines = _correlations(words[positions], wanted, metrics)
        if model is None:
            rows += [
                Row(name, metric, None, 0.0, one)
                for metric, one in zip(metrics, baselines, strict=True)
            ]
            continue

        found = model[positions]
        note = unordered(found, wanted)
        if note:
            warnings.warn(
                f"{name}: {' and '.join(metrics)} undefined: {note}.", stacklevel=2
            )
        intervals: list[Bounds] = [(None, None)] * len(metrics)
        if with_intervals and not note:
            intervals = correlation_intervals(found, wanted, metrics)
        values = _correlations(found, wanted, metrics)
        for metric, value, baseline, bounds in zip(
            metrics, values, baselines, intervals, strict=True
        ):
            rows.append(
                Row(
                    name,
                    metric,
                    value,
                    0.0,
                    baseline,
                    *bounds,
                    num=len(positions),
                    note=note,
                )
            )
    return rows, {} if model is None else {"cosine": model}


def _correlations(
    similarities: Values, human: Values, metrics: Sequence[str]
) -> list[float | None]:
    """Of each metric the correlation; None where it is undefined."""
    if unordered(similarities, human):
        return [None] * len(metrics)
    return [CORRELATIONS[metric](similarities, human) for metric in metrics]


def cosines(left: Vectors, right: Vectors) -> Values:
    """(P,) the cosine of each pair. left, right: (P, D) unit vectors."""
    return np.asarray(np.einsum("pd,pd->p", left, right, dtype=np.float64))


def bm25_similarities(pairs: PairData) -> Values:
    """How similar two texts are by their words: BM25 made symmetric.

    Over the distinct texts of the task as the collection, s(a, b) = BM25(query a, document b) +
    BM25(query b, document a), divided by the geometric mean of s(a, a) and s(b, b) so that long
    texts do not win by their length: 1 for equal texts, 0 for texts without a common word.
    """
    return _bm25_similarities(tuple(pairs.left), tuple(pairs.right))


@functools.lru_cache(maxsize=32)
def _bm25_similarities(left: tuple[str, ...], right: tuple[str, ...]) -> Values:
    position = _positions((*left, *right))
    wanted: dict[str, set[str]] = {text: {text} for text in position}
    for a, b in zip(left, right, strict=True):
        wanted[a].add(b)
        wanted[b].add(a)
    found = itertools.chain.from_iterable(
        Bm25Index(list(position)).score_blocks(list(position))
    )
    scores = {
        (query, document): float(row[position[document]])
        for query, row in zip(position, found, strict=True)
        for document in wanted[query]
    }
    norms = {text: math.sqrt(scores[text, text]) for text in position}
    return np.array(
        [
            (scores[a, b] + scores[b, a]) / (2 * norms[a] * norms[b])
            if norms[a] and norms[b]
            else 0.0
            for a, b in zip(left, right, strict=True)
        ]
    )


def _positions(texts: Iterable[str]) -> dict[str, int]:
    """Each distinct text and its number."""
    return {text: number for number, text in enumerate(dict.fromkeys(texts))}
