"""Whether a batch asks anything: how many of its pairs are masked as duplicates, and what is left
to compare.

A contrastive loss learns from differences. In a batch whose samples all share one text, InfoNCE has
no negative: its loss and its gradient are 0, and a run would end in good order with the model that
it began with.

B local batch, G global batch, K hard negatives per query, A ids per pair.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from unimodal import distributed

from .config import TaskConfig
from .data.collate import Batch

_IN_BATCH = (
    "info_nce",
    "sigmoid",
)  # losses whose negatives are the other samples' documents


class Contrast(NamedTuple):
    """What a global batch has to compare; the same on every rank, but for the
    example in `lacks`.
    """

    masked: (
        float | None
    )  # share of the pairs of different samples that are masked as duplicates; None: none ever is
    # why there is nothing to learn from it, with an example; "" where there is something
    lacks: str


def contrast_of(batch: Batch, task: TaskConfig) -> Contrast:
    """Look at the ids and scores of the global batch of which `batch` is this rank's part; every
    rank calls it.
    """
    if task.loss in _IN_BATCH:
        return _in_batch(batch, task)
    if task.loss == "cosent":
        assert batch.scores is not None
        scores = batch.scores[:, 0]
        highest, lowest = distributed.all_reduce_max(
            [float(scores.max()), -float(scores.min())]
        )
        said = (
            f"all its samples have the score {highest:g}, and cosent learns from pairs of "
            "different scores"
        )
        return Contrast(None, said if highest == -lowest else "")
    if task.loss == "distillation":
        assert batch.scores is not None
        is_flat = bool((batch.scores == batch.scores[:, :1]).all())
        said = (
            "the teacher's similarities are the same for the document and all hard negatives of "
            f"each query (of sample {batch.keys[0]}: {float(batch.scores[0, 0]):g})"
        )
        return Contrast(None, said if distributed.all_reduce_min([is_flat])[0] else "")
    is_own = bool((batch.hard_negative_ids == batch.ids[:, 1:2]).all())
    said = f"each query's hard negatives are its own document (as of sample {batch.keys[0]})"
    return Contrast(None, said if distributed.all_reduce_min([is_own])[0] else "")


def _in_batch(batch: Batch, task: TaskConfig) -> Contrast:
    if not task.mask_duplicates:
        return Contrast(None, "")
    ids = distributed.all_gather(batch.ids)  # (G, A), on the host
    num_pairs = len(ids) * (len(ids) - 1)
    num_masked = count_sharing(ids)
    is_idle = num_masked == num_pairs
    if is_idle and task.loss == "info_nce" and batch.hard_negative_ids.numel():
        hard = distributed.all_gather(batch.hard_negative_ids).flatten()
        is_idle = count_members(ids, hard) == len(ids) * len(hard)
    said = (
        "each of its samples shares a text, an image or a label with each other one, so "
        "that none is a negative"
    )
    return Contrast(
        num_masked / num_pairs, f"{said}{_example(batch)}" if is_idle else ""
    )


def count_sharing(ids: Tensor) -> int:
    """(G, A) -> how many of the G x (G - 1) ordered pairs of different rows share an id, without a
    (G, G) matrix.

    By inclusion and exclusion: the rows that share an id with row i are those that hold one of its
    ids, less those that hold two of them, and so on.
    """
    size, count = ids.shape
    ids = ids.sort(1).values
    dense = ids.unique(return_inverse=True)[1]  # (G, A)
    # An id that a row has twice counts once: the second becomes one that no other row has.
    is_again = torch.zeros_like(dense, dtype=torch.bool)
    is_again[:, 1:] = dense[:, 1:] == dense[:, :-1]
    dense = torch.where(
        is_again, size * count + torch.arange(size * count).view(size, count), dense
    )
    total = 0
    for num in range(1, count + 1):
        subsets = torch.cat(
            [dense[:, list(columns)] for columns in combinations(range(count), num)]
        )
        _, inverse, counts = _number(subsets).unique(
            return_inverse=True, return_counts=True
        )
        total += (1 if num % 2 else -1) * int(counts[inverse].sum())
    return total - size  # each row shares with itself


def _number(subsets: Tensor) -> Tensor:
    """(N, n) sets of small numbers -> (N,) a number for each that only equal sets have."""
    size = int(subsets.max()) + 1
    numbers = subsets[:, 0]
    for column in subsets.unbind(1)[1:]:
        numbers = (numbers * size + column).unique(return_inverse=True)[
            1
        ]  # small again
    return numbers


def count_members(ids: Tensor, others: Tensor) -> int:
    """(G, A), (N,) -> how many of the G x N pairs have the other one among the ids of the row."""
    ids = ids.sort(1).values
    is_again = torch.zeros_like(ids, dtype=torch.bool)
    is_again[:, 1:] = ids[:, 1:] == ids[:, :-1]
    values, counts = others.unique(return_counts=True)
    places = torch.searchsorted(values, ids).clamp_max(len(values) - 1)
    return int(
        torch.where((values[places] == ids) & ~is_again, counts[places], 0).sum()
    )


def _example(batch: Batch) -> str:
    """Two samples of this rank, and what they share."""
    if len(batch.keys) < 2:
        return f" (one of them is {batch.keys[0]})"
    kinds = (
        ("image", "caption", "label")
        if batch.pixels is not None
        else ("query", "document", "label")
    )
    same = [
        kind
        for kind, one, other in zip(kinds, batch.ids[0], batch.ids[1], strict=True)
        if one == other
    ]
    what = f"have the same {same[0]}" if same else "share a text"
    return f" ({batch.keys[0]} and {batch.keys[1]} {what})"
