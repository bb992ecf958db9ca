"""The optimizer's moments in a checkpoint: optimizer/, with one safetensors file per rank.

With weights in shards each rank writes its own part, in the layout of
torch.distributed.checkpoint's safetensors storage, which reads them for any number of ranks. We do
not use its writer: it serializes in memory and holds the interpreter for that time (1.8 s for
0.8 GB, in which no step can run), and its ranks have to meet.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unimodal import distributed
from unimodal.model import DualEncoder
from unimodal.weights import write_tensors

from ..optim import trained_parameters
from ..sharding import copy_to_host, local_part, offsets_of, shard_like

FOLDER = "optimizer"


class Moments(NamedTuple):
    """This rank's part of the optimizer's state, on the host, by "parameter/key"."""

    tensors: dict[str, Tensor]
    offsets: dict[str, list[int]]  # where each part begins in the whole tensor


def moments_of(
    model: DualEncoder, optimizer: Optimizer, spare: Mapping[str, Tensor]
) -> Moments:
    """Copy this rank's part; rank 0 has what is whole on every rank.

    spare: the tensors of an earlier copy that is no longer needed, or nothing.
    """
    names = _in_optimizer_order(model, optimizer)
    moments = Moments({}, {})
    for number, entry in optimizer.state_dict()["state"].items():
        for key, tensor in entry.items():
            offsets = offsets_of(tensor)
            if offsets is None and distributed.rank() > 0:
                continue
            name = f"{names[number][0]}/{key}"
            local = local_part(tensor).detach()
            if local.numel():  # empty if a tensor has fewer rows than there are ranks
                moments.tensors[name] = copy_to_host(local, spare.get(name))
                moments.offsets[name] = offsets or [0] * local.ndim
    return moments


def write_moments(folder: Path, moments: Moments) -> None:
    """Write this rank's file of a checkpoint; raises OSError if that fails."""
    rank = distributed.rank()
    ranks = distributed.world_size()
    # DCP_SHARDING_INFO: as torch/distributed/checkpoint/_hf_utils.py names it.
    sharding = {
        name: {"saved_offsets": offsets} for name, offsets in moments.offsets.items()
    }
    file = folder / FOLDER / f"rank-{rank:05d}-of-{ranks:05d}.safetensors"
    write_tensors(file, moments.tensors, {"DCP_SHARDING_INFO": json.dumps(sharding)})


def read_moments(folder: Path) -> dict[str, Tensor]:
    """Read the whole moments of a checkpoint, by "parameter/key", on the host.

    Any number of ranks may have written them.
    """
    # Imported here, because it takes a second.
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder / FOLDER))
    whole = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in reader.read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        # Each rank reads alone.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(whole, storage_reader=reader, no_dist=True)
    return whole


def load_moments(folder: Path, model: DualEncoder, optimizer: Optimizer) -> None:
    """Restore the optimizer's state.

    Raises ValueError for the state of a parameter that this run does not train.
    """
    entries: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_moments(folder).items():
        owner, _, key = name.rpartition("/")
        entries.setdefault(owner, {})[key] = tensor
    trained = _in_optimizer_order(model, optimizer)
    unknown = entries.keys() - {name for name, _ in trained}
    if unknown:
        raise ValueError(
            f"{folder} has optimizer state for {sorted(unknown)[0]!r}, which this recipe does not "
            "train; resume with the recipe of the run."
        )
    current = optimizer.state_dict()
    current["state"] = {}
    for number, (name, parameter) in enumerate(trained):
        if name in entries:
            current["state"][number] = {
                key: shard_like(parameter, tensor)
                for key, tensor in entries[name].items()
            }
    optimizer.load_state_dict(current)


def _in_optimizer_order(
    model: DualEncoder, optimizer: Optimizer
) -> list[tuple[str, nn.Parameter]]:
    names: Mapping[int, str] = {
        id(parameter): name for name, parameter in trained_parameters(model)
    }
    return [
        (names[id(parameter)], parameter)
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
