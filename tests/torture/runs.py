"""The steps, rows and weights that a run left; and the batches of a recipe without a run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from training.config import TrainConfig
from training.data.collate import Batch
from training.data.dataset import StepDataset
from training.data.loader import steps_from
from unimodal.preprocess.tokenizers import load_tokenizer

# Ends of the names of what differs between any two runs.
TIMED = ("seconds", "data_wait", "samples_per_s", "chunks", "recomputed")


class History(NamedTuple):
    """What `instruments.record` wrote of a run and of those that resumed it."""

    # step -> what it trained on and at which rate, in the life whose weights were kept
    steps: dict[int, str]
    taken: int  # steps computed by all lives together
    gaps: int  # steps that no life computed, or that a life skipped
    differing: int = 0  # steps that saw other data than the reference, in any life


def read_history(file: Path) -> History:
    """The lives of a run, one over the other: each resumes at the step of its checkpoint."""
    steps: dict[int, str] = {}
    taken = gaps = expected = 0
    for first, rest in _lines(file):
        if first == "from":
            expected = int(rest)
            gaps += expected > 0 and expected - 1 not in steps
            steps = {step: what for step, what in steps.items() if step < expected}
            continue
        gaps += int(first) != expected
        expected = int(first) + 1
        taken = taken + 1
        steps[int(first)] = rest
    return History(steps, taken, gaps)


def _lines(file: Path) -> list[tuple[str, str]]:
    parts = (line.partition(" ") for line in file.read_text().splitlines())
    return [(first, rest) for first, _, rest in parts]


def assert_same_run(run: Path, reference: Path) -> History:
    """Check that weights, rows and training data of all lives are those of the reference."""
    ours = read_history(steps_file(run))
    theirs = read_history(steps_file(reference))
    lives = [
        (first, rest) for first, rest in _lines(steps_file(run)) if first != "from"
    ]
    differing = sum(theirs.steps.get(int(first)) != rest for first, rest in lives)
    assert ours.gaps == theirs.gaps == 0, "steps were left out"
    assert not differing, f"samples were lost or repeated in {differing} steps"
    assert ours.steps.keys() == theirs.steps.keys()
    assert rows_of(run) == rows_of(reference)
    assert_same_weights(run, reference)
    return ours._replace(differing=differing)


def assert_same_weights(run: Path, reference: Path) -> None:
    """Check that the saved models are equal to the bit."""
    first, second = (
        load_file(folder / "model/model.safetensors") for folder in (run, reference)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items()), (
        "other weights"
    )


def steps_file(run: Path | str) -> Path:
    """The file beside a run in which the tests record its steps."""
    return Path(f"{run}.steps")


def named(config: TrainConfig, name: str, **changes: Any) -> TrainConfig:
    """The same run in another folder."""
    return config.model_copy(
        update={"run": str(Path(config.run).with_name(name)), **changes}
    )


def recording(config: TrainConfig, **more: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The instruments that record the steps of a life."""
    return {"record": {"file": str(steps_file(config.run))}, **more}


def taken(run: Path) -> int:
    """Steps computed so far."""
    file = steps_file(run)
    if not file.exists():
        return 0
    return sum(first != "from" for first, _ in _lines(file))


def rows_of(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without times and counts of failed saves."""
    lines = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    return [
        {k: v for k, v in row.items() if not k.endswith(TIMED) and k != "failed_saves"}
        for row in lines
    ]


def dataset_of(config: TrainConfig, rank: int = 0, world_size: int = 1) -> StepDataset:
    """The data set of one rank."""
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


def global_batches(
    config: TrainConfig, start: int, stop: int, world_size: int = 1, workers: int = 0
) -> list[list[bytes]]:
    """For each step the sorted digests of the samples: key, augmented pixels, token ids."""
    ranks = [
        steps_from(dataset_of(config, rank, world_size), start, stop, workers)
        for rank in range(world_size)
    ]
    return [
        sorted(one for part in step for one in samples_in(part))
        for step in zip(*ranks, strict=True)
    ]


def samples_in(batches: list[Batch]) -> list[bytes]:
    """A digest of every sample."""
    found = []
    for batch in batches:
        texts = batch.texts.lists()
        for row, key in enumerate(batch.keys):
            content = hashlib.blake2b(
                repr((tuple(batch.place), key, texts[row :: len(batch.keys)])).encode()
            )
            if batch.pixels is not None:
                content.update(batch.pixels[row].numpy().tobytes())
            found.append(content.digest())
    return found
