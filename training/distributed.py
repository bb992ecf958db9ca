"""Ranks: one process each, started by torchrun; a plain process is a world of one.

B local batch, G global batch (B x ranks), D embedding dimension.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start(device: str | None) -> torch.device:
    """Join the process group that torchrun announced, if any, and choose this rank's device."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" in os.environ and not dist.is_initialized():
        # Two hours: the others wait while the first rank validates.
        dist.init_process_group("nccl" if name.startswith("cuda") else "gloo", timeout=timedelta(hours=2))
    if name == "cuda":
        torch.cuda.set_device(local)
        return torch.device("cuda", local)
    return torch.device(name)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_joined() -> bool:
    """Whether this process is in a process group already."""
    return dist.is_initialized()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(local: Tensor) -> Tensor:
    """(B, ...) of every rank -> (G, ...), in rank order, with gradient.

    Every rank then computes the same loss of the whole batch, so the gradient of the local rows is the plain slice
    times the number of ranks, and `average_gradients` gives what one process would have got.
    """
    return local if world_size() == 1 else _Gather.apply(local)  # type: ignore[no-any-return, no-untyped-call]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        size = len(grad) // world_size()
        return grad[rank() * size : (rank() + 1) * size] * world_size()


def average_gradients(module: nn.Module) -> None:
    """Average the gradients that exist over the ranks, in one reduction a data type.

    An idle tower's parameters have no gradient on any rank, since all ranks are at the same task: nothing is sent for
    them, and no wrapper needs to be told which are unused.
    """
    if world_size() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in module.parameters():
        if parameter.grad is not None:
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for grads in by_dtype.values():
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat)
        flat /= world_size()
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))


def add_up(values: Sequence[float], device: torch.device) -> list[float]:
    """The sum over the ranks of each value: what all ranks then agree on."""
    if world_size() == 1:
        return list(values)
    total = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return [float(value) for value in total]


def check_same(what: str, value: str) -> None:
    """Raise ValueError unless every rank has the same value: wrong negatives are silent otherwise."""
    if world_size() == 1:
        return
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, hashlib.blake2b(value.encode(), digest_size=8).hexdigest())
    if len(set(values)) > 1:
        raise ValueError(f"ranks disagree on {what} ({values}); start every rank with the same recipe, data and code.")


def barrier() -> None:
    """Wait for every rank."""
    if world_size() > 1:
        dist.barrier()
