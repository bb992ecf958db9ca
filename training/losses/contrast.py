"""Whether a batch has anything to learn from: how many pairs are masked, and what is left.

A contrastive loss learns from differences. In a batch whose samples all share one text, InfoNCE has
no negative: its loss and its gradient are 0, and a run would end without an error and with the
model that it began with.

B local batch, G global batch, K hard negatives per query, A ids per pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from unimodal import distributed

from ..config import TaskConfig
from ..data.collate import Batch


class Contrast(NamedTuple):
    """What a global batch has to compare; equal on every rank, but for the example in `lacks`."""

    # Share of the pairs of different samples that are masked as duplicates; None: never masked.
    masked: float | None
    # Why there is nothing to learn from the batch, with an example; "" if there is something.
    lacks: str


def contrast_of(batch: Batch, task: TaskConfig) -> Contrast:
    """Look at the ids and scores of a global batch; every rank calls it with its part."""
    return _CONTRASTS[task.loss](batch, task)


def _of_in_batch(batch: Batch, task: TaskConfig) -> Contrast:
    """The negatives are the documents of other samples."""
    if not task.mask_duplicates:
        return Contrast(None, "")
    ids = distributed.all_gather(batch.ids)  # (G, A), on the host
    num_pairs = len(ids) * (len(ids) - 1)
    num_masked = count_sharing(ids)
    is_idle = num_masked == num_pairs
    if is_idle and task.loss == "info_nce" and batch.hard_negative_ids.numel():
        hard = distributed.all_gather(batch.hard_negative_ids).flatten()
        is_idle = count_members(ids, hard) == len(ids) * len(hard)
    lacks = ""
    if is_idle:
        lacks = (
            "each of its samples shares a text, an image or a label with each other one, so "
            f"that none is a negative{_example(batch)}"
        )
    return Contrast(num_masked / num_pairs, lacks)


def _of_cosent(batch: Batch, task: TaskConfig) -> Contrast:
    """Pairs of different scores are compared."""
    assert batch.scores is not None
    scores = batch.scores[:, 0]
    extremes = [float(scores.max()), -float(scores.min())]
    highest, minus_lowest = distributed.all_reduce_max(extremes)
    if highest != -minus_lowest:
        return Contrast(None, "")
    lacks = (
        f"all its samples have the score {highest:g}, and cosent learns from pairs of "
        "different scores"
    )
    return Contrast(None, lacks)


def _of_distillation(batch: Batch, task: TaskConfig) -> Contrast:
    """The teacher prefers some candidates."""
    assert batch.scores is not None
    is_flat = bool((batch.scores == batch.scores[:, :1]).all())
    if not distributed.all_reduce_min([is_flat])[0]:
        return Contrast(None, "")
    lacks = (
        "the teacher's similarities are the same for the document and all hard negatives of "
        f"each query (of sample {batch.keys[0]}: {float(batch.scores[0, 0]):g})"
    )
    return Contrast(None, lacks)


def _of_own_negatives(batch: Batch, task: TaskConfig) -> Contrast:
    """A query's document is compared with its own hard negatives."""
    is_own = bool((batch.hard_negative_ids == batch.ids[:, 1:2]).all())
    if not distributed.all_reduce_min([is_own])[0]:
        return Contrast(None, "")
    lacks = f"each query's hard negatives are its own document (as of sample {batch.keys[0]})"
    return Contrast(None, lacks)


# By a task's `loss`, as LOSSES in tasks.py.
_CONTRASTS: Mapping[str, Callable[[Batch, TaskConfig], Contrast]] = {
    "info_nce": _of_in_batch,
    "sigmoid": _of_in_batch,
    "cosent": _of_cosent,
    "distillation": _of_distillation,
    "own_negatives": _of_own_negatives,
}


def count_sharing(ids: Tensor) -> int:
    """Count the ordered pairs of different rows that share an id: (G, A) -> of G x (G - 1).

    It needs no (G, G) matrix. By inclusion and exclusion: the rows that share an id with row i are
    those that hold one of its ids, less those that hold two of them, and so on.
    """
    size, count = ids.shape
    ids = ids.sort(1).values
    _, dense = ids.unique(return_inverse=True)  # (G, A)

    # An id that a row has twice counts once: the second becomes one that no other row has.
    unused = size * count + torch.arange(size * count).view(size, count)
    dense = torch.where(_repeats_left_neighbour(dense), unused, dense)

    total = 0
    for length in range(1, count + 1):
        parts = [
            dense[:, list(columns)] for columns in combinations(range(count), length)
        ]
        numbers = _number_subsets(torch.cat(parts))
        _, inverse, counts = numbers.unique(return_inverse=True, return_counts=True)
        sign = 1 if length % 2 else -1
        total += sign * int(counts[inverse].sum())
    return total - size  # each row shares with itself


def _repeats_left_neighbour(sorted_ids: Tensor) -> Tensor:
    """(G, A) ids in order -> (G, A) bool."""
    repeats = torch.zeros_like(sorted_ids, dtype=torch.bool)
    repeats[:, 1:] = sorted_ids[:, 1:] == sorted_ids[:, :-1]
    return repeats


def _number_subsets(subsets: Tensor) -> Tensor:
    """(N, n) sets of small numbers -> (N,) one number per set; only equal sets share one."""
    size = int(subsets.max()) + 1
    numbers = subsets[:, 0]
    for column in subsets.unbind(1)[1:]:
        # Renumbered, so that they stay small.
        _, numbers = (numbers * size + column).unique(return_inverse=True)
    return numbers


def count_members(ids: Tensor, others: Tensor) -> int:
    """Count the pairs of a row and another id that the row holds: (G, A), (N,) -> of G x N."""
    ids = ids.sort(1).values
    values, counts = others.unique(return_counts=True)
    places = torch.searchsorted(values, ids).clamp_max(len(values) - 1)
    is_member = (values[places] == ids) & ~_repeats_left_neighbour(ids)
    return int(torch.where(is_member, counts[places], 0).sum())


def _example(batch: Batch) -> str:
    """Two samples of this rank, and what they share."""
    if len(batch.keys) < 2:
        return f" (one of them is {batch.keys[0]})"
    first_part = "query" if batch.pixels is None else "image"
    second_part = "document" if batch.pixels is None else "caption"
    is_same = (batch.ids[0] == batch.ids[1]).tolist()
    shared = "share a text"
    for part, part_is_same in zip(
        (first_part, second_part, "label"), is_same, strict=True
    ):
        if part_is_same:
            shared = f"have the same {part}"
            break
    return f" ({batch.keys[0]} and {batch.keys[1]} {shared})"
