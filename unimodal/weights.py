"""Named tensors: their files, and whether they fit the model that they are loaded into.

What does not fit is refused, never filled in.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .files import sync

_NAMED = 3  # tensors of a kind that a message names; the others are counted

Shape = Sequence[int]


def load_tensors(module: nn.Module, file: Path) -> None:
    """Load a safetensors file into a module.

    Raises ValueError unless names and shapes match exactly and all values are finite.
    """
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} is not a readable safetensors file ({error}); copy it again."
        ) from None

    wanted = module.state_dict()
    missing = wanted.keys() - tensors.keys()
    unexpected = tensors.keys() - wanted.keys()
    misshapen = {
        name: (tensors[name].shape, wanted[name].shape)
        for name in wanted.keys() & tensors.keys()
        if tensors[name].shape != wanted[name].shape
    }
    check_fit(str(file), missing, unexpected, misshapen)
    check_finite(str(file), tensors)
    module.load_state_dict(tensors)


def write_tensors(
    file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write named tensors as safetensors and force them to the disk.

    metadata: of the file's header.

    Raises OSError if they cannot be written.
    """
    file.touch()
    mode = stat.S_IMODE(file.stat().st_mode)
    try:
        save_file(_separate(tensors), file, metadata)
        # safetensors replaces the file by one that only its owner can read.
        file.chmod(mode)
    except SafetensorError as error:  # a full disk
        raise OSError(f"{file} could not be written: {error}") from error
    sync(file)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put each tensor on the host, contiguous and in memory of its own, as the format wants it.

    Tied tensors become copies.
    """
    separate: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        separate[name] = tensor
    return separate


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
            f"{source} {', and '.join(faults)}; these weights are incomplete or of another "
            "architecture; give the files that belong together."
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
