"""The optimizer: which parameters it trains, the norm of their gradient, and the update."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from unimodal import distributed
from unimodal.model import DualEncoder

from .config import OptimConfig, TowersConfig
from .sharding import local_part


def average_gradients(module: nn.Module) -> None:
    """Average the gradients that exist over the ranks, in one reduction per data type.

    An idle tower's parameters have no gradient on any rank, since all ranks are at the same task:
    nothing is sent for them, and no wrapper needs to know which are unused. Sharded parameters
    were reduced in their backward pass.
    """
    if distributed.world_size() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in module.parameters():
        if parameter.grad is not None and not isinstance(parameter.grad, DTensor):
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for grads in by_dtype.values():
        flat = distributed.all_reduce(torch.cat([grad.flatten() for grad in grads]))
        flat /= distributed.world_size()
        sizes = [grad.numel() for grad in grads]
        for grad, part in zip(grads, flat.split(sizes), strict=True):
            grad.copy_(part.view_as(grad))


def gradient_norm(model: nn.Module) -> float:
    """The length of the whole gradient, over the shards of all ranks where weights are sharded."""
    whole = []
    shards = []
    for parameter in model.parameters():
        if isinstance(parameter.grad, DTensor):
            shards.append(local_part(parameter.grad))
        elif parameter.grad is not None:
            whole.append(parameter.grad)
    norm = float(nn.utils.get_total_norm(whole))
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        (squares,) = distributed.all_reduce_sum(
            [float(nn.utils.get_total_norm(shards)) ** 2]
        )
        norm = math.sqrt(norm**2 + squares)
    return norm


def update(
    model: nn.Module,
    optimizer: Optimizer,
    optim: OptimConfig,
    learning_rate: float,
    grad_norm: float,
) -> None:
    shrink = min(
        1.0, optim.clip_norm / (grad_norm + 1e-6)
    )  # as torch's clip_grad_norm_
    if shrink < 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                local_part(parameter.grad).mul_(shrink)
    for group in optimizer.param_groups:
        decay = optim.weight_decay if group["decays"] else 0.0
        group.update(
            lr=learning_rate * group["lr_scale"],
            weight_decay=decay,
            betas=optim.betas,
            eps=optim.eps,
        )
    optimizer.step()


def make_optimizer(
    model: DualEncoder, optim: OptimConfig, towers: TowersConfig
) -> AdamW:
    """AdamW with a group for each tower with and without weight decay; frozen backbones are left
    out.

    Vectors and scalars (biases, norms, logit scales) are not decayed.
    """
    groups: dict[
        tuple[float, bool, bool], list[nn.Parameter]
    ] = {}  # sharded ones are not updated beside whole ones
    for name, parameter in trained_parameters(model):
        tower = name.split(".")[0].removesuffix("_projection")
        lr_scale = (
            getattr(towers, tower).lr_scale if tower in ("image", "text") else 1.0
        )
        groups.setdefault(
            (lr_scale, parameter.ndim > 1, isinstance(parameter, DTensor)), []
        ).append(parameter)
    return AdamW(
        [
            {"params": params, "lr_scale": scale, "decays": decays}
            for (scale, decays, _), params in groups.items()
        ],
        lr=optim.lr,
        betas=optim.betas,
        eps=optim.eps,
        fused=True,
    )


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and parameter of all that learns, in a fixed order."""
    return (
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    )
