"""What a dry run knows of the data, from the recipe and the shards' sidecars alone: no torch, no
sample is read.
"""

from __future__ import annotations

from typing import NamedTuple

from unimodal.shards.find import below, find_shards, is_compressed
from unimodal.shards.index import read_sidecar, sidecar
from unimodal.shards.storage import is_remote

from ..config import SourceConfig, TrainConfig
from .mixture import Plan, make_order
from .order import Order, slots_of_rank


class Found(NamedTuple):
    """A source as it is on this machine."""

    num_samples: int | None  # None: not known before the shards are read
    missing: str  # the path that is not here; "" if all are


def check_data(
    config: TrainConfig, world_size: int | None = None
) -> dict[tuple[int, str, str], Found]:
    """By stage, task and source, what is there.

    world_size: how many processes the run will have, if that is known. Raises ValueError for a
    source that is too small for its batches or for its steps, and for a world size that does not
    fit.
    """
    found: dict[tuple[int, str, str], Found] = {}
    orders: dict[tuple[int, str, str], Order] = {}
    for number, stage in enumerate(config.plan):
        for name, task in stage.tasks.items():
            if world_size is not None:
                slots_of_rank(task.global_batch, task.num_streams, 0, world_size)
            for source, settings in task.sources.items():
                place = (number, name, source)
                missing = _what_is_missing(config, settings)
                sizes = None if missing else _sizes(config, settings)
                found[place] = Found(None if sizes is None else sum(sizes), missing)
                if sizes is not None:
                    orders[place] = make_order(
                        name, task, source, sizes, (config.seed, number, name, source)
                    )
    if len(orders) == len(found):
        Plan(config.plan, orders)
    return found


def _what_is_missing(config: TrainConfig, source: SourceConfig) -> str:
    """Of shards on this machine; nobody is asked for those that lie elsewhere."""
    for path in (below(config.data_root, path) for path in source.paths):
        try:
            if not is_remote(path):
                find_shards(path)
        except ValueError:
            return path
    return ""


def _sizes(config: TrainConfig, source: SourceConfig) -> list[int] | None:
    """Samples in each shard, where all of them lie here and beside their sidecars."""
    paths = [below(config.data_root, path) for path in source.paths]
    if any(is_remote(path) for path in paths):
        return None
    sizes = []
    for shard in find_shards(paths):
        index = (
            None
            if isinstance(shard, str) or is_compressed(shard)
            else read_sidecar(sidecar(shard))
        )
        if (
            index is None
            or isinstance(shard, str)
            or index.tar_size != shard.stat().st_size
        ):
            return None
        sizes.append(len(index))
    return sizes
