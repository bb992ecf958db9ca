"""One optimisation step: encode in chunks, loss, gradients of the global batch, update.

One path: a plain step keeps the graph of every chunk, a cached one of as many as there is memory for, and an
accumulated one adds the gradients of several global batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from unimodal.model import DualEncoder

from . import chunks, distributed
from .config import OptimConfig, Stage, StepConfig, TowersConfig
from .contrast import contrast_of
from .data.collate import Batch
from .sharding import local_part
from .tasks import clamp_logit_scale, task_loss


class StepStats(NamedTuple):
    """What a step found."""

    losses: dict[str, float]  # by task, the mean over its batches
    grad_norm: float  # before clipping
    is_finite: bool  # otherwise nothing was updated, on any rank
    num_chunks: int  # of this rank
    num_recomputed: int  # of them
    masked: dict[str, float] = {}  # noqa: RUF012  # by task that masks duplicates, the share of its pairs that are
    lacks: tuple[str, ...] = ()  # of each batch, why nothing can be learned from it; "" where something can


def train_step(
    model: DualEncoder, batches: Sequence[Batch], stage: Stage, optimizer: Optimizer, config: StepConfig, *,
    learning_rate: float, precision: str, seed: int,
) -> StepStats:  # fmt: skip
    """One update from the batches of one global step.

    Several batches of a task (`accumulate`) count as their mean; with `schedule: joint` the tasks' losses are added.
    A tower that is idle keeps gradients of None: neither decayed nor moved by its old momentum.
    If a loss or the gradient is not finite, nothing is updated.
    seed: of dropout; it should differ between ranks and steps.
    """
    optimizer.zero_grad(set_to_none=True)
    losses: dict[str, float] = {}
    masked: dict[str, float] = {}
    lacks: list[str] = []
    num_chunks = num_recomputed = 0
    for batch in batches:
        name, task = batch.place.task, stage.tasks[batch.place.task]
        weight = (task.share if stage.schedule == "joint" else 1.0) / task.accumulate
        contrast = contrast_of(batch, task)
        lacks.append(contrast.lacks)
        if contrast.masked is not None:
            masked[name] = masked.get(name, 0.0) + contrast.masked / task.accumulate
        encoded = encode_batch(model, batch, config, precision, seed)
        seed += sum(len(tower.chunks) for tower in encoded.values())
        num_chunks += sum(len(tower.chunks) for tower in encoded.values())
        num_recomputed += sum(len(tower.chunks) - len(tower.graphs) for tower in encoded.values())
        vectors = {tower: found.vectors for tower, found in encoded.items()}
        loss = task_loss(model, batch, vectors, task, config.loss_tile)
        losses[name] = losses.get(name, 0.0) + loss.item() / task.accumulate
        (loss * weight).backward()
        for found in encoded.values():
            chunks.backward(found)
    distributed.average_gradients(model)
    grad_norm = gradient_norm(model)
    is_finite = distributed.smallest([all(map(math.isfinite, (*losses.values(), grad_norm)))])[0] > 0
    if is_finite:
        _update(model, optimizer, stage.optim, learning_rate, grad_norm)
        for name in losses:
            clamp_logit_scale(model, name, stage.tasks[name])
    if is_finite and grad_norm == 0:
        lacks = [said or "its gradient is exactly 0" for said in lacks]
    return StepStats(losses, grad_norm, is_finite, num_chunks, num_recomputed, masked, tuple(lacks))


def encode_batch(
    model: DualEncoder, batch: Batch, config: StepConfig, precision: str, seed: int
) -> dict[str, chunks.Encoded]:
    """The vectors of each tower that the batch needs, in chunks."""
    encoded: dict[str, chunks.Encoded] = {}
    limit = chunks.graph_limit(config, model, model.device)
    for tower, found in chunks.cut(model, batch, config, precision).items():
        encoded[tower] = chunks.encode(found, limit, seed, model)
        limit = max(limit - encoded[tower].held, min(limit, 1.0))
        seed += len(found)
    return encoded


def gradient_norm(model: nn.Module) -> float:
    """The length of the whole gradient, over the shards of all ranks where weights are sharded."""
    whole, shards = [], []
    for parameter in model.parameters():
        if isinstance(parameter.grad, DTensor):
            shards.append(local_part(parameter.grad))
        elif parameter.grad is not None:
            whole.append(parameter.grad)
    norm = float(nn.utils.get_total_norm(whole))
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        (squares,) = distributed.add_up([float(nn.utils.get_total_norm(shards)) ** 2])
        norm = math.sqrt(norm**2 + squares)
    return norm


def _update(model: nn.Module, optimizer: Optimizer, optim: OptimConfig, learning_rate: float, grad_norm: float) -> None:
    shrink = min(1.0, optim.clip_norm / (grad_norm + 1e-6))  # as torch's clip_grad_norm_
    if shrink < 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                local_part(parameter.grad).mul_(shrink)
    for group in optimizer.param_groups:
        decay = optim.weight_decay if group["decays"] else 0.0
        group.update(lr=learning_rate * group["lr_scale"], weight_decay=decay, betas=optim.betas, eps=optim.eps)
    optimizer.step()


def make_optimizer(model: DualEncoder, optim: OptimConfig, towers: TowersConfig) -> AdamW:
    """AdamW with a group for each tower with and without weight decay; frozen backbones are left out.

    Vectors and scalars (biases, norms, logit scales) are not decayed.
    """
    groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}  # sharded ones are not updated beside whole ones
    for name, parameter in trained_parameters(model):
        tower = name.split(".")[0].removesuffix("_projection")
        lr_scale = getattr(towers, tower).lr_scale if tower in ("image", "text") else 1.0
        groups.setdefault((lr_scale, parameter.ndim > 1, isinstance(parameter, DTensor)), []).append(parameter)
    return AdamW(
        [{"params": params, "lr_scale": scale, "decays": decays} for (scale, decays, _), params in groups.items()],
        lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True,
    )  # fmt: skip


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and parameter of all that learns, in a fixed order."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
