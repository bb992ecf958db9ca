"""BM25, the lexical baseline of evaluation (Robertson and Zaragoza, 2009).

Its scores stand beside those of a learned model, so its settings are the plainest: lower case,
every run of letters and digits is a word, no stop words, no stemming, and Lucene's k1 = 1.2 and
b = 0.75. A word that a query repeats counts once: long queries such as captions otherwise reward
documents full of "the" (OpenStax caption -> alt text, hit rate at 1: .530 counted once, .509
counted each time).

Q queries, N documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]


class Bm25Index:
    """The word statistics of some documents, to score queries against all of them."""

    def __init__(
        self, documents: Sequence[str], *, k1: float = 1.2, b: float = 0.75
    ) -> None:
        tokens = [words(document) for document in documents]
        self.num_documents = len(tokens)
        # None where no document has a word: all scores are then 0.
        self._index: Any = None
        if any(tokens):
            self._index = _bm25s().BM25(k1=k1, b=b, method="lucene")
            self._index.index(tokens, show_progress=False)

    def scores(self, queries: Sequence[str]) -> Scores:
        """(Q, N) scores; higher is better, and exactly 0 without a word in common."""
        scores = np.zeros((len(queries), self.num_documents), dtype=np.float32)
        if self._index is not None:
            for row, query in enumerate(queries):
                # Sorted: the order of a set differs between processes, and float sums with it.
                known = self._index.get_tokens_ids(sorted(set(words(query))))
                if known:
                    scores[row] = self._index.get_scores_from_ids(known)
        return scores

    def score_blocks(
        self, queries: Sequence[str], block_size: int = 256
    ) -> Iterator[Scores]:
        """Yield `scores` of a few queries at a time, where (Q, N) would not fit into memory."""
        for start in range(0, len(queries), block_size):
            yield self.scores(queries[start : start + block_size])


def bm25_scores(
    queries: Sequence[str],
    documents: Sequence[str],
    *,
    k1: float = 1.2,
    b: float = 0.75,
) -> Scores:
    """(Q, N) BM25 scores of every query against every document."""
    return Bm25Index(documents, k1=k1, b=b).scores(queries)


def words(text: str) -> list[str]:
    """Split a text into BM25's words: lower case, runs of letters, digits and underscores."""
    return re.findall(r"\w+", text.lower())


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError:
        raise ImportError(
            'the BM25 baseline needs bm25s: pip install "unimodal[eval]"'
        ) from None
    return bm25s
