"""How fast encoding and scoring are beside the tools that others evaluate with: `unimodal bench`."""

from __future__ import annotations

from unimodal.compare import Row

from .encode import bench_eval_encode
from .scoring import bench_eval_scoring


def bench_eval(*, rounds: int = 3, threads: int | None = None) -> list[Row]:
    """Scoring beside mteb.evaluate, then encoding beside sentence-transformers and open_clip."""
    return [
        *bench_eval_scoring(rounds=rounds, threads=threads),
        *bench_eval_encode(rounds=rounds, threads=threads),
    ]
