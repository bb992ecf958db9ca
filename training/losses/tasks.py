"""The loss of a task: the sides of a batch, the task's temperature, and the loss that it names.

B local batch, G global batch, K hard negatives per query, D embedding dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

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


class LossInputs(NamedTuple):
    """What a loss may use: this rank's part of a batch, and the settings of its task."""

    query: Tensor  # (B, D) unit vectors: queries or images
    document: Tensor  # (B, D): documents or captions
    hard_negatives: Tensor | None  # (B, K, D)
    ids: Tensor | None  # (B, A) int64; None: duplicates are not masked
    hard_negative_ids: Tensor | None  # (B, K) int64
    scores: Tensor | None  # (B, 1) or (B, 1 + K)
    scale: Tensor  # (), already exponentiated
    bias: Tensor | None  # (), of the sigmoid loss
    task: TaskConfig
    tile: int


def task_loss(
    model: DualEncoder,
    batch: Batch,
    vectors: Mapping[str, Tensor],
    task: TaskConfig,
    tile: int,
) -> Tensor:
    """The loss of the global batch that this rank holds a part of -> (), the same on every rank.

    vectors: by tower, the (B, D) images and the texts in the order of the batch.
    tile: InfoNCE of more than two tiles of queries is computed tile by tile.
    """
    name = batch.place.task
    query, document, hard_negatives = sides(batch, vectors)
    inputs = LossInputs(
        query=query,
        document=document,
        hard_negatives=hard_negatives,
        ids=batch.ids.to(query.device) if task.mask_duplicates else None,
        hard_negative_ids=batch.hard_negative_ids.to(query.device),
        scores=None if batch.scores is None else batch.scores.to(query),
        scale=logit_scale(model, name, task),
        bias=model.logit_biases.get(name),
        task=task,
        tile=tile,
    )
    # Similarities and their sums are float32.
    with torch.autocast(query.device.type, enabled=False):
        return LOSSES[task.loss](inputs)


def _info_nce(inputs: LossInputs) -> Tensor:
    hard_negatives = inputs.hard_negatives
    is_masked = inputs.ids is not None and hard_negatives is not None
    hard_negative_ids = inputs.hard_negative_ids if is_masked else None
    negatives = Negatives(**inputs.task.negatives.model_dump())
    dims = inputs.task.matryoshka_dims
    if len(inputs.query) * world_size() > 2 * inputs.tile:
        return tiled_info_nce(
            inputs.query,
            inputs.document,
            inputs.scale,
            hard_negatives,
            ids=inputs.ids,
            hard_negative_ids=hard_negative_ids,
            negatives=negatives,
            dims=dims,
            tile=inputs.tile,
        )
    return info_nce(
        all_gather_with_grad(inputs.query),
        all_gather_with_grad(inputs.document),
        inputs.scale,
        None if hard_negatives is None else all_gather_with_grad(hard_negatives),
        ids=_gather_ids(inputs.ids),
        hard_negative_ids=_gather_ids(hard_negative_ids),
        negatives=negatives,
        dims=dims,
    )


def _sigmoid(inputs: LossInputs) -> Tensor:
    assert inputs.bias is not None
    return sigmoid_loss(
        all_gather_with_grad(inputs.query),
        all_gather_with_grad(inputs.document),
        inputs.scale,
        inputs.bias,
        ids=_gather_ids(inputs.ids),
        dims=inputs.task.matryoshka_dims,
    )


def _own_negatives(inputs: LossInputs) -> Tensor:
    assert inputs.hard_negatives is not None
    return own_negatives_loss(
        all_gather_with_grad(inputs.query),
        all_gather_with_grad(inputs.document),
        all_gather_with_grad(inputs.hard_negatives),
        inputs.scale,
        dims=inputs.task.matryoshka_dims,
    )


def _cosent(inputs: LossInputs) -> Tensor:
    assert inputs.scores is not None
    return cosent_loss(
        all_gather_with_grad(inputs.query),
        all_gather_with_grad(inputs.document),
        all_gather(inputs.scores)[:, 0],
        inputs.scale,
        dims=inputs.task.matryoshka_dims,
    )


def _distillation(inputs: LossInputs) -> Tensor:
    assert inputs.scores is not None
    assert inputs.hard_negatives is not None
    query = all_gather_with_grad(inputs.query)
    document = all_gather_with_grad(inputs.document)
    hard_negatives = all_gather_with_grad(inputs.hard_negatives)
    return distillation_loss(
        query,
        torch.cat([document[:, None], hard_negatives], 1),  # (G, 1 + K, D)
        all_gather(inputs.scores),
        inputs.scale,
        1 / inputs.task.teacher_temperature,
        dims=inputs.task.matryoshka_dims,
    )


# What a task's `loss` names. A new loss is a function and a line here.
LOSSES: Mapping[str, Callable[[LossInputs], Tensor]] = {
    "info_nce": _info_nce,
    "sigmoid": _sigmoid,
    "cosent": _cosent,
    "distillation": _distillation,
    "own_negatives": _own_negatives,
}


def _gather_ids(ids: Tensor | None) -> Tensor | None:
    return None if ids is None else all_gather(ids)


def sides(
    batch: Batch, vectors: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Split the vectors of a batch -> (B, D), (B, D), and (B, K, D) or None.

    These are images and captions, or queries, documents and hard negatives.
    """
    texts = vectors["text"]
    if batch.pixels is not None:
        return vectors["image"], texts, None
    size = len(batch.keys)
    hard_negatives = None
    if len(texts) > 2 * size:
        hard_negatives = texts[2 * size :].unflatten(0, (size, -1))
    return texts[:size], texts[size : 2 * size], hard_negatives


def logit_scale(model: DualEncoder, name: str, task: TaskConfig) -> Tensor:
    """exp of the task's logit scale -> (); a constant unless the task learns its temperature."""
    scale: Tensor = model.logit_scales[name]
    if task.learns_temperature:
        return scale.exp()
    return torch.full_like(scale.detach(), _fixed_scale(task)).exp()


def fix_logit_scale(model: DualEncoder, name: str, task: TaskConfig) -> None:
    """Set the logit scale of a task that does not learn it, so that it is saved with the model.

    A stage may have a temperature of its own.
    """
    if not task.learns_temperature:
        model.logit_scales[name].data.fill_(_fixed_scale(task))


def clamp_logit_scale(model: DualEncoder, name: str, task: TaskConfig) -> None:
    """Keep a learned scale between 1 and max_scale (CLIP: 100), as open_clip does after a step."""
    if task.learns_temperature:
        model.logit_scales[name].data.clamp_(0, math.log(task.max_scale))


def _fixed_scale(task: TaskConfig) -> float:
    return -math.log(task.start_temperature)
