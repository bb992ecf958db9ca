"""`unimodal bench loss`: tiled InfoNCE, compared with open_clip and sentence-transformers.

The peers are open_clip's ClipLoss and sentence-transformers' cached loss.

B batch, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimodal.compare import (
    BenchRow,
    Run,
    Tick,
    cpu_clock,
    gpu_clock,
    in_fresh_process,
    make_row,
    measuring,
    peak_memory,
    timed,
)

from ..losses.tiled import tiled_info_nce

SCALE = 50.0  # between CLIP's first (14) and last (100)
BF16_TOLERANCE = 2e-2  # gradients of logits in bfloat16 are 3e-3 off at B 4,096


class LossSizes(NamedTuple):
    """Batches and dimensions that are measured; smaller in the tests."""

    batch: int = 8192
    memory_batch: int = 16384
    cached_batch: int = 4096
    dim: int = 512
    gpu_batch: int = 32768
    gpu_dim: int = 768
    # 1,024, which suits a CPU's caches, leaves a GPU waiting for its next kernel
    gpu_tile: int = 4096


FULL = LossSizes()


def bench_loss(
    sizes: LossSizes = FULL, rounds: int = 5, threads: int | None = None
) -> list[BenchRow]:
    """Time and memory of the loss's forward and backward pass, on the CPU and on a GPU if any."""
    has_gpu = torch.cuda.is_available()
    with measuring(
        "bench loss", (4 + 2 * has_gpu) * (rounds + 1) + 2 + 2 * has_gpu, threads
    ) as tick:
        rows = [
            _time_beside_clip(sizes.batch, sizes.dim, rounds, tick),
            _memory_beside_clip(sizes.memory_batch, sizes.dim, tick),
            _time_beside_cached(sizes.cached_batch, sizes.dim, rounds, tick),
        ]
        return rows + _on_gpu(sizes, rounds, tick) if has_gpu else rows


def _time_beside_clip(batch: int, dim: int, rounds: int, tick: Tick) -> BenchRow:
    vectors = draw_vectors(batch, dim)
    runs: dict[str, Run] = {
        "ours": partial(ours, *vectors),
        "ClipLoss": partial(clip, *vectors),
    }
    seconds = timed(runs, rounds, tick, clock := cpu_clock())
    name = f"InfoNCE forward + backward, B {batch:,}, d {dim}, float32"
    return make_row(
        name, _clip_name(), "<= 0.60", seconds["ours"], seconds["ClipLoss"], clock.unit
    )


def _memory_beside_clip(batch: int, dim: int, tick: Tick) -> BenchRow:
    peaks = []
    for run in (ours, clip):
        tick(f"memory of {run.__name__}")
        peaks.append(in_fresh_process(_memory_of, run, batch, dim))
    name = f"InfoNCE peak memory over its inputs, B {batch:,}, d {dim}, float32"
    return make_row(name, _clip_name(), "<= 0.08", peaks[0], peaks[1], "MB")


def _memory_of(
    run: Callable[[Tensor, Tensor], list[Tensor]], batch: int, dim: int
) -> float:
    run(*draw_vectors(256, dim))  # what the libraries allocate once
    return peak_memory(partial(run, *draw_vectors(batch, dim)))


def _time_beside_cached(batch: int, dim: int, rounds: int, tick: Tick) -> BenchRow:
    left, right = draw_vectors(batch, dim)

    def along_the_sphere(gradients: list[Tensor]) -> list[Tensor]:
        # Their cosine normalises once more, which takes out what a gradient has along the vector.
        # So does the normalising in our encoder: the weights get the same gradient.
        pairs = zip(gradients, (left, right), strict=True)
        return [
            gradient - (gradient * vectors).sum(1, keepdim=True) * vectors
            for gradient, vectors in pairs
        ]

    runs: dict[str, Run] = {
        "ours": partial(ours, left, right),
        "cached loss": cached(left, right),
    }
    seconds = timed(runs, rounds, tick, clock := cpu_clock(), part=along_the_sphere)
    peer = (
        f"sentence-transformers {version('sentence-transformers')} "
        "CachedMultipleNegativesRankingLoss.calculate_loss, its mini_batch_size of 32, both "
        "directions"
    )
    name = f"loss stage of a cached step, B {batch:,}, d {dim}, float32"
    return make_row(
        name, peer, "<= 0.12", seconds["ours"], seconds["cached loss"], clock.unit
    )


def _on_gpu(sizes: LossSizes, rounds: int, tick: Tick) -> list[BenchRow]:
    left, right = (
        side.to("cuda").bfloat16().float()
        for side in draw_vectors(sizes.gpu_batch, sizes.gpu_dim)
    )

    def clip_in_bf16() -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16):
            return clip(left, right)

    runs: dict[str, Run] = {
        "ours": partial(ours, left, right, sizes.gpu_tile),
        "ClipLoss": clip_in_bf16,
    }
    seconds = timed(runs, rounds, tick, clock := gpu_clock(), tolerance=BF16_TOLERANCE)
    peaks = {}
    for name, run in runs.items():
        tick(f"memory of {name}")
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        peaks[name] = (torch.cuda.max_memory_allocated() - held) / 1e6
    what = f"B {sizes.gpu_batch:,}, d {sizes.gpu_dim}"
    peer = f"{_clip_name()} under autocast bfloat16"
    return [
        make_row(
            f"InfoNCE forward + backward, {what}",
            peer,
            "<= 0.45",
            seconds["ours"],
            seconds["ClipLoss"],
            clock.unit,
        ),
        make_row(
            f"InfoNCE peak memory over its inputs, {what}",
            peer,
            "ours <= 1000",
            peaks["ours"],
            peaks["ClipLoss"],
            "MB",
        ),
    ]


def ours(left: Tensor, right: Tensor, tile: int = 1024) -> list[Tensor]:
    """left, right: (B, D) unit vectors -> the gradient of each, as in the functions below."""
    left = _leaf(left)
    right = _leaf(right)
    tiled_info_nce(left, right, _learned_scale(left), tile=tile).backward()
    return _gradients(left, right)


def clip(left: Tensor, right: Tensor) -> list[Tensor]:
    """open_clip's loss."""
    from open_clip.loss import ClipLoss

    left = _leaf(left)
    right = _leaf(right)
    ClipLoss()(left, right, _learned_scale(left)).backward()
    return _gradients(left, right)


def cached(left: Tensor, right: Tensor) -> Run:
    """The loss stage of sentence-transformers' cached loss, on mini-batches of the vectors."""
    try:
        from sentence_transformers.sentence_transformer.losses import (
            CachedMultipleNegativesRankingLoss,
        )
    except ImportError:
        raise ImportError(
            'bench needs sentence-transformers: pip install "unimodal[dev]".'
        ) from None

    loss = CachedMultipleNegativesRankingLoss(
        nn.Sequential(nn.Identity()),
        scale=SCALE,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )

    def run() -> list[Tensor]:
        parts = [
            [*map(_leaf, side.split(loss.mini_batch_size))] for side in (left, right)
        ]
        loss.calculate_loss(parts, with_backward=True)
        return [torch.cat(_gradients(*side)) for side in parts]

    return run


def draw_vectors(batch: int, dim: int) -> tuple[Tensor, Tensor]:
    """Two (B, D) of random unit vectors.

    BenchRow i of one is a little closer to row i of the other than to the rest.
    """
    generator = torch.Generator().manual_seed(0)
    left, noise = (
        F.normalize(torch.randn(batch, dim, generator=generator), dim=1)
        for _ in range(2)
    )
    return left, F.normalize(left + 6 * noise, dim=1)


def _leaf(side: Tensor) -> Tensor:
    return side.detach().requires_grad_()


def _gradients(*leaves: Tensor) -> list[Tensor]:
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def _learned_scale(beside: Tensor) -> Tensor:
    return torch.tensor(SCALE, device=beside.device, requires_grad=True)


def _clip_name() -> str:
    return f"open_clip {version('open_clip_torch')} ClipLoss"
