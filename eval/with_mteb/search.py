"""The best documents of each query as mteb wants them: a dictionary of scores a query, ties in
trec_eval's order.

Our own metrics need none of this (see `metrics.ranks`); official results do, as mteb scores the
dictionaries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import xxhash

from unimodal.vectors import Vectors

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_SCORES = 1 << 24  # scores held at a time: 64 MB in float32


def top_documents(
    queries: Vectors, documents: Vectors, document_ids: Sequence[str], top_k: int
) -> Iterator[dict[str, float]]:
    """For each query its top_k documents and their scores, best first; of equal scores the higher
    id is better.

    mteb sorts each of them several times, and what is in order already is sorted in a third of the
    time.

    queries: (Q, D), documents: (N, D), float32 unit vectors.
    """
    import torch

    order = sorted(range(len(document_ids)), key=document_ids.__getitem__, reverse=True)
    names = [document_ids[number] for number in order]
    distinct, column = _distinct(documents[order])  # rows in the order of ties
    turned = np.ascontiguousarray(distinct.T)  # (D, U)
    block = max(1, BLOCK_SCORES // max(1, len(order)))
    for start in range(0, len(queries), block):
        scores = torch.from_numpy(queries[start : start + block] @ turned)
        if len(distinct) < len(order):
            scores = scores[:, column]  # (block, N)
        found = _best(scores, top_k)
        values = scores.gather(1, found)
        for columns, row in zip(found.tolist(), values.tolist(), strict=True):
            yield dict(zip(map(names.__getitem__, columns), row, strict=True))


def _distinct(vectors: Vectors) -> tuple[Vectors, Tensor]:
    """The distinct rows (U, D), and which of them each row is, (N,).

    A product rounds a column by where it stands, so equal vectors would get scores that differ in
    the last bit, and a tie would be none.
    """
    import torch

    numbers: dict[bytes, int] = {}
    column = [
        numbers.setdefault(xxhash.xxh3_128_digest(row), len(numbers))
        for row in np.ascontiguousarray(vectors)
    ]
    if len(numbers) == len(vectors):
        return vectors, torch.tensor(column)
    return vectors[np.unique(column, return_index=True)[1]], torch.tensor(column)


def _best(scores: Tensor, top_k: int) -> Tensor:
    """(B, min(top_k, N)) columns of the highest scores of (B, N), highest first; of equal scores
    the first columns.
    """
    import torch

    if top_k >= scores.shape[1]:
        return torch.sort(scores, dim=1, descending=True, stable=True).indices
    values, found = torch.topk(
        scores, top_k, dim=1
    )  # any of several equal ones, in any order
    crowded = (scores >= values[:, -1:]).sum(dim=1) > top_k
    for row in crowded.nonzero().flatten().tolist():
        found[row] = torch.sort(scores[row], descending=True, stable=True).indices[
            :top_k
        ]
    found = found.sort(dim=1).values
    return found.gather(
        1,
        torch.sort(
            scores.gather(1, found), dim=1, descending=True, stable=True
        ).indices,
    )
