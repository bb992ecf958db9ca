"""Whether weights fit the model that they are loaded into. What does not fit is refused, never
filled in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

_NAMED = 3  # tensors of a kind that a message names; the others are counted

Shape = Sequence[int]


def check_fit(
    source: str,
    missing: Collection[str],
    unexpected: Collection[str],
    misshapen: Mapping[str, tuple[Shape, Shape]],
) -> None:
    """Refuse weights that are not exactly a model's.

    source: where the weights are from, for the message.
    missing: names of the model's tensors that the weights lack.
    unexpected: names of tensors that the model does not have.
    misshapen: name -> the shape in the weights, the shape in the model.

    Raises ValueError with the first names of each kind and their counts.
    """
    faults = []

    if missing:
        faults.append(f"lacks {_count(missing)}, first {_first(missing)}")

    if unexpected:
        faults.append(
            f"has {_count(unexpected, 'unknown ')}, first {_first(unexpected)}"
        )

    if misshapen:
        name = min(misshapen)
        seen, wanted = misshapen[name]
        faults.append(
            f"has {_count(misshapen)} of another shape, first {name!r}, which is {tuple(seen)} "
            f"but the configuration says {tuple(wanted)}"
        )

    if faults:
        raise ValueError(
            f"{source} {', and '.join(faults)}; these weights are of another architecture or not "
            "whole, so give the files that belong together."
        )


def check_finite(source: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that hold NaN or infinity: every vector made of them would be NaN.

    source: where the weights are from, for the message.
    tensors: name -> tensor.

    Raises ValueError with the first such tensor and the count of all.
    """
    broken = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]

    if broken:
        raise ValueError(
            f"{source} has {_count(broken)} with values that are not finite (NaN or infinity), "
            f"first {_first(broken)}; copy the file again, or take an earlier checkpoint."
        )


def _count(names: Collection[str], kind: str = "") -> str:
    return f"{len(names):,} {kind}tensor{'' if len(names) == 1 else 's'}"


def _first(names: Collection[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)[:_NAMED])
