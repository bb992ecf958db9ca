"""One optimization step: encode in chunks, loss, gradients of the global batch, update.

There is one path. A plain step keeps the graph of every chunk, a cached one of as many as memory
allows, and an accumulated one adds the gradients of several global batches.
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
from .data.collate import Batch
from .losses.contrast import contrast_of
from .losses.tasks import clamp_logit_scale, fix_logit_scale, task_loss
from .optim import average_gradients, gradient_norm, update


class StepStats(NamedTuple):
    """What a step measured."""

    losses: dict[str, float]  # by task, the mean over its batches
    grad_norm: float  # before clipping
    is_finite: bool  # False: nothing was updated, on any rank
    num_chunks: int  # of this rank
    num_recomputed: int  # of these chunks
    # By task that masks duplicates, the share of its pairs that are masked.
    masked: dict[str, float] = {}  # noqa: RUF012
    # Of each batch, why nothing can be learned from it; "" if something can.
    lacks: tuple[str, ...] = ()


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
    """Make one update from the batches of one global step.

    Several batches of a task (`accumulate`) count as their mean; with `schedule: joint` the tasks'
    losses are added. The gradients of an idle tower stay None, so that neither weight decay nor old
    momentum moves it. If a loss or the gradient is not finite, nothing is updated.
    seed: of dropout; it should differ between ranks and steps.
    """
    optimizer.zero_grad(set_to_none=True)
    losses: dict[str, float] = {}
    masked: dict[str, float] = {}
    lacks: list[str] = []
    num_chunks = 0
    num_recomputed = 0
    for batch in batches:
        name = batch.place.task
        task = stage.tasks[name]

        contrast = contrast_of(batch, task)
        lacks.append(contrast.lacks)
        if contrast.masked is not None:
            masked[name] = masked.get(name, 0.0) + contrast.masked / task.accumulate

        towers = encode_batch(model, batch, config, precision, seed)
        batch_chunks = sum(len(encoded.chunks) for encoded in towers.values())
        batch_graphs = sum(len(encoded.graphs) for encoded in towers.values())
        seed += batch_chunks
        num_chunks += batch_chunks
        num_recomputed += batch_chunks - batch_graphs

        fix_logit_scale(model, name, task)
        vectors = {tower: encoded.vectors for tower, encoded in towers.items()}
        loss = task_loss(model, batch, vectors, task, config.loss_tile)
        losses[name] = losses.get(name, 0.0) + loss.item() / task.accumulate

        weight = (task.share if stage.schedule == "joint" else 1.0) / task.accumulate
        (loss * weight).backward()
        for encoded in towers.values():
            grad_cache.backward(encoded)

    average_gradients(model)
    grad_norm = gradient_norm(model)
    is_finite = _is_finite_everywhere([*losses.values(), grad_norm])
    if is_finite:
        update(model, optimizer, stage.optim, learning_rate, grad_norm)
        for name in losses:
            clamp_logit_scale(model, name, stage.tasks[name])
    if is_finite and grad_norm == 0:
        lacks = [lack or "its gradient is exactly 0" for lack in lacks]
    return StepStats(
        losses=losses,
        grad_norm=grad_norm,
        is_finite=is_finite,
        num_chunks=num_chunks,
        num_recomputed=num_recomputed,
        masked=masked,
        lacks=tuple(lacks),
    )


def _is_finite_everywhere(values: Sequence[float]) -> bool:
    """Whether the values are finite on every rank."""
    is_finite = all(math.isfinite(value) for value in values)
    (on_every_rank,) = distributed.all_reduce_min([is_finite])
    return on_every_rank > 0


def encode_batch(
    model: DualEncoder, batch: Batch, config: StepConfig, precision: str, seed: int
) -> dict[str, grad_cache.Encoded]:
    """Encode a batch in chunks with each tower that it needs."""
    towers: dict[str, grad_cache.Encoded] = {}
    limit = grad_cache.graph_limit(config, model, model.device)
    for tower, chunks in grad_cache.cut(model, batch, config, precision).items():
        encoded = grad_cache.encode(chunks, limit, seed, model)
        towers[tower] = encoded
        # Above 0, for a tower may keep one graph in any case.
        limit = max(limit - encoded.held, min(limit, 1.0))
        seed += len(chunks)
    return towers
