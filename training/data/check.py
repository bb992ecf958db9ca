"""What a dry run knows of the data, from the recipe and the shards' sidecars alone.

It neither imports torch nor reads a sample.
"""

from __future__ import annotations

from typing import NamedTuple

from unimodal.shards.find import below, find_shards, is_compressed
from unimodal.shards.index import read_sidecar, sidecar
from unimodal.shards.storage import is_remote

from ..config import SourceConfig, TrainConfig
from .mixture import StepPlan, make_order
from .order import Order, slots_of_rank


class FoundSource(NamedTuple):
    """A source on this machine."""

    num_samples: int | None  # None: unknown before the shards are read
    missing: str  # the path that does not exist; "" if all do


def check_data(
    config: TrainConfig, world_size: int | None = None
) -> dict[tuple[int, str, str], FoundSource]:
    """Look for every source, by stage, task and name.

    world_size: number of processes of the run, if known.

    Raises ValueError for a source that is too small for its batches or its steps, and for a world
    size that does not fit.
    """
    found: dict[tuple[int, str, str], FoundSource] = {}
    orders: dict[tuple[int, str, str], Order] = {}
    for number, stage in enumerate(config.plan):
        for name, task in stage.tasks.items():
            if world_size is not None:
                slots_of_rank(task.global_batch, task.num_streams, 0, world_size)
            for source, settings in task.sources.items():
                place = (number, name, source)
                missing = _missing_path(config, settings)
                sizes = None if missing else _sizes(config, settings)
                num_samples = None if sizes is None else sum(sizes)
                found[place] = FoundSource(num_samples, missing)
                if sizes is not None:
                    key = (config.seed, *place)
                    orders[place] = make_order(name, task, source, sizes, key)
    if len(orders) == len(found):
        StepPlan(config.plan, orders)  # raises an error for sources that are too small
    return found


def _missing_path(config: TrainConfig, source: SourceConfig) -> str:
    """The first path without shards; remote paths are not looked up."""
    for relative in source.paths:
        path = below(config.data_root, relative)
        try:
            if not is_remote(path):
                find_shards(path)
        except ValueError:
            return path
    return ""


def _sizes(config: TrainConfig, source: SourceConfig) -> list[int] | None:
    """Samples in each shard, if all shards are local and have a current sidecar."""
    paths = [below(config.data_root, path) for path in source.paths]
    if any(is_remote(path) for path in paths):
        return None
    sizes = []
    for shard in find_shards(paths):
        if isinstance(shard, str) or is_compressed(shard):
            return None
        index = read_sidecar(sidecar(shard))
        if index is None or index.tar_size != shard.stat().st_size:
            return None
        sizes.append(len(index))
    return sizes
