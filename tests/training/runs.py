"""What the tests of training share: what a run left behind, runs of several ranks, and batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from training.config import TrainConfig
from training.data.collate import Batch
from training.data.dataset import StepDataset
from training.data.loader import steps_from
from training.run.resume import write_config
from unimodal.preprocess.tokenizers import load_tokenizer

_ENDINGS_OF_TIMED = (
    "seconds",
    "data_wait",
    "samples_per_s",
    "chunks",
    "recomputed",
)


def rows_of(run: str | Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl without what differs between equal runs, or between numbers of ranks."""
    rows = []
    for line in (Path(run) / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name in list(row):
            if name.endswith(_ENDINGS_OF_TIMED):
                del row[name]
        rows.append(row)
    return rows


def assert_same_weights(ours: Path, theirs: Path, exact: bool) -> None:
    """Compare the models of two runs, to the bit or to the rounding of several ranks."""
    first = load_file(ours / "model/model.safetensors")
    second = load_file(theirs / "model/model.safetensors")
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        if exact:
            assert torch.equal(tensor, second[name]), name
        else:
            torch.testing.assert_close(tensor, second[name], rtol=1e-9, atol=1e-12)


def torchrun(
    config: TrainConfig, ranks: int, *options: str, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Train a recipe on several ranks, by the command line."""
    folder = Path(config.run).parent / f"recipe{ranks}"
    folder.mkdir(exist_ok=True)
    write_config(folder, config)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(ranks),
        "--master-port",
        "0",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
        "-m",
        "unimodal",
        "train",
        str(folder / "config.yaml"),
        *options,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command,
        check=check,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )


def dataset_of(config: TrainConfig, rank: int, world_size: int) -> StepDataset:
    """The dataset of one rank of a recipe."""
    assert config.model is not None
    assert config.model.text is not None
    tokenizer, text = load_tokenizer(config.model.text)
    model = config.model.model_copy(update={"text": text})
    return StepDataset(
        config.plan,
        config.data_root,
        model,
        tokenizer,
        config.seed,
        rank,
        world_size,
        config.storage,
    )


Samples = dict[str, tuple[NDArray[Any] | None, list[list[int]]]]


def global_batches(
    config: TrainConfig,
    world_size: int,
    workers: int = 0,
    start: int = 0,
    steps: int = 7,
) -> list[Samples]:
    """Each step's global batch, by key: augmented pixels, and token ids of every side."""
    ranks = [
        list(steps_from(dataset_of(config, rank, world_size), start, steps, workers))
        for rank in range(world_size)
    ]
    return [
        {key: row for rank in step for key, row in samples_of(rank[0]).items()}
        for step in zip(*ranks, strict=True)
    ]


def samples_of(batch: Batch) -> Samples:
    """One rank's batch, by key."""
    texts = batch.texts.lists()
    size = len(batch.keys)
    return {
        key: (
            None if batch.pixels is None else batch.pixels[row].numpy(),
            texts[row::size],
        )
        for row, key in enumerate(batch.keys)
    }


def assert_same_batches(ours: list[Samples], reference: list[Samples]) -> None:
    """Compare batches to the bit."""
    assert len(ours) == len(reference)
    for step, expected in zip(ours, reference, strict=True):
        assert step.keys() == expected.keys()
        for key, (pixels, texts) in step.items():
            assert texts == expected[key][1]
            np.testing.assert_array_equal(pixels, expected[key][0])
