"""What stops a run before the store changes: too many bad rows, or too many items that leave."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unimodal.tables.skipped import is_over_limit

from .fill import find_repeated, hash_ids
from .folder import IndexedInput, find_file, now, read_head
from .inputs import list_skipped
from .plan import Job, Plan
from .skipped import SKIPPED, refusal

# This many items may leave a store whatever their share: small inputs change by more.
MIN_REMOVED = 10


def check_input(
    plan: Plan,
    jobs: Sequence[Job],
    inputs: Sequence[IndexedInput],
    *,
    overwrite: bool,
    replace: bool,
) -> IndexedInput:
    """The input as the folder's list will have it.

    jobs: of the whole input, in its order, all embedded.
    inputs: the list before this run.

    Raises ValueError where too many of its rows are bad, or too many items would leave the store.
    """
    files = [find_file(plan.folder, job.file) for job in jobs]
    hashes = [hash_ids(file) for file in files]
    heads = [read_head(file) for file in files]
    faults = [fault for head in heads for fault in head["skipped"]]
    without_image = sum(bool(fault.get("kept")) for fault in faults)
    repeated = sum(len(ids) for ids in find_repeated(files, hashes).values())
    skipped = len(faults) - without_image + repeated
    items = sum(len(of_file) for of_file in hashes) - repeated
    names = tuple(job.file for job in jobs)
    entry = IndexedInput(plan.config.input, names, items, skipped, repeated, now())

    first_reason = faults[0]["reason"] if faults else ""
    refused = refuse_skipped(
        plan, skipped, without_image, items + skipped, first_reason
    )
    if refused is not None:
        others = [other for other in inputs if other.input != entry.input]
        list_skipped(plan.folder, [*others, entry])
        raise refused
    if not overwrite:
        refused = refuse_removed(plan, inputs, np.concatenate(hashes), replace)
        if refused is not None:
            raise refused
    return entry


def refuse_skipped(
    plan: Plan, skipped: int, without_image: int, rows: int, first_reason: str
) -> ValueError | None:
    """The error where too many rows of an input are bad; None where they are not."""
    name = plan.config.input
    allowed = plan.config.max_skipped
    if skipped == rows:
        return ValueError(
            f"all {skipped:,} rows of {name} had to be skipped; the first: {first_reason}. "
            f"{plan.folder / SKIPPED} has the reasons of all."
        )
    bad = skipped + without_image
    if is_over_limit(bad, rows, allowed):
        what = (
            f"{bad:,} of {rows:,} rows of {name} cannot be indexed, or have an image that "
            "cannot be read"
        )
        return refusal(what, plan.folder, allowed)
    return None


def refuse_removed(
    plan: Plan,
    inputs: Sequence[IndexedInput],
    hashes: NDArray[np.uint64],
    replace: bool,
) -> ValueError | None:
    """The error where too many items would leave the store; None where they would not.

    hashes: of the ids that the input has now.
    """
    name = plan.config.input
    allowed = plan.config.max_removed
    before = [entry for entry in inputs if replace or entry.input == name]
    files = [find_file(plan.folder, file) for entry in before for file in entry.files]
    # What a broken file held is not known.
    old = [hash_ids(file) for file in files if read_head(file)]
    old_ids = np.unique(np.concatenate([*old, np.zeros(0, np.uint64)]))
    removed = int((~np.isin(old_ids, hashes)).sum())
    if removed <= allowed * len(old_ids) or (allowed and removed <= MIN_REMOVED):
        return None

    what = "the store" if replace else name
    limit = "max_removed is 0"
    if allowed:
        limit = f"that is over max_removed {allowed:g} and more than {MIN_REMOVED}"
    return ValueError(
        f"{removed:,} of {len(old_ids):,} items of {what} are not in {name} any more, and {limit}: "
        f"the store was not changed; to let them go, add "
        f"max_removed={_round_up(removed / len(old_ids))}."
    )


def _round_up(share: float) -> float:
    """In hundredths, never less: the number that the message advises has to be enough."""
    return min(1.0, math.ceil(share * 100) / 100)
