"""Time encoding, scoring, search and the server beside the tools that others use.

The command is `unimodal bench`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Modules of this folder are started as servers and clients, which do not need torch.
    from unimodal.compare import BenchRow


def bench_eval(*, rounds: int = 3, threads: int | None = None) -> list[BenchRow]:
    """Time scoring beside mteb, and encoding beside sentence-transformers and open_clip."""
    from .encode import bench_eval_encode
    from .scoring import bench_eval_scoring

    return [
        *bench_eval_scoring(rounds=rounds, threads=threads),
        *bench_eval_encode(rounds=rounds, threads=threads),
    ]
