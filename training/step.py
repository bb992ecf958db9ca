"""One optimisation step: encode in chunks, loss, gradients of the global batch, update.

One path: a plain step keeps the graph of every chunk, a cached one of as many as there is memory
for, and an accumulated one adds the gradients of several global batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch.optim import Optimizer

from unimodal import distributed
from unimodal.model import DualEncoder

from . import grad_cache
from .config import Stage, StepConfig
from .contrast import contrast_of
from .data.collate import Batch
from .losses.tasks import clamp_logit_scale, task_loss
from .optim import average_gradients, gradient_norm, update


class StepStats(NamedTuple):
    """What a step found."""

    losses: dict[str, float]  # by task, the mean over its batches
    grad_norm: float  # before clipping
    is_finite: bool  # otherwise nothing was updated, on any rank
    num_chunks: int  # of this rank
    num_recomputed: int  # of them
    masked: dict[str, float] = {}  # noqa: RUF012  # by task that masks duplicates, the share of its pairs that are
    lacks: tuple[
        str, ...
    ] = ()  # of each batch, why nothing can be learned from it; "" where something can


def train_step(
    model: DualEncoder,
    batches: Sequence[Batch],
    stage: Stage,
    optimizer: Optimizer,
    config: StepConfig,
    *,
    learning_rate: float,
    precision: str,
    seed: int,
) -> StepStats:
    """One update from the batches of one global step.

    Several batches of a task (`accumulate`) count as their mean; with `schedule: joint` the tasks'
    losses are added. A tower that is idle keeps gradients of None: neither decayed nor moved by its
    old momentum. If a loss or the gradient is not finite, nothing is updated.
    seed: of dropout; it should differ between ranks and steps.
    """
    optimizer.zero_grad(set_to_none=True)
    losses: dict[str, float] = {}
    masked: dict[str, float] = {}
    lacks: list[str] = []
    num_chunks = num_recomputed = 0
    for batch in batches:
        name = batch.place.task
        task = stage.tasks[batch.place.task]
        weight = (task.share if stage.schedule == "joint" else 1.0) / task.accumulate
        contrast = contrast_of(batch, task)
        lacks.append(contrast.lacks)
        if contrast.masked is not None:
            masked[name] = masked.get(name, 0.0) + contrast.masked / task.accumulate
        encoded = encode_batch(model, batch, config, precision, seed)
        seed += sum(len(tower.chunks) for tower in encoded.values())
        num_chunks += sum(len(tower.chunks) for tower in encoded.values())
        num_recomputed += sum(
            len(tower.chunks) - len(tower.graphs) for tower in encoded.values()
        )
        vectors = {tower: found.vectors for tower, found in encoded.items()}
        loss = task_loss(model, batch, vectors, task, config.loss_tile)
        losses[name] = losses.get(name, 0.0) + loss.item() / task.accumulate
        (loss * weight).backward()
        for found in encoded.values():
            grad_cache.backward(found)
    average_gradients(model)
    grad_norm = gradient_norm(model)
    is_finite = (
        distributed.all_reduce_min(
            [all(map(math.isfinite, (*losses.values(), grad_norm)))]
        )[0]
        > 0
    )
    if is_finite:
        update(model, optimizer, stage.optim, learning_rate, grad_norm)
        for name in losses:
            clamp_logit_scale(model, name, stage.tasks[name])
    if is_finite and grad_norm == 0:
        lacks = [said or "its gradient is exactly 0" for said in lacks]
    return StepStats(
        losses, grad_norm, is_finite, num_chunks, num_recomputed, masked, tuple(lacks)
    )


def encode_batch(
    model: DualEncoder, batch: Batch, config: StepConfig, precision: str, seed: int
) -> dict[str, grad_cache.Encoded]:
    """The vectors of each tower that the batch needs, in chunks."""
    encoded: dict[str, grad_cache.Encoded] = {}
    limit = grad_cache.graph_limit(config, model, model.device)
    for tower, found in grad_cache.cut(model, batch, config, precision).items():
        encoded[tower] = grad_cache.encode(found, limit, seed, model)
        limit = max(limit - encoded[tower].held, min(limit, 1.0))
        seed += len(found)
    return encoded
