"""What smaller vectors cost: a byte or a bit per dimension, with and without re-ranking.

Q queries, N documents, D embedding dimension. Documents are compressed, as they are what fills an
index. Scores are those of the metric that a task prints first, beside its plain score.

`int8`: documents in 256 steps between the lowest and the highest value of each dimension among the
    documents; queries stay as they are, and scores are their products with what the steps stand
    for.
`binary`: the signs of queries and documents; the score is the number of dimensions in which they
    agree.
`... + re-ranked`: the 4 x 10 best of these, and ties with the last of them, ordered by the full
    vectors; all others follow in their old order.

Codes are those of sentence_transformers.util.quantization.quantize_embeddings ("int8" and
"ubinary").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from unimodal.vectors import (
    Vectors,
    int8_ranges,
    pack_signs,
    quantize_int8_in_ranges,
    restore_int8_in_ranges,
)

from ..results import TaskResult
from ..scoring.metrics import metric_values, unordered
from ..scoring.ranks import BLOCK_ROWS, BLOCK_SCORES, equals_of
from ..scoring.retrieval import Judgements, judged_ranks
from ..scoring.score_row import ScoreRow
from ..scoring.statistics import CORRELATIONS
from ..scoring.sts import cosines

# documents that are scored again with the full vectors: four times the ten that are displayed
RERANKED = 4 * 10
FULL_BYTES = 4  # of a float32


def compression_rows(results: Iterable[TaskResult]) -> list[ScoreRow]:
    """Each task's score with documents of a byte or a bit per dimension, and bytes per vector.

    With re-ranking these are the bytes of what is searched; the full vectors are kept beside them.
    """
    rows: list[ScoreRow] = []
    lengths: set[int] = set()
    for result, queries, documents in _scored(results):
        lengths.add(documents.shape[1])
        ranges = int8_ranges(documents)
        codes = quantize_int8_in_ranges(documents, ranges)
        restored = restore_int8_in_ranges(codes, ranges)
        pairs = result.data.as_pairs()
        corpus = result.data.as_corpus()
        if pairs is not None:
            agreeing = np.count_nonzero((queries > 0) == (documents > 0), axis=1)
            by_bytes = cosines(queries, restored)
            rows.append(_correlation_row(result, pairs.scores, by_bytes, "int8"))
            rows.append(_correlation_row(result, pairs.scores, agreeing, "binary"))
        elif corpus is not None:
            rows += _retrieval_rows(
                result, corpus.judgements, queries, documents, restored
            )
    for full in sorted(lengths):
        sizes = {"": FULL_BYTES * full, "int8": full, "binary": -(-full // 8)}
        sizes |= {f"{name} + re-ranked": sizes[name] for name in ("int8", "binary")}
        rows += [_bytes_row(size, variant) for variant, size in sizes.items()]
    return rows


def hamming_distances(
    left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int32]:
    """(n, m) numbers of bits that differ. left: (n, B) bytes, right: (m, B)."""
    left_words = _words(left)  # (W, n)
    right_words = _words(right)  # (W, m)
    distances = np.zeros((len(left), len(right)), dtype=np.int32)
    for one, other in zip(left_words, right_words, strict=True):
        distances += np.bitwise_count(one[:, None] ^ other)
    return distances


def reranked(
    scores: Vectors,
    queries: Vectors,
    documents: Vectors,
    excluded: Sequence[Sequence[int]] | None = None,
) -> Vectors:
    """(Q, N) scores: those of the full vectors for the RERANKED best, lower ones for the others.

    scores: (Q, N) of compressed vectors, queries: (Q, D), documents: (N, D) unit vectors.
    excluded: for each query the documents that it does not search.
    """
    for row, left_out in enumerate(excluded or ()):
        scores[row, list(left_out)] = -np.inf
    place = max(0, scores.shape[1] - RERANKED)
    last = np.partition(scores, place, axis=1)[:, place]
    rows, columns = np.nonzero((scores >= last[:, None]) & np.isfinite(scores))
    best = np.maximum(
        scores.max(axis=1, keepdims=True), np.finfo(np.float32).min
    )  # finite where nothing is searched
    # at most -2: behind every cosine, in their old order; -inf stays as it is
    ordered = scores - best - 2
    ordered[rows, columns] = np.einsum("pd,pd->p", queries[rows], documents[columns])
    return np.asarray(ordered, dtype=np.float32)


def _retrieval_rows(
    result: TaskResult,
    judgements: Judgements,
    queries: Vectors,
    documents: Vectors,
    restored: Vectors,
) -> list[ScoreRow]:
    query_bits = pack_signs(queries)
    document_bits = pack_signs(documents)
    equals = equals_of(restored)
    copies = list(equals)
    firsts = [int(equals[copy][0]) for copy in copies]

    def blocks(variant: str, again: bool) -> Iterator[Vectors]:
        step = max(BLOCK_ROWS, BLOCK_SCORES // len(documents))
        for start in range(0, len(queries), step):
            some = slice(start, start + step)
            if variant == "int8":
                scores = queries[some] @ restored.T
                # a product rounds a column by its position, so that ties would be lost
                scores[:, copies] = scores[:, firsts]
            else:
                scores = -hamming_distances(query_bits[some], document_bits).astype(
                    np.float32
                )
            excluded = judgements.excluded[some] if judgements.excluded else None
            yield (
                reranked(scores, queries[some], documents, excluded)
                if again
                else scores
            )

    rows = []
    for variant in ("int8", "binary"):
        for again in (False, True):
            ranked = judged_ranks(blocks(variant, again), judgements)
            value = float(metric_values(_main_row(result).metric, ranked).mean())
            rows.append(
                _row(result, value, f"{variant} + re-ranked" if again else variant)
            )
    return rows


def _correlation_row(
    result: TaskResult,
    human: Sequence[float],
    similarities: npt.ArrayLike,
    variant: str,
) -> ScoreRow:
    if reason := unordered(similarities, human):
        return _row(result, None, variant, reason)
    correlation = CORRELATIONS[_main_row(result).metric]
    return _row(result, correlation(similarities, human), variant)


def _scored(
    results: Iterable[TaskResult],
) -> Iterator[tuple[TaskResult, Vectors, Vectors]]:
    """Results of a corpus or of pairs, with the vectors of both sides."""
    for result in results:
        if result.data.as_corpus() is None and result.data.as_pairs() is None:
            continue
        if result.queries is not None and result.documents is not None:
            yield result, result.queries, result.documents


def _main_row(result: TaskResult) -> ScoreRow:
    return next(
        row for row in result.rows if row.task == result.name and not row.variant
    )


def _row(
    result: TaskResult, value: float | None, variant: str, note: str = ""
) -> ScoreRow:
    return dataclasses.replace(
        _main_row(result), value=value, low=None, high=None, variant=variant, note=note
    )


def _bytes_row(size: int, variant: str) -> ScoreRow:
    return ScoreRow("index", "bytes_per_vector", size, None, None, variant=variant)


def _words(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """(n, B) bytes -> (W, n) words of eight bytes, each word of all codes in a row of memory."""
    padded = np.pad(codes, [(0, 0), (0, -codes.shape[1] % 8)])
    return np.ascontiguousarray(padded.view(np.uint64).T)
