"""How fast encoding, scoring, search and the server are beside the tools that others use: `unimodal
bench`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unimodal.compare import (
        Row,
    )  # modules here are started as servers and clients, which need none of torch


def bench_eval(*, rounds: int = 3, threads: int | None = None) -> list[Row]:
    """Scoring beside mteb.evaluate, then encoding beside sentence-transformers and open_clip."""
    from .encode import bench_eval_encode
    from .scoring import bench_eval_scoring

    return [
        *bench_eval_scoring(rounds=rounds, threads=threads),
        *bench_eval_encode(rounds=rounds, threads=threads),
    ]
