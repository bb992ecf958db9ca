"""Memory that stays flat over epochs, is bounded by pieces and not by batches, and nothing left
behind by kill -9.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import Recipe
from tests.torture.conftest import SIZES, Figure, Start, stretched
from tests.torture.nursery import ROOT, session
from tests.torture.runs import dataset_of, recording, taken
from training.config import TrainConfig
from training.data.loader import steps_from

EPOCHS = 5  # two to warm up and three to measure
MIB = 1 << 20


@contextmanager
def command_line(config: TrainConfig) -> Iterator[int]:
    """`python -m unimodal train` as a process of its own, in a session of its own: nothing is
    shared with a parent.
    """
    file = Path(config.run).with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with Path(config.run).with_suffix(".log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "unimodal", "train", str(file)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process.pid
        assert process.wait(300) == 0, Path(config.run).with_suffix(".log").read_text()
    finally:
        process.kill()
        process.wait()


def proportional(pids: list[int]) -> int:
    """The memory of some processes in bytes, with shared memory divided among them (PSS).

    Pages of files are left out: they are shared with whatever else runs on the machine.
    """
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(
            int(line.split()[1]) << 10
            for line in lines
            if line.startswith(("Pss_Anon:", "Pss_Shmem:"))
        )
    return total


@pytest.mark.torture
def test_memory_is_flat_over_three_epochs(
    recipe: Recipe, many: Path, figure: Figure
) -> None:
    """Of the run and its persistent loader workers, after two epochs of warming up."""
    steps = sum(SIZES) // 24 * EPOCHS
    task = {"sources": {"squares": {"path": str(many)}}}
    config = recipe(
        {
            "steps": steps,
            "save_every": 100,
            "workers": 2,
            "tasks": {"pictures": task, "pairs": None},
        }
    )
    metrics = Path(config.run) / "metrics.jsonl"
    samples: list[tuple[float, int]] = []
    with command_line(config) as pid:
        while True:
            time.sleep(0.02)
            done = metrics.read_text().count("\n") if metrics.exists() else 0
            if done >= steps * 0.98:
                break
            samples.append((done / steps * EPOCHS, proportional(session(pid))))
            assert samples[-1][1], "it has ended"
    measured = np.array([(epoch, pss) for epoch, pss in samples if epoch >= 2])
    slope = np.polyfit(measured[:, 0], measured[:, 1], 1)[0] * 3 / measured[:, 1].mean()
    figure("memory of a run and two workers", measured[:, 1].mean() / MIB, "MiB")
    figure("its growth over three epochs", slope * 100, "%")
    assert len(measured) > 20
    assert slope < 0.01


@pytest.mark.torture
def test_memory_of_the_loader_does_not_grow_with_the_global_batch(
    recipe: Recipe, many: Path, tmp_path: Path, figure: Figure
) -> None:
    """Workers that nobody takes anything from fetch pieces ahead until they may not; what they then
    hold.
    """
    held = {}
    for copy in range(16):
        for tar in many.glob("*.tar"):
            (tmp_path / f"{copy:02}-{tar.name}").symlink_to(tar)
    for global_batch in (512, 4096, 16_384):
        images = {
            "kind": "image-text",
            "global_batch": global_batch,
            "max_length": 16,
            "sources": {"squares": {"path": str(tmp_path)}},
        }
        config = recipe(
            {
                "model": {"preprocess": {"image_size": 224}},
                "tasks": {"pictures": None, "more": images},
            }
        )
        held[global_batch] = held_by_workers(config)
        figure(
            f"two loader workers at rest, global batch {global_batch}",
            held[global_batch] / MIB,
            "MiB",
        )
    assert held[16_384] < 1.05 * held[4096]
    assert held[16_384] - held[512] < 1 << 30


def held_by_workers(config: TrainConfig) -> int:
    """Bytes that two workers hold once they have fetched ahead all that they may: the first step is
    one of texts.
    """
    before = set(multiprocessing.active_children())
    batches = steps_from(dataset_of(config), 0, 8, workers=2)
    assert next(batches)[0].place.task == "pairs"
    workers = [
        child.pid
        for child in multiprocessing.active_children()
        if child not in before and child.pid
    ]
    held = 0
    rest = 0
    while rest < 6:
        time.sleep(0.5)
        now = proportional(workers)
        rest = rest + 1 if abs(now - held) < MIB else 0
        held = now
    return held


@pytest.mark.torture
def test_kill_9_leaves_no_process_and_no_shared_memory(
    recipe: Recipe, many: Path, start: Start, figure: Figure
) -> None:
    config = recipe(
        {
            "steps": 4000,
            "workers": 2,
            "tasks": {"pictures": {"sources": {"squares": {"path": str(many)}}}},
        }
    )
    life = start(
        config,
        before=recording(
            config, small_shared_memory={"size": 64 * MIB}, own_tracker={}
        ),
    )
    if not life.until(lambda: taken(Path(config.run)) >= 20, 60):
        assert "no /dev/shm of its own" in life.output(), life.output()
        pytest.skip("mounting is not permitted")
    # Its own, which outlives the process with this.
    shared = os.open(Path("/proc", str(life.pid), "root", "dev", "shm"), os.O_RDONLY)
    others = life.descendants()
    assert others
    life.signal()
    life.wait(10)
    started = time.perf_counter()
    while session(life.pid) and time.perf_counter() < started + 60:
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    left = os.listdir(shared)
    pids = session(life.pid)
    os.close(shared)
    figure("processes of a run that kill -9 took, beside it", len(others), "processes")
    figure("until all of them had ended", seconds, "s")
    figure("objects left in its /dev/shm", len(left), "objects")
    assert not pids
    assert not left
    assert seconds < stretched(15)
