"""Weights in shards, one a rank (`parallel: fsdp`): FSDP2, and back to a whole model to save or
evaluate.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from unimodal import distributed
from unimodal.model import DualEncoder

from .prepare import blocks_of


def shard(model: DualEncoder) -> DualEncoder:
    """Leave a shard of every tower and projection on this rank; each block's weights are gathered
    while it computes.

    A tower is gathered by itself, so that an idle one costs nothing. Logit scales stay whole.
    Raises ValueError in a process that torchrun did not start.
    """
    if not dist.is_initialized():
        raise ValueError(
            "parallel=fsdp shards weights over processes; start with torchrun, or use parallel=ddp."
        )
    # It warns of in-place changes to a tower's output, which is a view; nothing here changes one in
    # place.
    warnings.filterwarnings(
        "ignore", message="FSDP2-wrapped module .* returned a view tensor"
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
    """A copy to keep aside before sharding, for `gather_weights` to fill; on the host, and empty
    but on rank 0.
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
    """Fill the whole copy of rank 0, or of every rank, with the weights of all shards; every rank
    calls it.
    """
    fills = everywhere or distributed.rank() == 0
    if fills:
        _set_parameters(whole, "cpu", lambda parameter: parameter.is_meta)
    into = whole.state_dict()
    for name, tensor in model.state_dict().items():
        full = full_tensor(
            tensor
        )  # one at a time: there may be no room for all of them
        if fills:
            into[name].copy_(full)


def empty(whole: DualEncoder) -> None:
    """Give back the memory of a copy's parameters until it is filled again; what is computed, and
    not saved, stays.
    """
    whole.cpu()
    _set_parameters(whole, "meta", lambda parameter: True)


def _set_parameters(
    whole: DualEncoder, device: str, chosen: Callable[[nn.Parameter], bool]
) -> None:
    for module in whole.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if chosen(parameter):
                setattr(
                    module,
                    name,
                    nn.Parameter(torch.empty_like(parameter, device=device)),
                )


def copy_weights(model: DualEncoder, spare: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole copy of the weights by name, on the host of rank 0 (none on others); every rank calls
    it.

    What the next step changes, it does not change: a checkpoint is written from it meanwhile.
    spare: an earlier copy that is no longer needed, or nothing.
    """
    copies: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        full = full_tensor(
            tensor.detach()
        )  # one at a time: there may be no room for all of them
        if distributed.rank() == 0:
            copies[name] = copy_to_host(full, spare.get(name))
    return copies


def copy_to_host(tensor: Tensor, spare: Tensor | None) -> Tensor:
    """A copy on the host, in the memory of a tensor that is no longer needed, where that fits.

    No step can run meanwhile, and into memory that the process has not touched yet it takes ten
    times as long.
    """
    if spare is None or spare.shape != tensor.shape or spare.dtype != tensor.dtype:
        return tensor.to("cpu", copy=True)
    return spare.copy_(tensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor; every rank calls it. Others are returned as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor. Others are returned as they are."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def offsets_of(tensor: Tensor) -> list[int] | None:
    """Where this rank's shard begins in the whole tensor, by dimension; None for one that is not
    sharded.
    """
    if not isinstance(tensor, DTensor):
        return None
    (chunk,) = tensor.__create_chunk_list__()  # type: ignore[no-untyped-call]  # what torch's own checkpoints ask
    return list(chunk.offsets)


def shard_like(parameter: nn.Parameter, tensor: Tensor) -> Tensor:
    """This rank's shard of a tensor that lies beside a sharded parameter, such as a moment of its
    optimiser.
    """
    if not isinstance(parameter, DTensor) or tensor.ndim == 0:
        return tensor
    return distribute_tensor(
        tensor.to(parameter.device), parameter.device_mesh, parameter.placements
    )
