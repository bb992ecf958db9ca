"""InfoNCE without the matrix of similarities: as exact as `info_nce`, in less memory than G x G.

B local batch, G global batch, K hard negatives per query, D embedding dimension, M prefix lengths.

The gradient is ready when the forward pass is: four matrix products in all, where a plain loss
takes six. tiles.py has the two passes over the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unimodal import distributed

from .contrastive import PLAIN, Negatives
from .tiles import HARD_NEGATIVE, Tiles


def tiled_info_nce(
    query: Tensor,
    document: Tensor,
    scale: Tensor,
    hard_negatives: Tensor | None = None,
    *,
    ids: Tensor | None = None,
    hard_negative_ids: Tensor | None = None,
    negatives: Negatives = PLAIN,
    dims: Sequence[int] = (),
    tile: int = 1024,
) -> Tensor:
    """`info_nce` of the global batch; the arguments are this rank's part, and every rank calls it.

    query, document: (B, D), hard_negatives: (B, K, D) unit vectors; ids: (B, A), hard_negative_ids:
        (B, K) int64.
    scale: () already exponentiated. tile: rows and columns of logits held at a time.

    Returns () the loss of the global batch, the same on every rank. As with
    `all_gather_with_grad`, gradients of the vectors are those of one process times the number of
    ranks, for `average_gradients` to divide. It has no second derivative.
    """
    loss: Tensor = _TiledInfoNCE.apply(  # type: ignore[no-untyped-call]
        query,
        document,
        scale,
        hard_negatives,
        ids,
        hard_negative_ids,
        negatives,
        dims,
        tile,
    )
    return loss


class _TiledInfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        document: Tensor,
        scale: Tensor,
        hard_negatives: Tensor | None,
        ids: Tensor | None,
        hard_negative_ids: Tensor | None,
        negatives: Negatives,
        dims: Sequence[int],
        tile: int,
    ) -> Tensor:
        local = [query.contiguous(), document.contiguous()]
        if hard_negatives is not None:
            local.append(hard_negatives.flatten(0, 1).contiguous())
        all_ids = None
        if ids is not None:
            all_ids = [ids, ids]
            if hard_negative_ids is not None:
                all_ids.append(hard_negative_ids.reshape(-1, 1))
        tiles = Tiles(local, float(scale), all_ids, negatives, dims, tile)
        partitions = tiles.log_partitions()  # (M, 2, G)
        gradients, scale_gradient = tiles.gradients(partitions)
        if hard_negatives is not None:
            gradients[HARD_NEGATIVE] = gradients[HARD_NEGATIVE].view_as(hard_negatives)
        by_scale = torch.as_tensor(
            scale_gradient, dtype=scale.dtype, device=scale.device
        )
        ctx.save_for_backward(by_scale, *gradients)
        losses = partitions.sum(1) / 2 - tiles.positive  # (M, G)
        return losses.mean(1).sum().to(query.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        scale_gradient, query, document, *hard = ctx.saved_tensors
        summed = grad * distributed.world_size()
        by_hard_negatives = summed * hard[0] if hard else None
        return (
            summed * query,
            summed * document,
            grad * scale_gradient,
            by_hard_negatives,
            *[None] * 5,
        )
