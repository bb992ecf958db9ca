"""A corrupt sample is replaced by another one, so that a batch never changes its size."""

from __future__ import annotations

from collections.abc import Callable

from unimodal.shards.read import ShardSet
from unimodal.shards.sample import Sample

from .collate import Example, Skipped
from .mixture import BatchPlace
from .order import Order

MAX_SUBSTITUTES = 16


def make_or_substitute(
    sample: Sample,
    place: BatchPlace,
    slot: int,
    order: Order,
    shards: ShardSet,
    make: Callable[[Sample], Example],
) -> tuple[Example, list[Skipped]]:
    """Make an example of a sample or, if that is corrupt, of the first good substitute.

    place, slot: of the sample in its source; they determine its substitutes.
    make: raises ValueError for a corrupt sample.

    Returns the example and the corrupt samples before it. Raises ValueError if all substitutes are
    corrupt too.
    """
    skipped: list[Skipped] = []
    shard, row = order.sample_at(place.epoch, place.step, slot)
    for attempt in range(MAX_SUBSTITUTES):
        try:
            return make(sample), skipped
        except ValueError as error:
            reason = str(error)
            skipped.append(Skipped(str(shards.paths[shard]), sample.key, reason))
        shard, row = order.substitute_at(place.epoch, place.step, slot, attempt)
        sample = shards.read(shard, row)
    raise ValueError(
        f"{MAX_SUBSTITUTES} samples in a row of source {place.source!r} are corrupt; of the "
        f"last one, {skipped[-1].key!r}: {skipped[-1].reason} Look at them with `unimodal shards "
        f"check {skipped[-1].shard}`."
    )
