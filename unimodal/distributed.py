"""Process groups and collectives, for the processes (ranks) that torchrun starts.

A plain process is a world of one, in which every collective returns its input. A rank that dies or
hangs is an error on the others within the timeout, in every function here.

B local rows, G rows of all ranks (B x ranks).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Public, yet not exported by name.
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

_POLL = 0.1  # seconds between two looks at who has joined
_FAREWELL = 2.0  # seconds in which the others can read from rank 0 who has not


def init_process_group(backend: str, timeout: float, start_timeout: float) -> None:
    """Join the process group that torchrun announced.

    timeout: seconds that a rank waits for another once all have joined.
    start_timeout: seconds that a rank waits for all to join; importing torch from a cold disk may
        take minutes.

    Raises ConnectionError, naming the ranks that have not joined, when that takes longer.
    """
    try:
        store, number, count = _open_store(start_timeout)
        _wait_for_all(store, number, count, start_timeout)
    except dist.DistError as error:
        raise ConnectionError(
            f"rank {os.environ['RANK']} cannot reach rank 0 at {os.environ.get('MASTER_ADDR')}:"
            f"{os.environ.get('MASTER_PORT')} ({str(error).partition(chr(10))[0]}); see the output "
            f"of rank 0, or raise start_timeout ({start_timeout:g} s) if it is only slow to start."
        ) from error
    store.set_timeout(timedelta(seconds=timeout))
    dist.init_process_group(
        backend,
        store=store,
        rank=number,
        world_size=count,
        timeout=timedelta(seconds=timeout),
    )


def _open_store(seconds: float) -> tuple[Store, int, int]:
    """Open the store at which ranks first meet; returns it, this rank and the number of ranks."""
    timeout = timedelta(seconds=seconds)
    number = int(os.environ["RANK"])
    if number or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        opened: tuple[Store, int, int] = next(rendezvous("env://", timeout=timeout))
        return opened
    # torch's own would wait here for all ranks, and not name those that are missing.
    count = int(os.environ["WORLD_SIZE"])
    address = os.environ["MASTER_ADDR"]
    port = int(os.environ["MASTER_PORT"])
    store = TCPStore(
        address, port, count, True, timeout, wait_for_workers=False, multi_tenant=True
    )
    return store, number, count


def _wait_for_all(store: Store, number: int, count: int, seconds: float) -> None:
    """Return when all ranks have called this.

    Raises ConnectionError, on all that have called it, if that takes longer than `seconds`.
    """
    store.set(f"joined/{number}", "")
    store.add("joined", 1)
    deadline = time.monotonic() + seconds
    while store.add("joined", 0) < count:
        if time.monotonic() > deadline or store.check(["given up"]):
            store.set("given up", "")
            joined = [rank for rank in range(count) if store.check([f"joined/{rank}"])]
            missing = [rank for rank in range(count) if rank not in joined]
            if number == 0:  # it holds the store
                time.sleep(_FAREWELL)
            raise ConnectionError(
                f"only {len(joined)} of {count} ranks joined within start_timeout, {seconds:g} "
                f"s: ranks {_list(joined)} did, and ranks {_list(missing)} did not; see the output "
                "of those, start them, or raise start_timeout if they are only slow to start."
            )
        time.sleep(_POLL)


def _list(ranks: Sequence[int]) -> str:
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return ", ".join(map(str, ranks[:8])) + more


def destroy_process_group() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_initialized() -> bool:
    """Return whether this process is in a process group."""
    return dist.is_initialized()


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def waiting_for_peers(doing: str) -> Iterator[None]:
    """Turn the library's error about a dead or silent peer into a ConnectionError in plain words.

    doing: what this rank waits in, for the message.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise  # of another kind
        reason = str(error).partition("\n")[0]
        raise ConnectionError(
            f"rank {rank()} of {world_size()} waited in vain for another rank while it was "
            f"{doing}: one has died or hangs; see its output and start again (a training run with "
            f"--resume, and a longer `timeout` if the other is only slow). [{reason}]"
        ) from error


def all_gather(local: Tensor) -> Tensor:
    """(B, ...) of every rank -> (G, ...), in rank order, without gradient."""
    if world_size() == 1:
        return local.detach()
    local = local.detach().contiguous()
    gathered = local.new_empty(len(local) * world_size(), *local.shape[1:])
    with waiting_for_peers("gathering a batch"):
        dist.all_gather(list(gathered.split(len(local))), local)
    return gathered


def all_gather_with_grad(local: Tensor) -> Tensor:
    """(B, ...) of every rank -> (G, ...), in rank order, with gradient.

    Every rank then computes the same loss of the whole batch, so the gradient of the local rows is
    the plain slice times the number of ranks. Averaged over the ranks, the gradients of the
    parameters are those of one process with the whole batch.
    """
    if world_size() == 1:
        return local
    return _AllGather.apply(local)  # type: ignore[no-any-return, no-untyped-call]


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return all_gather(local)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        size = len(grad) // world_size()
        return grad[rank() * size : (rank() + 1) * size] * world_size()


def all_reduce(values: Tensor) -> Tensor:
    """Sum a tensor over the ranks, in place; returns it."""
    if world_size() > 1:
        with waiting_for_peers("adding up"):
            dist.all_reduce(values)
    return values


def all_reduce_logsumexp(values: Tensor) -> Tensor:
    """log of the sum over the ranks of exp(values), without overflow; -inf counts as nothing."""
    if world_size() == 1:
        return values
    with waiting_for_peers("adding up partitions"):
        highest = values.clone()
        dist.all_reduce(highest, dist.ReduceOp.MAX)
    return all_reduce((values - highest).exp_()).log_().add_(highest)


def all_reduce_sum(values: Sequence[float]) -> list[float]:
    """The sum over the ranks of each number, the same on all of them."""
    return _all_reduce_numbers(values, dist.ReduceOp.SUM)


def all_reduce_max(values: Sequence[float]) -> list[float]:
    """The largest over the ranks of each number."""
    return _all_reduce_numbers(values, dist.ReduceOp.MAX)


def all_reduce_min(values: Sequence[float]) -> list[float]:
    """The smallest over the ranks of each number."""
    return _all_reduce_numbers(values, dist.ReduceOp.MIN)


def _all_reduce_numbers(values: Sequence[float], operation: Any) -> list[float]:
    if world_size() == 1:
        return [float(value) for value in values]
    numbers = torch.tensor(values, dtype=torch.float64)  # on the host
    with waiting_for_peers("agreeing on numbers"):
        dist.all_reduce(numbers, operation)
    return [float(value) for value in numbers]


def barrier() -> None:
    """Wait for every rank."""
    all_reduce_sum([0.0])


def all_gather_objects(
    value: Any, doing: str = "gathering objects", group: Any = None
) -> list[Any]:
    """The objects of all ranks, on every rank. group: of torch; None is that of all ranks."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    with waiting_for_peers(doing):
        dist.all_gather_object(gathered, value, group=group)
    return gathered


def gather_objects(value: Any) -> list[Any]:
    """The objects of all ranks, on rank 0; others get an empty list. Every rank calls it."""
    gathered: list[Any] | None = [None] * world_size() if rank() == 0 else None
    with waiting_for_peers("collecting vectors"):
        dist.gather_object(value, gathered)
    return gathered or []


def scatter_objects(values: Sequence[Any] | None) -> Any:
    """One object for each rank; rank 0 alone gives the list of them. Every rank calls it."""
    received: list[Any] = [None]
    given = list(values) if values is not None else None
    with waiting_for_peers("handing out inputs"):
        dist.scatter_object_list(received, given)
    return received[0]


def broadcast_object(value: Any) -> Any:
    """The object of rank 0, on every rank; the others' is ignored."""
    if world_size() == 1:
        return value
    values = [value]
    with waiting_for_peers("reading what rank 0 has"):
        dist.broadcast_object_list(values)
    return values[0]


def check_same(values: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the first key that differs, unless all ranks agree on the values."""
    shown = {key: repr(value) for key, value in values.items()}
    of_ranks = all_gather_objects(shown, "comparing recipes")
    keys = dict.fromkeys(key for of_rank in of_ranks for key in of_rank)
    for key in keys:
        first = of_ranks[0].get(key, "nothing")
        for number, of_rank in enumerate(of_ranks):
            value = of_rank.get(key, "nothing")
            if value != first:
                raise ValueError(
                    f"ranks disagree on {key}: it is {first} on rank 0 and {value} on rank "
                    f"{number}; start every rank with the same recipe, data and code."
                )
