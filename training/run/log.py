"""RUN/metrics.jsonl, and TensorBoard or Weights & Biases beside it."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unimodal import distributed
from unimodal.files import replace_text
from unimodal.model import DualEncoder

from ..config import Stage, TrainConfig
from ..data.collate import Batch
from ..step import StepStats


class Lines:
    """A file of JSON lines that outlives a full disk: what cannot be written is kept, and written
    with the next.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._unwritten = b""

    def append(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Write rows whole or not at all; returns what went wrong, "" if nothing."""
        self._unwritten += "".join(json.dumps(row) + "\n" for row in rows).encode()
        if not self._unwritten:
            return ""
        try:
            with self._file.open("ab", buffering=0) as file:
                end = file.tell()
                try:
                    if file.write(self._unwritten) != len(self._unwritten):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    file.truncate(end)  # no torn line
                    raise
        except OSError as error:
            return (
                f"{self._file.name} could not be written ({error}); its rows are kept, and "
                "training goes on."
            )
        self._unwritten = b""
        return ""


def skipped_rows(step: int, batches: list[Batch]) -> list[dict[str, Any]]:
    """This rank's corrupt samples of a step, for RUN/skipped.jsonl."""
    return [
        {"step": step, **one._asdict()} for batch in batches for one in batch.skipped
    ]


def nonfinite_rows(step: int, batches: list[Batch]) -> list[dict[str, Any]]:
    """This rank's samples of a step whose loss or gradient was not finite, for
    RUN/nonfinite.jsonl.
    """
    return [
        {
            "step": step,
            "task": batch.place.task,
            "source": batch.place.source,
            "samples": batch.keys,
        }
        for batch in batches
    ]


class MetricsLog:
    """RUN/metrics.jsonl and whatever else was asked for: averages since the last line, then
    validation scores.
    """

    def __init__(
        self, run: Path, config: TrainConfig, step: int, state: Mapping[str, Any] | None
    ) -> None:
        """step, state: of the checkpoint that is resumed from; after it, the past
        is written anew.
        """
        self.validations = [
            row for row in _cut(run / "metrics.jsonl", step) if _is_validation(row)
        ]
        _cut(run / "skipped.jsonl", step)
        _cut(run / "nonfinite.jsonl", step)
        self._lines = Lines(run / "metrics.jsonl")
        state = state or {"sums": {}, "counts": {}, "last": {}}
        self._sums: dict[str, float] = defaultdict(float, state["sums"])
        self._counts: dict[str, int] = defaultdict(int, state["counts"])
        self._last: dict[str, float] = dict(state["last"])
        self._sinks = _sinks(run, config)

    def state(self) -> dict[str, Any]:
        """Sums since the last line, for a checkpoint: the run that goes on from it writes the line
        that was due.
        """
        return {
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "last": dict(self._last),
        }

    def note_failure(self, said: str) -> None:
        """Warn of something that could not be written, and count it; nothing if nothing is said."""
        if said:
            self._sums["failed_saves"] += 1
            warnings.warn(said, stacklevel=2)

    def add(
        self,
        batches: list[Batch],
        stats: StepStats,
        rate: float,
        skipped: float,
        waited: float,
        seconds: float,
    ) -> None:
        """Take in one step: corrupt samples on all ranks, seconds in all, of which `waited` for
        data.
        """
        ranks = distributed.world_size()
        found: list[tuple[str, float]] = [
            ("data_wait", waited),
            ("step_seconds", seconds),
        ]
        found += [(f"{name}/masked", share) for name, share in stats.masked.items()]
        if stats.is_finite:  # others would make an average of nothing
            found += [
                ("grad_norm", stats.grad_norm),
                *((f"{name}/loss", loss) for name, loss in stats.losses.items()),
            ]
        for name, loss in stats.losses.items():
            self._sums[f"{name}/seconds"] += seconds
            self._last[name] = loss
        for batch in batches:
            self._sums[f"{batch.place.task}/samples"] += len(batch.keys) * ranks
        for name, value in (
            *found,
            ("chunks", stats.num_chunks),
            ("recomputed", stats.num_recomputed),
        ):
            self._sums[name] += value
            self._counts[name] += 1
        self._sums["lr"] = rate
        self._sums["skipped"] += skipped
        self._sums["nonfinite"] += not stats.is_finite

    def line(self) -> str:
        """The newest losses, for the progress bar."""
        return "  ".join(f"{name} {loss:.3f}" for name, loss in self._last.items())

    def write(self, step: int, stage: Stage, model: DualEncoder) -> None:
        """Append the averages since the last line."""
        row: dict[str, Any] = {
            "step": step,
            "stage": stage.name,
            "lr": self._sums["lr"],
            "skipped": self._sums["skipped"],
            "nonfinite": self._sums["nonfinite"],
            "failed_saves": self._sums["failed_saves"],
        }
        for name, count in self._counts.items():
            row[name] = self._sums[name] / count
        for name in self._last:
            if f"{name}/samples" in self._sums:
                row[f"{name}/samples_per_s"] = (
                    self._sums[f"{name}/samples"] / self._sums[f"{name}/seconds"]
                )
                row[f"{name}/scale"] = model.logit_scales[name].exp().item()
        self._sums.clear()
        self._counts.clear()
        self.append(row)

    def append(self, row: dict[str, Any]) -> None:
        """Write one line to the file and to the other sinks; what fails is counted."""
        if _is_validation(row):
            self.validations.append(row)
        self.note_failure(self._lines.append([row]))
        self._tell_sinks(row)

    def _tell_sinks(self, row: dict[str, Any] | None) -> None:
        for sink in self._sinks:
            try:
                sink(row)
            except OSError as error:
                self.note_failure(
                    f"a logger could not write ({error}); training goes on."
                )

    def has_validated(self, step: int) -> bool:
        """Whether the scores of a step are there."""
        return any(row["step"] == step for row in self.validations)

    def last_validation(self) -> dict[str, float]:
        """The newest scores, by "task metric"."""
        newest = self.validations[-1] if self.validations else {}
        return {
            name.removeprefix("val/"): value
            for name, value in newest.items()
            if name.startswith("val/")
        }

    def close(self, step: int) -> None:
        """Write what no later line will say, and tell the sinks that the run is over."""
        if self._sums["failed_saves"]:
            self.append({"step": step, "failed_saves": self._sums["failed_saves"]})
        self.note_failure(self._lines.append([]))
        self._tell_sinks(None)


def _is_validation(row: Mapping[str, Any]) -> bool:
    return any(name.startswith("val/") for name in row)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a JSON-lines file; a last line that a crash cut short is left out."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number + 1 < len(lines):
                raise ValueError(
                    f"line {number + 1} of {file} is not JSON; mend or remove it."
                ) from None
    return rows


def _cut(file: Path, step: int) -> list[dict[str, Any]]:
    """Keep the rows up to a step, in the file too."""
    rows = [row for row in read_rows(file) if row["step"] <= step]
    if file.is_file():
        replace_text(file, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


Sink = Callable[[dict[str, Any] | None], None]


def _sinks(run: Path, config: TrainConfig) -> list[Sink]:
    sinks: list[Sink] = []
    if config.tensorboard:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError(
                'tensorboard=true needs tensorboard: pip install "unimodal[tensorboard]".'
            ) from None
        writer = SummaryWriter(str(run / "tensorboard"))  # type: ignore[no-untyped-call]

        def to_tensorboard(row: dict[str, Any] | None) -> None:
            if row is None:
                writer.close()  # type: ignore[no-untyped-call]
                return
            for name, value in row.items():
                if name not in ("step", "stage"):
                    writer.add_scalar(name, value, row["step"])  # type: ignore[no-untyped-call]

        sinks.append(to_tensorboard)
    if config.wandb:
        try:
            import wandb
        except ImportError:
            raise ImportError(
                'wandb=PROJECT needs wandb: pip install "unimodal[wandb]".'
            ) from None
        session = wandb.init(
            project=config.wandb,
            dir=str(run),
            name=run.name,
            id=run.name,
            resume="allow",
            config=config.model_dump(mode="json"),
        )
        sinks.append(
            lambda row: (
                session.finish() if row is None else session.log(row, step=row["step"])
            )
        )
    return sinks
