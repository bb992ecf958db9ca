"""Ranks: one process each, started by torchrun; a plain process is a world of one.

A rank that dies or hangs is an error on the others within the timeout, in every function here.

B local batch, G global batch (B x ranks), D embedding dimension.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]  # public, yet not exported by name
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor

_LOOK = 0.1  # seconds between two looks at who has joined
_FAREWELL = 2.0  # seconds in which the others can read from rank 0 who has not


def start(device: str | None, timeout: float, start_timeout: float) -> torch.device:
    """Join the process group that torchrun announced, if any, and choose this rank's device.

    timeout: seconds that a rank waits for another once all have joined.
    start_timeout: seconds that a rank waits for all to join; importing torch from a cold disk may
        take minutes.

    Raises ConnectionError, naming the ranks that have not joined, when that takes longer.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if "RANK" in os.environ and not dist.is_initialized():
        # Host tensors go through gloo whatever the device: agreeing on a number must not wait for
        # the GPU.
        backend = "cpu:gloo,cuda:nccl" if name.startswith("cuda") else "cpu:gloo"
        _join(backend, timeout, start_timeout)
    if name == "cuda":
        torch.cuda.set_device(local)
        return torch.device("cuda", local)
    return torch.device(name)


def _join(backend: str, timeout: float, start_timeout: float) -> None:
    try:
        store, number, count = _open_store(start_timeout)
        _wait_for_all(store, number, count, start_timeout)
    except dist.DistError as error:
        raise ConnectionError(
            f"rank {os.environ['RANK']} cannot reach rank 0 at {os.environ.get('MASTER_ADDR')}:"
            f"{os.environ.get('MASTER_PORT')} ({str(error).partition(chr(10))[0]}); see what "
            f"rank 0 says, or raise start_timeout ({start_timeout:g} s) if it is only slow to "
            "start."
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
    """What the ranks first meet at, as the environment says; this rank; the number of ranks."""
    patience = timedelta(seconds=seconds)
    number = int(os.environ["RANK"])
    if number or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        opened: tuple[Store, int, int] = next(rendezvous("env://", timeout=patience))
        return opened
    # As torch's own, which would wait here for all ranks and not say which one is missing.
    count = int(os.environ["WORLD_SIZE"])
    address = os.environ["MASTER_ADDR"]
    port = int(os.environ["MASTER_PORT"])
    store = TCPStore(
        address, port, count, True, patience, wait_for_workers=False, multi_tenant=True
    )
    return store, number, count


def _wait_for_all(store: Store, number: int, count: int, seconds: float) -> None:
    """Return when all ranks have called this; raises ConnectionError, on all that have, if that
    takes too long.
    """
    store.set(f"joined/{number}", "")
    store.add("joined", 1)
    until = time.monotonic() + seconds
    while store.add("joined", 0) < count:
        if time.monotonic() > until or store.check(["given up"]):
            store.set("given up", "")
            joined = [rank for rank in range(count) if store.check([f"joined/{rank}"])]
            missing = [rank for rank in range(count) if rank not in joined]
            if number == 0:  # it holds the store
                time.sleep(_FAREWELL)
            raise ConnectionError(
                f"only {len(joined)} of {count} ranks joined within start_timeout, {seconds:g} "
                f"s: ranks {_list(joined)} did, and ranks {_list(missing)} did not; see what "
                "those say, start them, or raise start_timeout if they are only slow to start."
            )
        time.sleep(_LOOK)


def _list(ranks: Sequence[int]) -> str:
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return ", ".join(map(str, ranks[:8])) + more


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_joined() -> bool:
    """Whether this process is in a process group already."""
    return dist.is_initialized()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def waiting_for_peers(doing: str) -> Iterator[None]:
    """Say plainly that another rank is gone, where the library prints its sockets."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise  # of another kind
        said = str(error).partition("\n")[0]
        raise ConnectionError(
            f"rank {rank()} of {world_size()} waited in vain for another rank while it was "
            f"{doing}: one has died or hangs (raise `timeout` if it is only slow); start again "
            f"with --resume. [{said}]"
        ) from error


def gather(local: Tensor) -> Tensor:
    """(B, ...) of every rank -> (G, ...), in rank order, with gradient.

    Every rank then computes the same loss of the whole batch, so the gradient of the local rows is
    the plain slice times the number of ranks, and `average_gradients` gives what one process would
    have got.
    """
    return local if world_size() == 1 else _Gather.apply(local)  # type: ignore[no-any-return, no-untyped-call]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        return gather_values(local)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        size = len(grad) // world_size()
        return grad[rank() * size : (rank() + 1) * size] * world_size()


def gather_values(local: Tensor) -> Tensor:
    """(B, ...) of every rank -> (G, ...), in rank order, without gradient."""
    if world_size() == 1:
        return local.detach()
    local = local.detach().contiguous()
    whole = local.new_empty(len(local) * world_size(), *local.shape[1:])
    with waiting_for_peers("gathering a batch"):
        dist.all_gather(list(whole.split(len(local))), local)
    return whole


def sum_values(values: Tensor) -> Tensor:
    """The sum over the ranks, in place and returned."""
    if world_size() > 1:
        with waiting_for_peers("adding up"):
            dist.all_reduce(values)
    return values


def log_sum_exp(values: Tensor) -> Tensor:
    """log of the sum over the ranks of exp(values), without overflow; -inf counts as nothing."""
    if world_size() == 1:
        return values
    with waiting_for_peers("adding up partitions"):
        highest = values.clone()
        dist.all_reduce(highest, dist.ReduceOp.MAX)
    return sum_values((values - highest).exp_()).log_().add_(highest)


def average_gradients(module: nn.Module) -> None:
    """Average the gradients that exist over the ranks, in one reduction a data type.

    An idle tower's parameters have no gradient on any rank, since all ranks are at the same task:
    nothing is sent for them, and no wrapper needs to be told which are unused. Sharded parameters
    were reduced in their backward pass.
    """
    if world_size() == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for parameter in module.parameters():
        if parameter.grad is not None and not isinstance(parameter.grad, DTensor):
            by_dtype.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for grads in by_dtype.values():
        flat = sum_values(torch.cat([grad.flatten() for grad in grads]))
        flat /= world_size()
        for grad, part in zip(
            grads, flat.split([grad.numel() for grad in grads]), strict=True
        ):
            grad.copy_(part.view_as(grad))


def add_up(values: Sequence[float]) -> list[float]:
    """The sum over the ranks of each value: what all ranks then agree on."""
    return _agree(values, dist.ReduceOp.SUM)


def largest(values: Sequence[float]) -> list[float]:
    """The largest over the ranks of each value."""
    return _agree(values, dist.ReduceOp.MAX)


def smallest(values: Sequence[float]) -> list[float]:
    """The smallest over the ranks of each value."""
    return _agree(values, dist.ReduceOp.MIN)


def _agree(values: Sequence[float], how: Any) -> list[float]:
    if world_size() == 1:
        return [float(value) for value in values]
    numbers = torch.tensor(values, dtype=torch.float64)  # on the host
    with waiting_for_peers("agreeing on numbers"):
        dist.all_reduce(numbers, how)
    return [float(value) for value in numbers]


def check_same(values: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the first key that differs, unless every rank has
    the same values.
    """
    if world_size() == 1:
        return
    found: list[Any] = [None] * world_size()
    with waiting_for_peers("comparing recipes"):
        dist.all_gather_object(
            found, {key: repr(value) for key, value in values.items()}
        )
    for key in dict.fromkeys(key for one in found for key in one):
        seen = [one.get(key, "nothing") for one in found]
        for number, value in enumerate(seen):
            if value != seen[0]:
                raise ValueError(
                    f"ranks disagree on {key}: it is {seen[0]} on rank 0 and {value} on rank "
                    f"{number}; start every rank with the same recipe, data and code."
                )


def barrier() -> None:
    """Wait for every rank."""
    add_up([0.0])


def on_main(
    work: Callable[[], object],
    timeout: float,
    is_asked: Callable[[], bool] = lambda: False,
    help_out: Callable[[], object] = lambda: None,
) -> None:
    """Run something long on rank 0 while the others wait, however long it takes, as long as rank 0
    is alive.

    Rank 0 gives a sign of life from a thread, every second or four times a timeout; that another
    rank is gone it says when it is done, or when it next calls for help.
    is_asked: whether this rank was asked to stop; `asked_elsewhere` then says so to the work.
    help_out: what the others do each time that the work is within `called`.
    """
    if world_size() == 1:
        work()
    elif rank() == 0:
        done = threading.Event()
        failures: list[BaseException] = []

        def give_signs() -> None:
            try:
                while not done.wait(min(1.0, timeout / 4)):
                    with _turn:
                        _tell(_WAIT)
            except BaseException as error:  # a peer is gone: said once the work is done
                failures.append(error)

        _asked.clear()
        thread = threading.Thread(target=give_signs, daemon=True)
        thread.start()
        try:
            work()
        finally:
            done.set()
            thread.join()
            if not failures:
                _tell(_LEAVE)
        if failures:
            raise failures[0]
    else:
        while (said := add_up([_WAIT, is_asked()])[0]) != _LEAVE:
            if said == _CALL:
                help_out()


_WAIT = 0.0
_CALL = 1.0
_LEAVE = 2.0  # what rank 0 tells the ranks that wait
_asked = threading.Event()
_turn = (
    threading.Lock()
)  # reductions must come in one order: a sign of life waits while ranks help


def _tell(what: float) -> None:
    if add_up([what, 0.0])[1]:
        _asked.set()


def asked_elsewhere() -> bool:
    """Within the work of `on_main`: whether another rank was asked to stop."""
    return _asked.is_set()


@contextmanager
def called() -> Iterator[None]:
    """Within the work of `on_main`: the other ranks do what `help_out` says, and this rank in the
    block its part.
    """
    with _turn:
        _tell(_CALL)
        yield


def hand_out(objects: Sequence[Any] | None) -> Any:
    """One object to each rank from rank 0, which alone gives the list of them;
    every rank calls it.
    """
    found: list[Any] = [None]
    with waiting_for_peers("handing out inputs"):
        dist.scatter_object_list(found, list(objects) if objects is not None else None)
    return found[0]


def collect(one: Any) -> list[Any]:
    """The objects of all ranks, on rank 0; others get an empty list. Every rank calls it."""
    found: list[Any] | None = [None] * world_size() if rank() == 0 else None
    with waiting_for_peers("collecting vectors"):
        dist.gather_object(one, found)
    return found or []
