"""The ranks of the relevant documents, counted in blocks, without sorting and without a top k.

Q queries, N documents, D embedding dimension, P pairs of a query and one of its relevant documents.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from itertools import chain

import numpy as np
import numpy.typing as npt
import xxhash

from unimodal.vectors import Vectors

from .score_row import Values

Integers = npt.NDArray[np.int64]

# scores held at a time, 16 MB: they are counted while they are in the processor's cache
BLOCK_SCORES = 1 << 22
# queries of a block at least, or the product is as slow as reading all documents for each
BLOCK_ROWS = 64
# with more documents than that (64 MB of scores) these come in blocks too
WIDE = 1 << 18
WIDE_ROWS = 2048
WIDE_COLUMNS = 8192  # of those blocks
# relevant documents of one query from which on sorting its scores beats counting for each
MANY = 48
# the rank of a document that its query does not search, or that is lost
NEVER = int(np.iinfo(np.int64).max // 2)
LOST = -1  # the position of a document that is judged and missing


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Ranks (1 is best) of the relevant documents; `ranks[q]` are those of query q.

    They are in the order in which the relevant documents were given, without those of a gain of 0
    or less.
    """

    flat: Integers  # (P,)
    offsets: (
        Integers  # (Q + 1,) query q has flat[offsets[q]:offsets[q + 1]], at least one
    )
    gains: Values  # (P,) how relevant each is
    hit_gain: float = 0.0  # hit rates count documents of at least this gain

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, query: int) -> Integers:
        return self.flat[self.offsets[query] : self.offsets[query + 1]]

    def __iter__(self) -> Iterator[Integers]:
        return map(self.__getitem__, range(len(self)))

    @functools.cached_property
    def counts(self) -> Integers:
        """(Q,) relevant documents of each query."""
        return np.diff(self.offsets)

    @functools.cached_property
    def hit_counts(self) -> Integers:
        """(Q,) documents of each query that hit rates count."""
        return np.bincount(
            self.queries[self.gains >= self.hit_gain],
            minlength=len(self),
        )

    @functools.cached_property
    def queries(self) -> Integers:
        """(P,) the query of each pair."""
        return np.repeat(np.arange(len(self)), self.counts)

    @functools.cached_property
    def places(self) -> Integers:
        """(P,) 1, 2, ... within each query."""
        return np.arange(1, len(self.flat) + 1) - np.repeat(
            self.offsets[:-1], self.counts
        )


def ranks(
    query_vectors: Vectors,
    document_vectors: Vectors,
    relevant: Sequence[Sequence[int]],
    document_ids: Sequence[str] | None = None,
    *,
    gains: Sequence[Sequence[float]] | None = None,
    excluded: Sequence[Sequence[int]] | None = None,
    lost: Sequence[Sequence[float]] | None = None,
    hit_gain: float = 0.0,
) -> Ranks:
    """Ranks of the relevant documents of each query by dot product.

    query_vectors: (Q, D), document_vectors: (N, D), unit vectors in float32: a lower precision
        creates ties.
    relevant: for each query the positions of its relevant documents.
    document_ids: what ties are ordered by; without them the position as a string.
    gains: how relevant each of them is; those of 0 or less are not. None: 1 each.
    excluded: for each query the documents that it does not search; a relevant one of them has the
        rank NEVER.
    lost: for each query the gains of relevant documents that are not there; they come last, with
        the rank NEVER.
    hit_gain: hit rates count documents of at least this gain.

    Raises ValueError for a query without a relevant document.
    """
    queries, documents = (
        np.asarray(side, dtype=np.float32) for side in (query_vectors, document_vectors)
    )
    count = _Counter(
        relevant,
        gains,
        excluded,
        len(documents),
        document_ids,
        equals_of(documents),
        lost,
        hit_gain,
    )
    if len(documents) <= WIDE:
        for scores in _products(queries, documents):
            count.add(scores)
        return count.ranks()
    for start in range(0, len(queries), WIDE_ROWS):
        count.add_wide(
            functools.partial(_columns, queries[start : start + WIDE_ROWS], documents)
        )
    return count.ranks()


def ranks_of_scores(
    blocks: Iterable[Vectors],
    relevant: Sequence[Sequence[int]],
    num_documents: int,
    document_ids: Sequence[str] | None = None,
    *,
    gains: Sequence[Sequence[float]] | None = None,
    excluded: Sequence[Sequence[int]] | None = None,
    equals: Mapping[int, Integers] | None = None,
    lost: Sequence[Sequence[float]] | None = None,
    hit_gain: float = 0.0,
) -> Ranks:
    """As `ranks`, from scores that come in blocks (some queries, N) in the order of the queries.

    equals: of `equals_of`, where the scores are products with vectors: equal documents tie then, as
        they do in `ranks`.

    Scores of excluded documents, and of those that equal a relevant one, are overwritten.
    """
    count = _Counter(
        relevant,
        gains,
        excluded,
        num_documents,
        document_ids,
        equals,
        lost,
        hit_gain,
    )
    for scores in blocks:
        count.add(scores)
    return count.ranks()


def ranks_of_lists(
    lists: Sequence[Sequence[int]],
    gains: Sequence[Sequence[float]] | None = None,
    hit_gain: float = 0.0,
) -> Ranks:
    """Ranks that are known already: of each query the ranks of its relevant documents."""
    flat, offsets, known = _ragged(lists, gains)
    return Ranks(flat, offsets, known, hit_gain)


def equals_of(documents: Vectors) -> dict[int, Integers]:
    """Of each document (N, D) whose vector others have too: all that have it, in their order."""
    groups: dict[bytes, list[int]] = {}
    for number, row in enumerate(np.ascontiguousarray(documents)):
        groups.setdefault(xxhash.xxh3_128_digest(row), []).append(number)
    several = (np.array(group) for group in groups.values() if len(group) > 1)
    return {number: group for group in several for number in group.tolist()}


class _Counter:
    """Counts, block after block of queries, how many documents are ahead of each relevant one."""

    def __init__(
        self,
        relevant: Sequence[Sequence[int]],
        gains: Sequence[Sequence[float]] | None,
        excluded: Sequence[Sequence[int]] | None,
        num_documents: int,
        document_ids: Sequence[str] | None,
        equals: Mapping[int, Integers] | None = None,
        lost: Sequence[Sequence[float]] | None = None,
        hit_gain: float = 0.0,
    ) -> None:
        self.columns, self.offsets, self.gains = _ragged(
            *_with_lost(relevant, gains, lost)
        )
        self.flat = np.ones(len(self.columns), dtype=np.int64)
        self.excluded = excluded
        self.num_documents = num_documents
        self.document_ids = document_ids
        self.equals = equals or {}
        self.hit_gain = hit_gain
        self.done = 0  # queries

    def add(self, scores: Vectors) -> None:
        """Take the scores (some queries, N) of the next queries."""
        own = self._own(scores, 0, self._no_scores(len(scores)))
        self._count(scores, 0, own)
        self._finish(len(scores))

    def add_wide(self, blocks: Callable[[], Iterator[tuple[int, Vectors]]]) -> None:
        """Take the scores of the next queries in blocks of documents (first document, scores).

        The products are made twice: first to find the scores of the relevant documents, then to
        count what is better. Products of other shapes may differ in their last bit.
        """
        own = np.zeros(0, dtype=np.float32)
        num_queries = 0
        for first, scores in blocks():
            num_queries = len(scores)
            own = self._own(
                scores,
                first,
                own if first else self._no_scores(num_queries),
            )
        for first, scores in blocks():
            self._count(scores, first, own)
        self._finish(num_queries)

    def ranks(self) -> Ranks:
        assert self.done == len(self.offsets) - 1
        return Ranks(self.flat, self.offsets, self.gains, self.hit_gain)

    def _pairs(self, num_queries: int) -> slice:
        return slice(
            int(self.offsets[self.done]),
            int(self.offsets[self.done + num_queries]),
        )

    def _no_scores(self, num_queries: int) -> Vectors:
        return np.full(
            len(self.columns[self._pairs(num_queries)]),
            np.nan,
            dtype=np.float32,
        )

    def _leave_out(self, scores: Vectors, first: int) -> None:
        if self.excluded is not None:
            for row, documents in enumerate(
                self.excluded[self.done : self.done + len(scores)]
            ):
                inside = [
                    document - first
                    for document in documents
                    if 0 <= document - first < scores.shape[1]
                ]
                scores[row, inside] = -np.inf

    def _own(self, scores: Vectors, first: int, own: Vectors) -> Vectors:
        """Add the scores of the relevant documents in this block; of equals, the first one's."""
        pairs = self._pairs(len(scores))
        columns = self.columns[pairs]
        if self.equals:
            firsts = [
                self.equals.get(column, [column])[0] for column in columns.tolist()
            ]
            columns = np.array(firsts)
        columns = columns - first
        rows = np.repeat(
            np.arange(len(scores)),
            np.diff(self.offsets[self.done : self.done + len(scores) + 1]),
        )
        inside = (columns >= 0) & (columns < scores.shape[1])
        own[inside] = scores[rows[inside], columns[inside]]
        return own

    def _count(self, scores: Vectors, first: int, own: Vectors) -> None:
        start = int(self.offsets[self.done])
        self._let_equals_tie(scores, first, own)
        self._leave_out(scores, first)
        for row, one in enumerate(scores):
            pairs = range(
                int(self.offsets[self.done + row]),
                int(self.offsets[self.done + row + 1]),
            )
            in_order = np.sort(one) if len(pairs) >= MANY else None
            for pair in pairs:
                score = own[pair - start]
                column = self.columns[pair] - first
                if in_order is None:
                    better = int(np.count_nonzero(one > score))
                    tied = int(np.count_nonzero(one == score))
                else:
                    low = np.searchsorted(in_order, score, "left")
                    high = np.searchsorted(in_order, score, "right")
                    better = len(one) - int(high)
                    tied = int(high - low)
                if tied > (0 <= column < len(one)):  # it ties with itself
                    others = self._id_order[np.flatnonzero(one == score) + first]
                    better += int(
                        np.count_nonzero(others > self._id_order[self.columns[pair]])
                    )
                self.flat[pair] += better

    def _let_equals_tie(self, scores: Vectors, first: int, own: Vectors) -> None:
        """Give equal documents one score: a product rounds a column by its position."""
        if self.equals:
            counts = np.diff(self.offsets[self.done : self.done + len(scores) + 1])
            columns = self.columns[self._pairs(len(scores))].tolist()
            for row, column, score in zip(
                np.repeat(np.arange(len(scores)), counts),
                columns,
                own,
                strict=True,
            ):
                if (equals := self.equals.get(column)) is not None:
                    scores[
                        row,
                        equals[(equals >= first) & (equals < first + scores.shape[1])]
                        - first,
                    ] = score

    def _finish(self, num_queries: int) -> None:
        pairs = self._pairs(num_queries)
        self.flat[pairs][self.columns[pairs] == LOST] = NEVER
        if self.excluded is not None:
            for query in range(self.done, self.done + num_queries):
                pairs = slice(
                    int(self.offsets[query]),
                    int(self.offsets[query + 1]),
                )
                self.flat[pairs][np.isin(self.columns[pairs], self.excluded[query])] = (
                    NEVER
                )
        self.done += num_queries

    @functools.cached_property
    def _id_order(self) -> Integers:
        """(N,) the place of each document in the order of the ids; made at the first tie."""
        count = self.num_documents
        ids = (
            [str(i) for i in range(count)]
            if self.document_ids is None
            else self.document_ids
        )
        places = np.empty(count, dtype=np.int64)
        places[sorted(range(count), key=ids.__getitem__)] = np.arange(count)
        return places


def _products(queries: Vectors, documents: Vectors) -> Iterator[Vectors]:
    """(some queries, N) scores at a time, all in one place of memory."""
    rows = min(
        max(BLOCK_ROWS, BLOCK_SCORES // max(1, len(documents))),
        max(1, len(queries)),
    )
    scores = np.empty((rows, len(documents)), dtype=np.float32)
    for start in range(0, len(queries), rows):
        some = queries[start : start + rows]
        yield np.matmul(some, documents.T, out=scores[: len(some)])


def _columns(queries: Vectors, documents: Vectors) -> Iterator[tuple[int, Vectors]]:
    for first in range(0, len(documents), WIDE_COLUMNS):
        yield first, queries @ documents[first : first + WIDE_COLUMNS].T


def _with_lost(
    relevant: Sequence[Sequence[int]],
    gains: Sequence[Sequence[float]] | None,
    lost: Sequence[Sequence[float]] | None,
) -> tuple[Sequence[Sequence[int]], Sequence[Sequence[float]] | None]:
    """Positions and gains of the relevant documents, and behind them those of what is not there."""
    if lost is None or not any(lost):
        return relevant, gains

    known = (
        [[1.0] * len(documents) for documents in relevant] if gains is None else gains
    )
    positions = [
        [*documents, *[LOST] * len(absent)]
        for documents, absent in zip(relevant, lost, strict=True)
    ]
    return positions, [
        [*there, *absent] for there, absent in zip(known, lost, strict=True)
    ]


def _ragged(
    lists: Sequence[Sequence[int]],
    gains: Sequence[Sequence[float]] | None,
) -> tuple[Integers, Integers, Values]:
    """Lists end to end, where each begins, and the gains; without the entries that have no gain."""
    counts = np.fromiter(map(len, lists), np.int64, len(lists))
    flat = np.fromiter(
        chain.from_iterable(lists),
        np.int64,
        int(counts.sum()),
    )
    known = np.ones(len(flat))
    if gains is not None:
        known = np.fromiter(
            chain.from_iterable(gains),
            np.float64,
            len(flat),
        )
        kept = known > 0
        counts = np.bincount(
            np.repeat(np.arange(len(lists)), counts)[kept],
            minlength=len(lists),
        )
        flat = flat[kept]
        known = known[kept]
    if not counts.all():
        raise ValueError(
            f"query {int(np.argmin(counts))} has no relevant document; leave it out."
        )
    return (
        flat,
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        known,
    )
