"""One optimisation step: encode, loss, gradients of the global batch, update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from unimodal.model import DualEncoder

from .config import OptimConfig, Stage, TowersConfig
from .data.collate import Batch
from .distributed import average_gradients
from .tasks import clamp_logit_scale, task_loss


class StepStats(NamedTuple):
    """What a step found."""

    losses: dict[str, float]  # by task
    grad_norm: float  # before clipping


def train_step(
    model: DualEncoder, batches: Sequence[Batch], stage: Stage, optimizer: Optimizer, *,
    step: int, learning_rate: float, token_budget: int, precision: str,
) -> StepStats:  # fmt: skip
    """One update from the batches of one global step (several with `schedule: joint`, whose losses are added).

    A tower that is idle keeps gradients of None: neither decayed nor moved by its old momentum.
    Raises FloatingPointError before anything is changed if a loss or the gradient is not finite.
    """
    optimizer.zero_grad(set_to_none=True)
    losses: dict[str, float] = {}
    for batch in batches:
        task = stage.tasks[batch.place.task]
        with autocast(model.device, precision):
            loss = task_loss(model, batch, task, token_budget)
        losses[batch.place.task] = loss.item()
        _refuse_non_finite(losses[batch.place.task], "loss", batch, step)
        (loss * (task.share if stage.schedule == "joint" else 1.0)).backward()
    average_gradients(model)
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), stage.optim.clip_norm).item()
    _refuse_non_finite(grad_norm, "gradient norm", batches[-1], step)
    optim = stage.optim
    for group in optimizer.param_groups:
        decay = optim.weight_decay if group["decays"] else 0.0
        group.update(lr=learning_rate * group["lr_scale"], weight_decay=decay, betas=optim.betas, eps=optim.eps)
    optimizer.step()
    for batch in batches:
        clamp_logit_scale(model, batch.place.task, stage.tasks[batch.place.task])
    return StepStats(losses, grad_norm)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bfloat16 towers with float32 weights, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def make_optimizer(model: DualEncoder, optim: OptimConfig, towers: TowersConfig) -> AdamW:
    """AdamW with a group for each tower with and without weight decay; frozen backbones are left out.

    Vectors and scalars (biases, norms, logit scales) are not decayed.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in trained_parameters(model):
        tower = name.split(".")[0].removesuffix("_projection")
        lr_scale = getattr(towers, tower).lr_scale if tower in ("image", "text") else 1.0
        groups.setdefault((lr_scale, parameter.ndim > 1), []).append(parameter)
    return AdamW(
        [{"params": params, "lr_scale": scale, "decays": decays} for (scale, decays), params in groups.items()],
        lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True,
    )  # fmt: skip


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and parameter of all that learns, in a fixed order."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _refuse_non_finite(value: float, what: str, batch: Batch, step: int) -> None:
    if not math.isfinite(value):
        shown = ", ".join(batch.keys)
        raise FloatingPointError(
            f"{what} of task {batch.place.task!r} is {value} at step {step + 1} (source {batch.place.source!r}, "
            f"samples {shown}); nothing was updated: look at those samples, or start a run with a lower optim.lr "
            "from the last checkpoint (init=RUN/checkpoints/step-N)."
        )
