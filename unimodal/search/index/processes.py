"""The processes of one run, as torchrun starts them: each takes its share of the units, and one
fills the store.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

from unimodal.files import locked, write_text

from .folder import now

Unit = TypeVar("Unit")
Seen = TypeVar("Seen")
_PATIENCE = timedelta(
    days=30
)  # that the fast wait for the slow; a process that ends is noticed at once


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1

    @property
    def device(self) -> str | None:
        """The GPU that is this process's own among several; None: no choice is made here."""
        import torch

        return (
            f"cuda:{os.environ['LOCAL_RANK']}"
            if self.world > 1 and torch.cuda.is_available()
            else None
        )

    def share(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """What this process embeds."""
        return units[self.rank :: self.world]

    def gather(self, found: Mapping[str, Seen]) -> dict[str, Seen]:
        """What all processes have found, once all of them are here."""
        if self.world == 1:
            return dict(found)
        import torch

        everywhere: list[Any] = [None] * self.world
        with _another_may_end():
            torch.distributed.all_gather_object(everywhere, dict(found))
        return {name: one for of_rank in everywhere for name, one in of_rank.items()}

    def from_first(self, look: Callable[[], Seen]) -> Seen:
        """What the first process sees, in all of them: some stores let no second process in."""
        if self.world == 1:
            return look()
        import torch

        seen = [look() if self.rank == 0 else None]
        with _another_may_end():
            torch.distributed.broadcast_object_list(seen)
        return cast(Seen, seen[0])


@contextmanager
def _another_may_end() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:120]
        raise OSError(
            f"another process of this run ended early ({reason}); see what it said, and run again."
        ) from None


@contextmanager
def ranks_of_run() -> Iterator[Ranks]:
    """This process among those that torchrun started (or whose RANK and WORLD_SIZE say so),
    connected with them.
    """
    ranks = Ranks(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    if ranks.world == 1:
        yield ranks
        return
    import torch

    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield ranks
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def alone(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Hold a folder for one run. Raises ValueError if another holds it, saying which; the lock goes
    with the process.

    Raises ValueError too where the folder is a file.
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
        write_text(
            lock, f"process {os.getpid()} on {socket.gethostname()} since {now()}"
        )
        yield
