"""What one batch of a task becomes: both sides encoded, its temperature, its loss.

B local batch, G global batch, K hard negatives per query, D embedding dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unimodal.model import DualEncoder

from .config import TaskConfig
from .data.collate import Batch
from .distributed import gather
from .losses import info_nce


def task_loss(model: DualEncoder, batch: Batch, task: TaskConfig, token_budget: int) -> Tensor:
    """The InfoNCE of the global batch that this rank holds a part of -> (), the same on every rank."""
    left, right, hard_negatives = encode_sides(model, batch, token_budget)
    with torch.autocast(left.device.type, enabled=False):  # similarities and their sums in float32
        return info_nce(
            gather(left), gather(right), logit_scale(model, batch.place.task, task),
            None if hard_negatives is None else gather(hard_negatives),
        )  # fmt: skip


def encode_sides(model: DualEncoder, batch: Batch, token_budget: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pictures and captions, or queries, documents and hard negatives -> (B, D), (B, D), (B, K, D) or None."""
    vectors = model.encode_token_lists(batch.texts.lists(), token_budget)
    if batch.pixels is not None:
        return model.encode_image(batch.pixels.to(model.device)), vectors, None
    size = len(batch.keys)
    negatives = vectors[2 * size :]
    return vectors[:size], vectors[size : 2 * size], negatives.unflatten(0, (size, -1)) if len(negatives) else None


def logit_scale(model: DualEncoder, name: str, task: TaskConfig) -> Tensor:
    """exp of the task's logit scale -> (); a constant unless the task learns its temperature."""
    scale: Tensor = model.logit_scales[name]
    if not task.learns_temperature:
        scale.data.fill_(-math.log(task.start_temperature))  # a stage may have its own; saved with the model
        return scale.detach().exp()
    return scale.exp()


def clamp_logit_scale(model: DualEncoder, name: str, task: TaskConfig) -> None:
    """Keep a learned scale between 1 and max_scale (CLIP: 100), as open_clip does after each update."""
    if task.learns_temperature:
        model.logit_scales[name].data.clamp_(0, math.log(task.max_scale))
