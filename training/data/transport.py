"""Pixels go from a worker to the training process through memory without a name.

torch sends tensors through files in /dev/shm: containers often give that 64 MB, a bus error when it
is full, and a process that is killed may leave its file there. A memfd has neither a name nor that
limit, and its last user frees it.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SMALL = 1 << 16  # bytes; below that a pipe is as fast


class Shared:
    """An array whose pickle hands over its memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Callable[..., Shared], tuple[Any, ...]]:
        has_memfd = hasattr(os, "memfd_create")  # on Linux
        if self.array.nbytes < _SMALL or not has_memfd:
            return Shared, (self.array,)
        content = np.ascontiguousarray(self.array).reshape(-1).view(np.uint8).data
        descriptor = os.memfd_create("batch")
        try:
            written = 0
            while written < len(content):
                written += os.write(descriptor, content[written:])
            duplicate = reduction.DupFd(descriptor)  # type: ignore[attr-defined]  # Unix only
        finally:
            os.close(descriptor)
        return _receive, (duplicate, self.array.shape, self.array.dtype.str)


def _receive(duplicate: Any, shape: tuple[int, ...], dtype: str) -> Shared:
    try:
        descriptor = duplicate.detach()
    except (EOFError, OSError) as error:
        raise ConnectionError(
            f"a loader process ended before its images were read ({type(error).__name__}), perhaps "
            "for lack of memory; resume with --resume."
        ) from None
    try:
        memory = mmap.mmap(descriptor, 0)
    finally:
        os.close(descriptor)
    return Shared(np.frombuffer(memory, dtype).reshape(shape))
