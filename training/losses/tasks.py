"""What the vectors of one batch become: its sides, its temperature, its loss.

B local batch, G global batch, K hard negatives per query, D embedding dimension.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from unimodal.distributed import all_gather, all_gather_with_grad, world_size
from unimodal.model import DualEncoder

from ..config import TaskConfig
from ..data.collate import Batch
from .contrastive import (
    Negatives,
    cosent_loss,
    distillation_loss,
    info_nce,
    own_negatives_loss,
    sigmoid_loss,
)
from .tiled import tiled_info_nce


def task_loss(
    model: DualEncoder,
    batch: Batch,
    vectors: Mapping[str, Tensor],
    task: TaskConfig,
    tile: int,
) -> Tensor:
    """The loss of the global batch that this rank holds a part of -> (), the same on every rank.

    vectors: of each tower, the (B, D) images and the texts as the batch lays them out.
    tile: InfoNCE of more than two tiles of queries is computed tile by tile.
    """
    query, document, hard = sides(batch, vectors)
    scale = logit_scale(model, batch.place.task, task)
    dims = task.matryoshka_dims
    ids = batch.ids.to(query.device) if task.mask_duplicates else None
    with torch.autocast(
        query.device.type, enabled=False
    ):  # similarities and their sums in float32
        if task.loss == "info_nce":
            negatives = Negatives(**task.negatives.model_dump())
            hard_ids = (
                None
                if ids is None or hard is None
                else batch.hard_negative_ids.to(query.device)
            )
            if len(query) * world_size() > 2 * tile:
                return tiled_info_nce(
                    query,
                    document,
                    scale,
                    hard,
                    ids=ids,
                    hard_negative_ids=hard_ids,
                    negatives=negatives,
                    dims=dims,
                    tile=tile,
                )
            return info_nce(
                all_gather_with_grad(query),
                all_gather_with_grad(document),
                scale,
                None if hard is None else all_gather_with_grad(hard),
                ids=None if ids is None else all_gather(ids),
                hard_negative_ids=None if hard_ids is None else all_gather(hard_ids),
                negatives=negatives,
                dims=dims,
            )
        query = all_gather_with_grad(query)
        document = all_gather_with_grad(document)
        hard = None if hard is None else all_gather_with_grad(hard)
        if task.loss == "sigmoid":
            ids = None if ids is None else all_gather(ids)
            return sigmoid_loss(
                query,
                document,
                scale,
                model.logit_biases[batch.place.task],
                ids=ids,
                dims=dims,
            )
        if task.loss == "own_negatives":
            assert hard is not None
            return own_negatives_loss(query, document, hard, scale, dims=dims)
        assert batch.scores is not None
        scores = all_gather(batch.scores.to(query))
        if task.loss == "cosent":
            return cosent_loss(query, document, scores[:, 0], scale, dims=dims)
        assert hard is not None
        candidates = torch.cat([document[:, None], hard], 1)  # (G, 1 + K, D)
        return distillation_loss(
            query, candidates, scores, scale, 1 / task.teacher_temperature, dims=dims
        )


def sides(
    batch: Batch, vectors: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Images and captions, or queries, documents and hard negatives -> (B, D), (B, D), (B, K, D)
    or None.
    """
    texts = vectors["text"]
    if batch.pixels is not None:
        return vectors["image"], texts, None
    size = len(batch.keys)
    hard = texts[2 * size :]
    return (
        texts[:size],
        texts[size : 2 * size],
        hard.unflatten(0, (size, -1)) if len(hard) else None,
    )


def logit_scale(model: DualEncoder, name: str, task: TaskConfig) -> Tensor:
    """exp of the task's logit scale -> (); a constant unless the task learns its temperature."""
    scale: Tensor = model.logit_scales[name]
    if not task.learns_temperature:
        scale.data.fill_(
            -math.log(task.start_temperature)
        )  # a stage may have its own; saved with the model
        return scale.detach().exp()
    return scale.exp()


def clamp_logit_scale(model: DualEncoder, name: str, task: TaskConfig) -> None:
    """Keep a learned scale between 1 and max_scale (CLIP: 100), as open_clip does after each
    update.
    """
    if task.learns_temperature:
        model.logit_scales[name].data.clamp_(0, math.log(task.max_scale))
