"""The processes of a run under torchrun: each embeds its share, and the first fills the store."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from unimodal.files import locked, write_text

from .folder import now

T = TypeVar("T")
# Seconds that the fast wait for the slow: a process that ends is noticed at once.
_TIMEOUT = 30 * 24 * 3600.0


@dataclass(frozen=True)
class Ranks:
    """The number of this process, and of all processes."""

    rank: int = 0
    world: int = 1

    @property
    def device(self) -> str | None:
        """The GPU of this process among several; None: the default device."""
        import torch

        if self.world > 1 and torch.cuda.is_available():
            return f"cuda:{os.environ['LOCAL_RANK']}"
        return None

    def share(self, partitions: Sequence[T]) -> Sequence[T]:
        """The partitions that this process embeds."""
        return partitions[self.rank :: self.world]

    def gather(self, values: Mapping[str, T]) -> dict[str, T]:
        """The values of all processes, once all of them are here."""
        if self.world == 1:
            return dict(values)
        from unimodal.distributed import all_gather_objects

        gathered: dict[str, T] = {}
        for of_rank in all_gather_objects(dict(values), "embedding its share"):
            gathered |= of_rank
        return gathered

    def from_first(self, look: Callable[[], T]) -> T:
        """What the first process sees, in all of them: some stores let no second process in."""
        if self.world == 1:
            return look()
        from unimodal.distributed import broadcast_object

        return cast(T, broadcast_object(look() if self.rank == 0 else None))


@contextmanager
def ranks_of_run() -> Iterator[Ranks]:
    """This process among those that torchrun started, connected with them.

    Other launchers set RANK and WORLD_SIZE to the same effect.
    """
    ranks = Ranks(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    if ranks.world == 1:
        yield ranks
        return
    from unimodal.distributed import destroy_process_group, init_process_group

    init_process_group("gloo", _TIMEOUT, start_timeout=_TIMEOUT)
    try:
        yield ranks
    finally:
        destroy_process_group()


@contextmanager
def alone(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Hold a folder for one run; the lock ends with the process.

    Raises ValueError if another run holds the folder, naming it, and if the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(
            f"{folder} is a file, and embeddings need a folder; choose another with --embeddings."
        )
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f".lock{ranks.rank}"
    with locked(lock, timeout=0) as is_held:
        if not is_held:
            holder = lock.read_text(encoding="utf-8")[:500] or "an unknown process"
            raise ValueError(
                f"another run writes embeddings to {folder} ({holder}); wait for it, or "
                "choose another folder."
            )
        holder = f"process {os.getpid()} on {socket.gethostname()} since {now()}"
        write_text(lock, holder)
        yield
