"""The optimizer: which parameters it trains, the norm of their gradient, and the update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from unimodal import distributed
from unimodal.model import DualEncoder

from .config import OptimConfig, TowersConfig
from .sharding import is_sharded, local_part


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
    """The length of the whole gradient, over the shards of all ranks if weights are sharded."""
    whole = []
    shards = []
    for parameter in model.parameters():
        if isinstance(parameter.grad, DTensor):
            shards.append(local_part(parameter.grad))
        elif parameter.grad is not None:
            whole.append(parameter.grad)
    norm = float(nn.utils.get_total_norm(whole))
    if is_sharded(model):
        local_square = float(nn.utils.get_total_norm(shards)) ** 2
        (square,) = distributed.all_reduce_sum([local_square])
        norm = math.sqrt(norm**2 + square)
    return norm


def update(
    model: nn.Module,
    optimizer: Optimizer,
    optim: OptimConfig,
    learning_rate: float,
    grad_norm: float,
) -> None:
    """Clip the gradient and make one optimizer step with the settings of the stage."""
    # As torch's clip_grad_norm_.
    factor = min(1.0, optim.clip_norm / (grad_norm + 1e-6))
    if factor < 1:
        for parameter in model.parameters():
            if parameter.grad is not None:
                local_part(parameter.grad).mul_(factor)
    for group in optimizer.param_groups:
        group.update(
            lr=learning_rate * group["lr_scale"],
            weight_decay=optim.weight_decay if group["decays"] else 0.0,
            betas=optim.betas,
            eps=optim.eps,
        )
    optimizer.step()


class _GroupKey(NamedTuple):
    """What the parameters of one group of the optimizer have in common."""

    lr_scale: float
    decays: bool
    is_sharded: bool  # sharded and whole parameters cannot be updated together


def make_optimizer(
    model: DualEncoder, optim: OptimConfig, towers: TowersConfig
) -> AdamW:
    """Make AdamW, with a group for each tower with and without weight decay.

    Frozen parameters are left out. Vectors and scalars (biases, norms, logit scales) do not decay.
    """
    lr_scales = {"image": towers.image.lr_scale, "text": towers.text.lr_scale}
    groups: dict[_GroupKey, list[nn.Parameter]] = {}
    for name, parameter in trained_parameters(model):
        tower = name.split(".")[0].removesuffix("_projection")
        key = _GroupKey(
            lr_scale=lr_scales.get(tower, 1.0),
            decays=parameter.ndim > 1,
            is_sharded=isinstance(parameter, DTensor),
        )
        groups.setdefault(key, []).append(parameter)
    param_groups = [
        {"params": parameters, "lr_scale": key.lr_scale, "decays": key.decays}
        for key, parameters in groups.items()
    ]
    return AdamW(
        param_groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, fused=True
    )


def trained_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield name and parameter of all that learns, in a fixed order."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter
