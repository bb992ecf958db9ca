"""Weights in shards, one per rank (`parallel: fsdp`): FSDP2, and back to a whole model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from unimodal import distributed
from unimodal.model import DualEncoder

from .model import blocks_of


def shard(model: DualEncoder) -> DualEncoder:
    """Keep a shard of every tower and projection on this rank.

    A block's weights are gathered while it computes, and each tower separately, so that an idle one
    costs nothing. Logit scales stay whole. Raises ValueError in a process that torchrun did not
    start.
    """
    if not dist.is_initialized():
        raise ValueError(
            "parallel=fsdp shards weights over processes; start with torchrun, or use parallel=ddp."
        )
    mesh = init_device_mesh(model.device.type, (distributed.world_size(),))
    for tower, projection in (
        (model.image, model.image_projection),
        (model.text, model.text_projection),
    ):
        if tower is None:
            continue
        for block in blocks_of(tower.backbone):
            fully_shard(block, mesh=mesh)
        fully_shard(tower, mesh=mesh)
        if projection is not None and next(projection.parameters(), None) is not None:
            fully_shard(projection, mesh=mesh)
    return model


def whole_copy(model: DualEncoder) -> DualEncoder:
    """Copy a model before it is sharded, for `gather_weights` to fill; on the host.

    Ranks other than 0 get an empty copy.
    """
    device = model.device
    whole = copy.deepcopy(model.cpu())  # there may be no room for two on the device
    model.to(device)
    if distributed.rank() != 0:
        empty(whole)
    return whole


def gather_weights(
    model: DualEncoder, whole: DualEncoder, *, everywhere: bool = False
) -> None:
    """Fill the whole copy of rank 0, or of every rank, with all shards; every rank calls it."""
    fills = everywhere or distributed.rank() == 0
    if fills:
        _set_parameters(whole, "cpu", lambda parameter: parameter.is_meta)
    into = whole.state_dict()
    for name, tensor in model.state_dict().items():
        # One at a time: there may be no room for all of them.
        full = full_tensor(tensor)
        if fills:
            into[name].copy_(full)


def empty(whole: DualEncoder) -> None:
    """Free the memory of a copy's parameters until it is filled again.

    Buffers that are computed, and not saved, stay.
    """
    whole.cpu()
    _set_parameters(whole, "meta", lambda parameter: True)


def _set_parameters(
    whole: DualEncoder, device: str, is_chosen: Callable[[nn.Parameter], bool]
) -> None:
    for module in whole.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if is_chosen(parameter):
                memory = torch.empty_like(parameter, device=device)
                setattr(module, name, nn.Parameter(memory))


def copy_weights(model: DualEncoder, spare: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy all weights, by name, to the host of rank 0; every rank calls it, others get nothing.

    The next step does not change the copy: a checkpoint is written from it meanwhile.
    spare: an earlier copy that is no longer needed, or nothing.
    """
    copies: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        # One at a time: there may be no room for all of them.
        full = full_tensor(tensor.detach())
        if distributed.rank() == 0:
            copies[name] = copy_to_host(full, spare.get(name))
    return copies


def copy_to_host(tensor: Tensor, spare: Tensor | None) -> Tensor:
    """Copy to the host, into the memory of a tensor that is no longer needed if that fits.

    No step can run meanwhile, and a copy into fresh memory takes ten times as long.
    """
    if spare is None or spare.shape != tensor.shape or spare.dtype != tensor.dtype:
        return tensor.to("cpu", copy=True)
    return spare.copy_(tensor)


def is_sharded(model: nn.Module) -> bool:
    """Whether any weight is sharded."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


@contextmanager
def allow_views(model: nn.Module) -> Iterator[None]:
    """Run a forward pass without FSDP2's warning about in-place changes of a tower's output.

    The output is a view, and nothing here changes it in place.
    """
    if not is_sharded(model):
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="FSDP2-wrapped module .* returned a view tensor"
        )
        yield


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, or the tensor itself; every rank calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor, or the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def offsets_of(tensor: Tensor) -> list[int] | None:
    """Where this rank's shard begins in the whole tensor, by dimension; None if not sharded."""
    if not isinstance(tensor, DTensor):
        return None
    (chunk,) = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]  # as torch does
    return list(chunk.offsets)


def shard_like(parameter: nn.Parameter, tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor that belongs to a sharded parameter, such as a moment."""
    if not isinstance(parameter, DTensor) or tensor.ndim == 0:
        return tensor
    return distribute_tensor(
        tensor.to(parameter.device), parameter.device_mesh, parameter.placements
    )
