"""Ranks: they agree or say on what they do not, and one that dies or hangs is an error on the
others, never a wait.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.ranks import START, TIMEOUT, on_two_ranks
from training.main_rank import on_main
from unimodal import distributed


def _start(rank: int, port: int, seconds: float, together: Any, answers: Any) -> None:
    together.wait()
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE="4",
        LOCAL_RANK=str(rank),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    began = time.monotonic()
    try:
        distributed.init_process_group("cpu:gloo", 0.5, seconds)
        found = "joined"
    except ConnectionError as error:
        found = str(error)
    answers.put((rank, found, time.monotonic() - began))
    answers.close()
    answers.join_thread()
    os._exit(0)


def _started(ranks: Sequence[int], seconds: float) -> dict[int, tuple[str, float]]:
    """What becomes of some of four ranks that start together, and after how many seconds."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    context = get_context("spawn")
    answers = context.Queue()
    together = context.Barrier(len(ranks), timeout=START)
    started = [
        context.Process(target=_start, args=(rank, port, seconds, together, answers))
        for rank in ranks
    ]
    for one in started:
        one.start()
    try:
        told = [answers.get(timeout=START + 5 * seconds) for _ in ranks]
    finally:
        for one in started:
            one.kill()
            one.join()
    return {rank: (said, after) for rank, said, after in told}


def test_ranks_that_do_not_start_are_named_by_those_that_did_within_the_bound_of_a_start() -> (
    None
):
    for said, seconds in _started([0, 3], 3.0).values():
        assert "only 2 of 4 ranks joined within start_timeout, 3 s" in said
        assert "ranks 0, 3 did, and ranks 1, 2 did not" in said
        assert seconds > 2.5


def test_a_rank_whose_rank_0_does_not_start_says_where_it_looked() -> None:
    ((said, _),) = _started([1], 2.0).values()
    assert re.match(
        r"rank 1 cannot reach rank 0 at 127\.0\.0\.1:\d+ \(.*raise start_timeout \(2 s\)",
        said,
    )


def _log_sum_exp(rank: int) -> list[float]:
    values = torch.tensor([[1000.0, -torch.inf, 3.0], [1001.0, -500.0, -torch.inf]])[
        rank
    ]
    return distributed.all_reduce_logsumexp(values).tolist()


def test_log_sum_exp_over_ranks_neither_overflows_nor_minds_minus_infinity(
    tmp_path: Path,
) -> None:
    expected = [1000 + np.log(1 + np.e), -500.0, 3.0]
    for found in on_two_ranks(tmp_path, _log_sum_exp).values():
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def _gather_with_gradient(rank: int) -> tuple[list[float], list[float]]:
    local = torch.tensor([1.0 + rank, 5.0 + rank], requires_grad=True)
    whole = distributed.all_gather_with_grad(local)
    (whole * torch.arange(1.0, 5.0)).sum().backward()
    assert local.grad is not None
    return whole.tolist(), local.grad.tolist()


def test_gather_keeps_the_order_of_ranks_and_gives_each_its_slice_of_the_gradient(
    tmp_path: Path,
) -> None:
    found = on_two_ranks(tmp_path, _gather_with_gradient)
    assert found[0] == (
        [1.0, 5.0, 2.0, 6.0],
        [2.0, 4.0],
    )  # 1, 2 times the number of ranks
    assert found[1] == ([1.0, 5.0, 2.0, 6.0], [6.0, 8.0])


def _disagree(rank: int) -> None:
    distributed.check_same({"optim.lr": 0.1, "tasks.pairs.max_length": 24 + 8 * rank})


def test_ranks_that_disagree_name_the_key_and_both_values(tmp_path: Path) -> None:
    for found in on_two_ranks(tmp_path, _disagree).values():
        assert (
            "ValueError: ranks disagree on tasks.pairs.max_length: it is 24 on rank 0 "
            "and 32 on rank 1" in found
        )


def _die(rank: int) -> list[float]:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return distributed.all_reduce_sum([1.0])


def _hang(rank: int) -> list[float]:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return distributed.all_reduce_sum([1.0])


@pytest.mark.parametrize("job", [_die, _hang])
def test_a_dead_or_stopped_rank_is_an_error_within_the_timeout(
    tmp_path: Path, job: Callable[[int], object]
) -> None:
    found = on_two_ranks(tmp_path, job, wanted=1)
    assert "ConnectionError: rank 0 of 2 waited in vain for another rank" in found[0]


def _long_work(rank: int) -> float:
    started = time.monotonic()
    on_main(lambda: time.sleep(2.5 * TIMEOUT), TIMEOUT)
    return time.monotonic() - started


def test_ranks_wait_for_the_first_one_longer_than_the_timeout_while_it_is_alive(
    tmp_path: Path,
) -> None:
    assert all(
        seconds > 1.5 * TIMEOUT
        for seconds in on_two_ranks(tmp_path, _long_work).values()
    )  # one may start later


def _die_at_work(rank: int) -> None:
    on_main(lambda: os.kill(os.getpid(), signal.SIGKILL), TIMEOUT)


def test_a_first_rank_that_dies_at_work_is_an_error_on_those_that_wait(
    tmp_path: Path,
) -> None:
    found = on_two_ranks(tmp_path, _die_at_work, wanted=1)
    assert "ConnectionError: rank 1 of 2 waited in vain" in found[1]
