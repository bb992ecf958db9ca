"""Validation on all ranks: rank 0 scores, and every rank encodes a share of what it asks for.

Rank 0 alone needs the data, and asks in whatever order and in whatever portions it likes.

n inputs, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unimodal.embedder import Embedder, Item, Vectors

from . import distributed


def validate(
    embedder: Embedder, work: Callable[[Embedder], object], timeout: float, is_asked: Callable[[], bool]
) -> None:
    """Rank 0 runs `work` with an embedder that all ranks share; every rank calls it, with its own copy of the model.

    timeout: seconds that a rank waits for a sign of life of rank 0.
    is_asked: whether this rank was asked to stop: `distributed.asked_elsewhere` says so to the work.
    Raises ConnectionError if a rank dies or hangs.
    """
    if distributed.world_size() == 1:
        work(embedder)
    else:
        distributed.on_main(lambda: work(SharedEmbedder(embedder)), timeout, is_asked, lambda: _take_share(embedder))


class SharedEmbedder(Embedder):
    """Rank 0's embedder, while the other ranks wait to help."""

    def __init__(self, embedder: Embedder) -> None:
        self.__dict__.update(embedder.__dict__)  # the same model, not another one
        self._own = embedder

    def encode(
        self,
        inputs: Item | Sequence[Item],
        *,
        prompt: str = "",
        truncate_dim: int | None = None,
        show_progress: bool | None = None,
    ) -> Vectors:
        """As `Embedder.encode`; the position in an error is that within a rank's share."""
        options = {"prompt": prompt, "truncate_dim": truncate_dim}
        ranks = distributed.world_size()
        if isinstance(inputs, (str, bytes, Path, Image.Image, Mapping)) or len(inputs) < 2 * ranks:
            return self._own.encode(inputs, **options, show_progress=False)  # type: ignore[arg-type]  # one of each
        order = sorted(range(len(inputs)), key=lambda row: _length(inputs[row]))
        shares = [order[rank::ranks] for rank in range(ranks)]  # each has short and long ones, texts and pictures
        with distributed.called():
            found = _take_share(self._own, [([inputs[row] for row in share], options) for share in shares])
        for one in found:
            if isinstance(one, Exception):
                raise one
        vectors = np.empty((len(inputs), found[0].shape[1]), dtype=np.float32)
        for share, some in zip(shares, found, strict=True):
            vectors[share] = some
        return vectors


def _take_share(embedder: Embedder, jobs: Sequence[Any] | None = None) -> list[Any]:
    """Encode this rank's share; on rank 0, which gives the jobs, what each rank found: vectors or an exception."""
    inputs, options = distributed.hand_out(jobs)
    found: Vectors | Exception
    try:
        found = embedder.encode(inputs, **options, show_progress=False)
    except Exception as error:  # raised by rank 0; this rank goes on helping
        found = error
    return distributed.collect(found)


def _length(one: Item) -> tuple[bool, int]:
    return (True, len(one)) if isinstance(one, str) else (False, 0)
