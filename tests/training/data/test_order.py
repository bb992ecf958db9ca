"""The order is a pure function: any world size, any number of workers, any moment of resuming, the
same batches.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Recipe
from tests.training.runs import assert_same_batches, dataset_of, global_batches
from training.data import order as order_module
from training.data.loader import steps_from
from training.data.order import WINDOW, Order, slots_of_rank

SIZES = [100, 3, 57, 41, 99]


def _epoch(order: Order, global_batch: int, epoch: int = 0) -> list[tuple[int, int]]:
    steps = range(order.steps_per_epoch)
    return [
        order.sample_at(epoch, step, slot)
        for step in steps
        for slot in range(global_batch)
    ]


@pytest.mark.parametrize(
    ("global_batch", "streams"), [(24, 12), (12, 4), (10, 1), (64, 64)]
)
def test_each_sample_comes_at_most_once_an_epoch_and_less_than_a_batch_and_a_row_is_left(
    global_batch: int, streams: int
) -> None:
    order = Order(SIZES, global_batch, streams, (0, "s"))
    for epoch in range(3):
        samples = _epoch(order, global_batch, epoch)
        assert len(set(samples)) == len(samples)
        assert all(0 <= row < SIZES[shard] for shard, row in samples)
        assert sum(SIZES) - len(samples) < global_batch + streams


def test_other_seeds_epochs_and_sources_give_other_orders_and_the_same_key_the_same() -> (
    None
):
    same = _epoch(Order(SIZES, 24, 12, (0, "s")), 24)
    assert _epoch(Order(SIZES, 24, 12, (0, "s")), 24) == same
    assert _epoch(Order(SIZES, 24, 12, (1, "s")), 24) != same
    assert _epoch(Order(SIZES, 24, 12, (0, "t")), 24) != same
    assert _epoch(Order(SIZES, 24, 12, (0, "s")), 24, epoch=1) != same


def test_any_position_is_found_without_asking_for_those_before_it() -> None:
    sizes = [1000] * 40
    order = Order(sizes, 8, 4, (0, "s"))
    fresh = Order(sizes, 8, 4, (0, "s"))
    everything = _epoch(order, 8)
    for index in (len(everything) - 1, 7, 8 * WINDOW // 2 + 3, 0):
        assert fresh.sample_at(0, index // 8, index % 8) == everything[index]


def test_several_slots_at_once_are_those_one_by_one() -> None:
    order = Order(SIZES, 24, 12, (0, "s"))
    slots = [5, 0, 23, 12, 7]
    for epoch, step in ((0, 0), (1, 11), (0, 3)):
        assert order.samples_at(epoch, step, slots) == [
            order.sample_at(epoch, step, slot) for slot in slots
        ]


@pytest.mark.parametrize("window", [7, 4096])
def test_the_shards_of_a_window_are_those_that_its_samples_lie_in(
    window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(order_module, "WINDOW", window)
    order = Order([*SIZES, 0, 12], 24, 12, (0, "s"))
    for epoch in range(2):
        by_window: dict[int, set[int]] = {}
        for step in range(order.stream_length // order.per_step):
            for slot in range(0, 24, 5):
                place = step * order.per_step + slot // 12
                by_window.setdefault(place // window, set()).add(
                    order.sample_at(epoch, step, slot)[0]
                )
        for number, shards in by_window.items():
            streams = sorted({slot % 12 for slot in range(0, 24, 5)})
            assert shards <= set(order.shards_in(epoch, number, streams))
        assert order.shards_in(epoch, max(by_window) + 1, [0]) == []


def test_neighbours_of_a_shard_are_spread_over_the_epoch() -> None:
    order = Order([1000], 10, 1, (0, "s"))
    rows = np.array([row for _, row in _epoch(order, 10)])
    assert (
        np.abs(np.diff(rows)).mean() > 200
    )  # a third of the length for a perfect shuffle, 1 for none


def test_a_substitute_is_another_sample_of_the_same_source() -> None:
    order = Order(SIZES, 24, 12, (0, "s"))
    own = order.sample_at(0, 2, 5)
    others = {order.substitute_at(0, 2, 5, attempt) for attempt in range(4)}
    assert own not in others
    assert len(others) > 1


def test_a_world_size_that_does_not_divide_the_streams_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"world size 5 does not divide the 12 streams .* 24",
    ):
        slots_of_rank(24, 12, 0, 5)


def test_world_sizes_one_to_four_and_no_or_two_workers_give_the_same_batches(
    recipe: Recipe, world: Path
) -> None:
    config = recipe()
    reference = global_batches(config, world_size=1)
    for world_size, workers in ((2, 0), (3, 0), (4, 0), (1, 2), (3, 2)):
        assert_same_batches(global_batches(config, world_size, workers), reference)


def test_resumed_in_mid_epoch_with_another_world_size_and_workers_equals_never_stopped(
    recipe: Recipe,
) -> None:
    config = recipe()
    reference = global_batches(config, world_size=1)
    for stopped_at in (1, 3, 5):
        rest = global_batches(
            config, world_size=2, workers=2 if stopped_at == 3 else 0, start=stopped_at
        )
        assert_same_batches(rest, reference[stopped_at:])


def test_a_corrupt_sample_is_replaced_and_named_and_the_batch_stays_full(
    recipe: Recipe, tmp_path: Path
) -> None:
    import io
    import tarfile

    (tmp_path / "broken").mkdir()
    with tarfile.open(tmp_path / "broken/000000.tar", "w") as tar:
        for number in range(30):
            for name, content in (
                (f"{number:03}.jpg", b"no image"),
                (f"{number:03}.txt", b"a caption"),
            ):
                if name == "007.jpg" or number == 7 or name.endswith("txt"):
                    pass
                elif name.endswith("jpg"):
                    content = _png()
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    source = {"squares": {"path": str(tmp_path / "broken")}}
    config = recipe(
        {
            "tasks": {
                "pictures": {"sources": source, "streams": 1, "global_batch": 30},
                "pairs": None,
            }
        }
    )
    batch = next(steps_from(dataset_of(config, 0, 1), 0, 1, 0))[0]
    assert len(batch.keys) == 30
    assert "007" not in batch.keys
    assert [skipped.key for skipped in batch.skipped] == ["007"]
    assert "not a readable image" in batch.skipped[0].reason


def _png() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 9, 9)).save(file, "PNG")
    return file.getvalue()
