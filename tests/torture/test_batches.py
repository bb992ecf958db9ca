"""The same batches for any number of ranks and workers and for any moment of resuming; the order at
full size.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Recipe
from tests.torture.conftest import Figure
from tests.torture.runs import dataset_of, global_batches
from training.config import TrainConfig
from training.data.loader import steps_from
from training.data.order import Order, slots_of_rank
from unimodal.shards.read import ShardSet

STEPS = 30  # 15 of images (of 25 an epoch) and 15 of pairs (of 5 an epoch)
WORLDS = (1, 2, 3, 4, 6, 12)


@pytest.fixture
def config(recipe: Recipe, many: Path) -> TrainConfig:
    """Images in global batches of 48, pairs in batches of 12, both in 12 streams."""
    # Workers that find their imports done start in milliseconds; it counts only before the first
    # worker of a session.
    get_context("forkserver").set_forkserver_preload(["training.data.loader"])
    source = {"squares": {"path": str(many)}}
    return recipe(
        {"steps": STEPS, "tasks": {"pictures": {"global_batch": 48, "sources": source}}}
    )


@pytest.mark.torture
@pytest.mark.parametrize("workers", [0, 2, 4])
def test_batches_and_augmentation_are_the_same_for_1_to_12_ranks(
    config: TrainConfig, workers: int, figure: Figure
) -> None:
    reference = global_batches(config, 0, STEPS)
    assert [len(step) for step in reference] == [48, 12] * (STEPS // 2)
    for world_size in WORLDS:
        assert global_batches(config, 0, STEPS, world_size, workers) == reference, (
            world_size
        )
    figure(
        f"batches equal on {len(WORLDS)} world sizes with {workers} workers",
        STEPS * len(WORLDS),
        "batches",
    )


@pytest.mark.torture
def test_resuming_at_any_step_with_other_ranks_and_workers_gives_the_same_remainder(
    config: TrainConfig, figure: Figure
) -> None:
    reference = global_batches(config, 0, STEPS)
    for start in range(1, STEPS):
        world_size = WORLDS[start % len(WORLDS)]
        workers = 2 if start % 5 == 0 else 0
        assert (
            global_batches(config, start, STEPS, world_size, workers)
            == reference[start:]
        ), start
    figure("steps resumed at, each with an identical remainder", STEPS - 1, "steps")


def test_another_seed_gives_other_batches(config: TrainConfig) -> None:
    other = config.model_copy(update={"seed": 1})
    assert not any(
        a == b
        for a, b in zip(
            global_batches(other, 0, 3), global_batches(config, 0, 3), strict=True
        )
    )


def test_a_seek_reads_no_sample_that_it_skips(
    config: TrainConfig, figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_many = ShardSet.read_many
    reads: list[tuple[int, int]] = []

    def counting(shards: ShardSet, places: Sequence[tuple[int, int]]) -> Any:
        reads.extend(places)
        return read_many(shards, places)

    monkeypatch.setattr(ShardSet, "read_many", counting)
    dataset = dataset_of(config)
    assert not reads
    started = time.perf_counter()
    (batch,) = next(steps_from(dataset, STEPS - 2, STEPS, workers=0))
    figure("first batch after a seek over 28 steps", time.perf_counter() - started, "s")
    figure(
        "samples read beyond that batch's own", len(reads) - len(batch.keys), "samples"
    )
    assert len(reads) == len(batch.keys) == 48


@pytest.mark.parametrize("world_size", [1, 2, 4, 8, 16, 32, 64])
def test_a_global_batch_of_1024_is_the_same_on_1_to_64_ranks(world_size: int) -> None:
    sizes: Any = np.random.default_rng(0).integers(1, 20_000, 120)
    key = (0, 0, "task", "source")
    whole = Order(sizes, 1024, 64, key)
    for epoch, step in (
        (0, 0),
        (0, whole.steps_per_epoch - 1),
        (3, whole.steps_per_epoch // 2),
    ):
        expected = [whole.sample_at(epoch, step, slot) for slot in range(1024)]
        found: dict[int, tuple[int, int]] = {}
        for rank in range(world_size):
            own = Order(sizes, 1024, 64, key)
            slots = slots_of_rank(1024, 64, rank, world_size)
            assert len(slots) == 1024 // world_size
            found.update({slot: own.sample_at(epoch, step, slot) for slot in slots})
        assert [found[slot] for slot in range(1024)] == expected


@pytest.mark.torture
def test_ten_billion_samples_in_a_million_shards_on_1024_ranks(figure: Figure) -> None:
    shards = 1_000_000
    streams = 1024
    global_batch = 65_536
    tracemalloc.start()
    sizes: Any = np.random.default_rng(0).integers(5_000, 15_001, shards)
    started = time.perf_counter()
    order = Order(sizes, global_batch, streams, (0, 0, "pictures", "web"))
    slots = slots_of_rank(global_batch, streams, 517, 1024)
    first = [order.sample_at(0, 0, slot) for slot in slots]
    to_first = time.perf_counter() - started
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    started = time.perf_counter()
    last = [order.sample_at(0, order.steps_per_epoch - 1, slot) for slot in slots]
    seek = time.perf_counter() - started
    started = time.perf_counter()
    order.sample_at(1, 0, slots[0])
    next_epoch = time.perf_counter() - started
    dropped = order.num_samples - order.steps_per_epoch * global_batch
    figure("1e10 samples: peak memory of the order of one rank", memory / 2**20, "MiB")
    figure("1e10 samples: time to a rank's first batch (64 samples)", to_first, "s")
    figure("1e10 samples: seek to the end of the epoch (64 samples)", seek, "s")
    figure("1e10 samples: start of another epoch", next_epoch, "s")
    figure("1e10 samples: share dropped in an epoch", dropped / order.num_samples, "")
    assert order.num_samples > 9.9e9
    assert len(set(first) | set(last)) == 2 * len(slots)
    assert memory < 128 * 2**20
    assert to_first < 2
    assert seek < 0.1
    assert dropped < global_batch + streams
