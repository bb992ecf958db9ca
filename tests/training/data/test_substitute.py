"""A corrupt sample is replaced by the same good sample each time, or is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from training.data.collate import Example
from training.data.mixture import BatchPlace
from training.data.order import Order
from training.data.substitute import MAX_SUBSTITUTES, make_or_substitute
from unimodal.photographs import pack
from unimodal.shards.read import ShardSet, open_shards
from unimodal.shards.sample import Sample

PLACE = BatchPlace(stage=0, task="pairs", source="pairs", epoch=0, step=1)
SLOT = 2


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    pack([b"never decoded"], 40, tmp_path / "shards")
    return open_shards(tmp_path / "shards")


@pytest.fixture
def order(shards: ShardSet) -> Order:
    return Order(shards.num_samples, 8, 4, (0, "pairs"))


def _refuse(num_corrupt: int) -> Callable[[Sample], Example]:
    """A maker of examples for which the first `num_corrupt` samples are corrupt."""
    tried: list[str] = []

    def make(sample: Sample) -> Example:
        tried.append(sample.key)
        if len(tried) <= num_corrupt:
            raise ValueError(f"{sample.key} is corrupt.")
        return Example(key=sample.key, pixels=None, texts=(), ids=())

    return make


def test_a_good_sample_is_kept(shards: ShardSet, order: Order) -> None:
    sample = shards.read(*order.sample_at(PLACE.epoch, PLACE.step, SLOT))
    example, skipped = make_or_substitute(
        sample, PLACE, SLOT, order, shards, _refuse(0)
    )
    assert example.key == sample.key
    assert skipped == []


def test_corrupt_samples_are_reported_and_the_next_substitute_is_used(
    shards: ShardSet, order: Order
) -> None:
    sample = shards.read(*order.sample_at(PLACE.epoch, PLACE.step, SLOT))
    first = shards.read(*order.substitute_at(PLACE.epoch, PLACE.step, SLOT, 0))
    second = shards.read(*order.substitute_at(PLACE.epoch, PLACE.step, SLOT, 1))
    example, skipped = make_or_substitute(
        sample, PLACE, SLOT, order, shards, _refuse(2)
    )
    assert example.key == second.key
    assert [fault.key for fault in skipped] == [sample.key, first.key]
    assert skipped[0].reason == f"{sample.key} is corrupt."
    assert Path(skipped[0].shard).is_file()


def test_a_sample_with_corrupt_substitutes_only_is_an_error(
    shards: ShardSet, order: Order
) -> None:
    sample = shards.read(*order.sample_at(PLACE.epoch, PLACE.step, SLOT))
    with pytest.raises(ValueError, match=f"{MAX_SUBSTITUTES} .*'pairs'.*shards check"):
        make_or_substitute(sample, PLACE, SLOT, order, shards, _refuse(MAX_SUBSTITUTES))
