"""Jobs on two ranks of one machine, which answer or are killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# Seconds; the tests' own deadline has five times that and the start of the processes.
TIMEOUT = 4.0
START = 240.0  # seconds in which a busy machine starts two processes that import torch


def on_two_ranks(
    folder: Path, job: Callable[[int], object], wanted: int = 2
) -> dict[int, Any]:
    """What the job returns, or its error, by rank; `wanted` ranks answer."""
    context = get_context("spawn")
    answers = context.Queue()
    both = context.Barrier(2, timeout=START)
    ranks = [
        context.Process(target=_work, args=(rank, str(folder), job, answers, both))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    try:
        return dict(answers.get(timeout=START + 5 * TIMEOUT) for _ in range(wanted))
    finally:
        for process in ranks:
            process.kill()
            process.join()


def _work(
    rank: int, folder: str, job: Callable[[int], object], answers: Any, both: Any
) -> None:
    torch.set_num_threads(1)
    both.wait()  # on a busy machine one may start later than the other by more than TIMEOUT
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="localhost"
    )
    dist.init_process_group(
        "cpu:gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=TIMEOUT),
    )
    try:
        found = job(rank)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    answers.put((rank, found))
    answers.close()
    answers.join_thread()
    os._exit(0)  # without the farewell to a peer that is gone
