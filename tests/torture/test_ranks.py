"""Ranks that are killed: the others say so, and any number of ranks goes on where the last ones
were.
"""

from __future__ import annotations

import random
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Recipe
from tests.torture.conftest import Figure, Start, stretched
from tests.torture.nursery import Life
from tests.torture.runs import named, rows_of
from training.config import TrainConfig

START = 300  # seconds in which six processes start on a busy machine
WORLDS = (2, 3, 1, 4, 6, 1, 2)  # the last of them is left alone


def start_ranks(start: Start, config: TrainConfig, world_size: int) -> list[Life]:
    """The ranks of one run, as torchrun would start them."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = str(found.getsockname()[1])
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": str(world_size),
    }
    return [
        start(
            config,
            "--resume",
            before={"slow_steps": {"seconds": 0.05}},
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            if world_size > 1
            else {},
        )
        for rank in range(world_size)
    ]


@pytest.mark.torture
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_killed_rank_is_an_error_on_the_others_and_other_numbers_of_ranks_resume(
    recipe: Recipe, many: Path, start: Start, figure: Figure, parallel: str
) -> None:
    task = {"sources": {"squares": {"path": str(many)}}}
    config = recipe(
        {
            "steps": 80,
            "save_every": 2,
            "precision": "float64",
            "timeout": 40,
            "tasks": {"pictures": task},
        }
    )
    reference = named(config, "reference")
    assert start(reference).wait(START) == 0
    config = named(config, "run")
    run = Path(config.run)
    draw = random.Random(1)
    slowest = 0.0
    kills = 0
    for world_size in WORLDS:
        ranks = start_ranks(
            start,
            config.model_copy(
                update={"parallel": parallel if world_size > 1 else "ddp"}
            ),
            world_size,
        )
        if kills == len(WORLDS) - 1:
            assert all(rank.wait(START) == 0 for rank in ranks), ranks[0].output()
            break
        before = num_rows(run)
        assert ranks[0].until(
            lambda before=before: num_rows(run) > before + 5,  # type: ignore[misc]
            START,
        ), ranks[0].output()
        time.sleep(draw.uniform(0, 0.1))
        killed = draw.choice(ranks)
        killed.signal()
        kills = kills + 1
        began = time.perf_counter()
        assert killed.wait(10) == -9
        for rank in ranks:
            if rank is not killed:
                assert rank.wait(60) == 1, rank.output()
                assert "another rank" in rank.output(), rank.output()
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < stretched(10)
    ours = rows_of(run)
    theirs = rows_of(Path(reference.run))
    gap = max(
        abs(a[k] - b[k]) / max(1, abs(b[k]))
        for a, b in zip(ours, theirs, strict=True)
        for k in b
        if k.endswith("/loss")
    )
    figure(f"ranks killed of 1 to 6 ({parallel})", kills, "kills")
    figure("longest time until all others ended", slowest, "s")
    figure("largest difference of a loss from the run of one process", gap, "")
    assert gap < 1e-12
    first, second = (
        load_file(folder / "model/model.safetensors")
        for folder in (run, Path(reference.run))
    )
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-9, atol=1e-12)


def num_rows(run: Path) -> int:
    """Lines of metrics.jsonl."""
    file = run / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0
