"""Scores of a retrieval task, in vectors or in words.

Q queries, N documents, D embedding dimension.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

from unimodal.bm25 import Bm25Index
from unimodal.vectors import Vectors

from ..data.datasets import Fused, Input, RetrievalData
from .chance import chance
from .metrics import metric_values
from .ranks import NEVER, Ranks, ranks, ranks_of_lists, ranks_of_scores
from .results import Half, Row, Values
from .statistics import score_intervals

IMAGE_TEXT_METRICS = ("hit_rate_at_1", "hit_rate_at_5", "hit_rate_at_10")
TEXT_METRICS = ("ndcg_at_10", "hit_rate_at_1")
OTHER_METRICS = (
    "ndcg_at_10",
    "hit_rate_at_1",
    "hit_rate_at_10",
)  # product lookup, images of documents
MAX_BM25_SCORES = (
    5_000_000_000  # queries x documents: some minutes; with more there is no baseline
)


def usual_metrics(data: RetrievalData) -> tuple[str, ...]:
    """What is printed of a task that asks for nothing else, the main one first.

    Captions and images have the hit rates of CLIP papers, texts the nDCG of BEIR.
    """
    if data.both_ways:
        return IMAGE_TEXT_METRICS
    return TEXT_METRICS if half_of(data) == "text" else OTHER_METRICS


def half_of(data: RetrievalData) -> Half:
    """Which half of the space a task is about: cross-modal unless both sides are
    of one modality.
    """
    modalities = modalities_of(data.queries) | modalities_of(data.documents)
    if len(modalities) > 1:
        return "cross-modal"
    return "text" if "text" in modalities else "image"


def modalities_of(inputs: Sequence[Input]) -> frozenset[str]:
    """What a model must be able to embed: "text", "image" or both."""
    kinds = {type(one) for one in inputs}
    if Fused in kinds:
        return frozenset({"text", "image"})
    return frozenset("text" if kind is str else "image" for kind in kinds)


def retrieval_rows(
    task: str,
    data: RetrievalData,
    metrics: Sequence[str],
    queries: Vectors | None,
    documents: Vectors | None,
    *,
    with_intervals: bool = True,
) -> tuple[list[Row], dict[str, Values]]:
    """A row for each metric, beside chance and BM25, and each query's values.

    queries: (Q, D), documents: (N, D), unit vectors; None where the model has none: rows have the
        value None then.
    with_intervals: also 95 % intervals (`statistics.score_intervals`).
    """
    values = {}
    if queries is not None and documents is not None:
        values = vector_values(data, metrics, queries, documents)
    words = {
        metric: float(found.mean())
        for metric, found in bm25_values(data, metrics).items()
    }
    return mean_rows(
        task,
        metrics,
        values,
        chances(data, metrics),
        words,
        with_intervals=with_intervals,
    ), values


def mean_rows(
    task: str,
    metrics: Sequence[str],
    values: Mapping[str, Values],
    chance: Mapping[str, float],
    baseline: Mapping[str, float],
    *,
    with_intervals: bool,
) -> list[Row]:
    """A row for each metric that is the mean of its values; None where there are none."""
    if not values:
        return [
            Row(task, metric, None, chance[metric], baseline.get(metric))
            for metric in metrics
        ]
    rows = [
        Row(
            task,
            metric,
            float(values[metric].mean()),
            chance[metric],
            baseline.get(metric),
            num=len(values[metric]),
        )
        for metric in metrics
    ]
    if not with_intervals:
        return rows
    intervals = score_intervals([values[metric] for metric in metrics])
    return [
        dataclasses.replace(row, low=low, high=high)
        for row, (low, high) in zip(rows, intervals, strict=True)
    ]


def vector_values(
    data: RetrievalData,
    metrics: Sequence[str],
    query_vectors: Vectors,
    document_vectors: Vectors,
) -> dict[str, Values]:
    """metric -> (Q,) each query's value, by cosine. query_vectors: (Q, D), document_vectors: (N,
    D), unit vectors.
    """
    found = vector_ranks(data, query_vectors, document_vectors)
    return {metric: metric_values(metric, found) for metric in metrics}


def vector_ranks(
    data: RetrievalData, query_vectors: Vectors, document_vectors: Vectors
) -> Ranks:
    """Ranks of the relevant documents by cosine similarity."""
    found = ranks(
        query_vectors,
        document_vectors,
        data.relevant,
        data.document_ids,
        gains=data.gains,
        excluded=data.excluded,
        lost=data.lost,
    )
    return dataclasses.replace(found, hit_gain=data.hit_gain)


def chances(data: RetrievalData, metrics: Sequence[str]) -> dict[str, float]:
    """metric -> what a random order of the documents would score: for each query of those that it
    searches.
    """
    totals = dict.fromkeys(metrics, 0.0)
    for num_documents, part in _by_size(data):
        for metric in totals:
            totals[metric] += chance(metric, num_documents, part) * len(part)
    return {metric: total / len(data.queries) for metric, total in totals.items()}


def bm25_values(data: RetrievalData, metrics: Sequence[str]) -> dict[str, Values]:
    """metric -> (Q,) each query's value by BM25; none where a side has inputs without words, or
    both are too large.

    Remembered, as an evaluation inside training asks again and again.
    """
    queries, documents = (
        tuple(map(_words, side)) for side in (data.queries, data.documents)
    )
    if (
        not all(queries)
        or not all(documents)
        or len(queries) * len(documents) > MAX_BM25_SCORES
    ):
        return {}
    found = _bm25_ranks(
        queries,
        documents,
        tuple(map(tuple, data.relevant)),
        None if data.gains is None else tuple(map(tuple, data.gains)),
        None if data.excluded is None else tuple(map(tuple, data.excluded)),
        None if data.document_ids is None else tuple(data.document_ids),
        None if data.lost is None else tuple(map(tuple, data.lost)),
    )
    found = dataclasses.replace(found, hit_gain=data.hit_gain)
    return {metric: metric_values(metric, found) for metric in metrics}


@functools.lru_cache(maxsize=32)
def _bm25_ranks(
    queries: tuple[str, ...],
    documents: tuple[str, ...],
    relevant: tuple[tuple[int, ...], ...],
    gains: tuple[tuple[float, ...], ...] | None,
    excluded: tuple[tuple[int, ...], ...] | None,
    document_ids: tuple[str, ...] | None,
    lost: tuple[tuple[float, ...], ...] | None,
) -> Ranks:
    blocks = Bm25Index(documents).score_blocks(queries)
    return ranks_of_scores(
        blocks,
        relevant,
        len(documents),
        document_ids,
        gains=gains,
        excluded=excluded,
        lost=lost,
    )


def _words(one: Input) -> str:
    """What of an input BM25 can read."""
    if isinstance(one, Fused):
        return one.text
    return one if isinstance(one, str) else ""


def _by_size(data: RetrievalData) -> Iterator[tuple[int, Ranks]]:
    """How many documents are searched, and the relevant ones among them of the queries that search
    so many.

    The ranks are not known, but for those of documents that a query does not search, or that are
    lost.
    """
    every = [[1.0] * len(documents) for documents in data.relevant]
    parts: dict[int, tuple[list[list[int]], list[list[float]]]] = {}
    for query, (documents, gains) in enumerate(
        zip(data.relevant, data.gains or every, strict=True)
    ):
        left_out = set(data.excluded[query]) if data.excluded else set()
        absent = data.lost[query] if data.lost else []
        places = [NEVER if one in left_out else one for one in documents] + [
            NEVER
        ] * len(absent)
        relevant, known = parts.setdefault(
            len(data.documents) - len(left_out), ([], [])
        )
        relevant.append(places)
        known.append([*gains, *absent])
    for num_documents, (relevant, known) in parts.items():
        yield (
            num_documents,
            dataclasses.replace(
                ranks_of_lists(relevant, known), hit_gain=data.hit_gain
            ),
        )
