"""Retrieval: queries, the documents that they search, and which of them are relevant.

n some of the queries, Q queries, N documents, D embedding dimension.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from unimodal.vectors import Vectors

from ..scoring.metrics import parse_metric
from ..scoring.retrieval import (
    IMAGE_TEXT_METRICS,
    OTHER_METRICS,
    TEXT_METRICS,
    Judgements,
    bm25_values,
    chances,
    select,
    vector_values,
)
from ..scoring.score_row import Half, ScoreRow, Values
from ..scoring.statistics import mean_rows, mean_scores
from .inputs import Input, Side, modalities_of, text_of
from .task_data import Direction, Numbers, Ranking, SubsetScores, TaskData, refuse_empty


@dataclass(frozen=True)
class RetrievalData(TaskData):
    """Queries, documents, and for each query the positions of its relevant documents."""

    queries: list[Input]
    documents: list[Input]
    relevant: list[list[int]]
    gains: list[list[float]] | None = None  # of the same documents; None: 1 each
    query_ids: list[str] | None = None
    document_ids: list[str] | None = (
        None  # ties are ordered by them; None: the positions
    )
    # documents that a query does not search, though others do: itself
    excluded: list[list[int]] | None = None
    # hit rates count documents of at least this gain: the product itself, not one like it
    hit_gain: float = 0.0
    both_ways: bool = False  # captions and images: `swap_sides` of it is scored too
    # gains of relevant documents that are missing: never found, whatever the ranking
    lost: list[list[float]] | None = None
    notes: tuple[str, ...] = ()

    def inputs(self) -> tuple[Side, Side]:
        """Queries and documents, with their prompts; captions and images have none."""
        if self.both_ways:
            return Side(self.queries), Side(self.documents)
        return Side(self.queries, "query"), Side(self.documents, "document")

    @property
    def half(self) -> Half:
        """Cross-modal, unless both sides are of one modality."""
        modalities = modalities_of(self.queries) | modalities_of(self.documents)
        if len(modalities) > 1:
            return "cross-modal"
        return "text" if "text" in modalities else "image"

    @property
    def default_metrics(self) -> tuple[str, ...]:
        """Hit rates for captions and images, as in CLIP papers; BEIR's nDCG for texts."""
        if self.both_ways:
            return IMAGE_TEXT_METRICS
        return TEXT_METRICS if self.half == "text" else OTHER_METRICS

    @property
    def judgements(self) -> Judgements:
        """Which documents are relevant for which query."""
        return Judgements(
            self.relevant,
            len(self.documents),
            self.gains,
            self.document_ids,
            self.excluded,
            self.lost,
            self.hit_gain,
        )

    def score(
        self,
        task: str,
        metrics: Sequence[str],
        queries: Vectors | None,
        documents: Vectors | None,
        *,
        with_intervals: bool = True,
    ) -> tuple[list[ScoreRow], dict[str, Values]]:
        """A row for each metric, beside chance and BM25, and each query's values."""
        values: dict[str, Values] = {}
        if queries is not None and documents is not None:
            values = vector_values(self.judgements, metrics, queries, documents)
        by_words = self.bm25_values(metrics)
        baseline = {metric: float(found.mean()) for metric, found in by_words.items()}
        rows = mean_rows(
            task,
            metrics,
            values,
            chances(self.judgements, metrics),
            baseline,
            with_intervals=with_intervals,
        )
        return rows, values

    def bm25_values(self, metrics: Sequence[str]) -> dict[str, Values]:
        """metric -> (Q,) each query's value by BM25; none if a side has inputs without words."""
        return bm25_values(
            self.judgements,
            metrics,
            [text_of(query) for query in self.queries],
            [text_of(document) for document in self.documents],
        )

    def check(self, name: str) -> RetrievalData:
        """The data, with a note of how many queries search none of their relevant documents.

        Raises ValueError, naming the task, for no queries or documents, empty texts, ids that are
        not distinct, and a query without a relevant document. A query whose relevant documents are
        lost, or not among those that it searches, scores 0.
        """
        _check_side(name, "queries", self.queries, self.query_ids)
        _check_side(name, "documents", self.documents, self.document_ids)
        for query, documents in enumerate(self.relevant):
            if not documents and not (self.lost and self.lost[query]):
                query_id = self.query_ids[query] if self.query_ids else str(query)
                raise ValueError(
                    f"{name}: query {query_id!r} has no relevant document; leave it out."
                )
        hopeless = self._num_hopeless()
        if not hopeless:
            return self
        note = (
            f"{hopeless} of {len(self.queries)} queries search none of their relevant documents "
            "and score 0"
        )
        return dataclasses.replace(self, notes=(*self.notes, note))

    def _num_hopeless(self) -> int:
        if not self.excluded:
            return 0
        return sum(
            bool(documents) and set(documents) <= set(excluded)
            for documents, excluded in zip(self.relevant, self.excluded, strict=True)
        )

    def check_metric(self, metric: str) -> None:
        """Raise ValueError, with the nearest name, for what is not a metric of a ranking."""
        parse_metric(metric)

    @property
    def directions(self) -> tuple[str, ...]:
        """Captions and images are scored in both directions."""
        return ("/text->image", "/image->text") if self.both_ways else ("",)

    def split_directions(
        self, queries: Vectors | None, documents: Vectors | None
    ) -> list[Direction]:
        """Captions to images and images to captions; one direction otherwise."""
        if not self.both_ways:
            return [Direction("", self, queries, documents)]
        positions = self._relevant_positions()
        images = None if documents is None else documents[positions]
        forth, back = self.directions
        return [
            Direction(forth, self, queries, documents),
            Direction(back, self.swap_sides(), images, queries),
        ]

    def _relevant_positions(self) -> list[int]:
        return sorted({position for some in self.relevant for position in some})

    def swap_sides(self) -> RetrievalData:
        """The same pairs in the other direction.

        A document that is relevant for no query does not become a query.
        """
        gains = self.gains or [[1.0] * len(documents) for documents in self.relevant]
        queries_of: dict[int, list[int]] = {}
        gains_of: dict[int, list[float]] = {}
        for query, documents in enumerate(self.relevant):
            for document, gain in zip(documents, gains[query], strict=True):
                queries_of.setdefault(document, []).append(query)
                gains_of.setdefault(document, []).append(gain)

        positions = sorted(queries_of)
        swapped_gains = [gains_of[document] for document in positions]
        ids = self.document_ids
        return RetrievalData(
            queries=select(self.documents, positions),
            documents=self.queries,
            relevant=[queries_of[document] for document in positions],
            gains=None if self.gains is None else swapped_gains,
            query_ids=None if ids is None else select(ids, positions),
            document_ids=self.query_ids,
        )

    def score_subset(
        self,
        metrics: Sequence[str],
        numbers: Numbers,
        queries: Vectors,
        documents: Vectors,
    ) -> SubsetScores:
        """Score some of the queries, perhaps with other vectors."""
        judgements = self.judgements.select(numbers.tolist())
        values = vector_values(judgements, metrics, queries, documents)
        return SubsetScores(values, mean_scores(values))

    def answers(self) -> tuple[dict[int, Input], list[list[int]]]:
        """The documents of a gain above 0."""
        relevant = self.relevant
        if self.gains is not None:
            relevant = [
                _positive(documents, gains)
                for documents, gains in zip(self.relevant, self.gains, strict=True)
            ]
        positions = sorted({position for some in relevant for position in some})
        return {position: self.documents[position] for position in positions}, relevant

    def as_ranking(self) -> Ranking:
        """Queries that should find documents."""
        return Ranking(self.queries, self.documents, self.judgements)

    def as_corpus(self) -> Ranking:
        """The same: its documents are a corpus."""
        return self.as_ranking()


def _check_side(
    name: str, what: str, inputs: Sequence[Input], ids: Sequence[str] | None
) -> None:
    refuse_empty(name, what, inputs)
    for value, count in Counter(ids or ()).items():
        if count > 1:
            raise ValueError(
                f"{name}: id {value!r} is that of several {what}; ids must be distinct."
            )


def _positive(documents: Sequence[int], gains: Sequence[float]) -> list[int]:
    return [
        document for document, gain in zip(documents, gains, strict=True) if gain > 0
    ]
