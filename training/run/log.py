"""RUN/metrics.jsonl, and TensorBoard or Weights & Biases beside it."""

from __future__ import annotations

import errno
import json
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from unimodal import distributed
from unimodal.files import replace_text
from unimodal.model import DualEncoder

from ..config import Stage, TrainConfig
from ..data.collate import Batch
from ..step import StepStats


class JsonlWriter:
    """A file of JSON lines that survives a full disk: unwritten rows are kept and tried again."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._unwritten = b""

    def append(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Write rows whole or not at all; returns the failure as a sentence, or ""."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        self._unwritten += text.encode()
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
                "training continues."
            )
        self._unwritten = b""
        return ""


def skipped_rows(step: int, batches: list[Batch]) -> list[dict[str, Any]]:
    """This rank's corrupt samples of a step, as rows of RUN/skipped.jsonl."""
    rows = []
    for batch in batches:
        for skipped in batch.skipped:
            rows.append({"step": step, **skipped._asdict()})
    return rows


def nonfinite_rows(step: int, batches: list[Batch]) -> list[dict[str, Any]]:
    """This rank's samples of a step that was not finite, as rows of RUN/nonfinite.jsonl."""
    rows = []
    for batch in batches:
        row = {
            "step": step,
            "task": batch.place.task,
            "source": batch.place.source,
            "samples": batch.keys,
        }
        rows.append(row)
    return rows


class RunLog(Protocol):
    """What a run reports of itself; rank 0 has a MetricsLog, every other rank a NoLog."""

    def state(self) -> dict[str, Any] | None: ...

    def warn(self, message: str) -> None: ...

    def note_failure(self, message: str) -> None: ...

    def add(
        self,
        batches: list[Batch],
        stats: StepStats,
        learning_rate: float,
        num_skipped: float,
        data_wait: float,
        seconds: float,
    ) -> None: ...

    def line(self) -> str: ...

    def write(self, step: int, stage: Stage, model: DualEncoder) -> None: ...

    def append(self, row: dict[str, Any]) -> None: ...

    def has_validated(self, step: int) -> bool: ...

    def last_validation(self) -> dict[str, float]: ...

    def best_validation(self, name: str) -> float: ...

    def close(self, step: int) -> None: ...


class NoLog:
    """The log of a rank other than 0: it writes nothing, and only warns of failures."""

    def state(self) -> None:
        """Return nothing: a checkpoint has the state of rank 0."""

    def warn(self, message: str) -> None:
        """Do nothing: rank 0 warns."""

    def note_failure(self, message: str) -> None:
        """Warn of something that this rank could not write; "" is not a failure."""
        if message:
            warnings.warn(message, stacklevel=2)

    def add(
        self,
        batches: list[Batch],
        stats: StepStats,
        learning_rate: float,
        num_skipped: float,
        data_wait: float,
        seconds: float,
    ) -> None:
        """Do nothing."""

    def line(self) -> str:
        """Return nothing to show."""
        return ""

    def write(self, step: int, stage: Stage, model: DualEncoder) -> None:
        """Do nothing."""

    def append(self, row: dict[str, Any]) -> None:
        """Do nothing."""

    def has_validated(self, step: int) -> bool:
        """Return False: rank 0 knows."""
        return False

    def last_validation(self) -> dict[str, float]:
        """Return no scores."""
        return {}

    def best_validation(self, name: str) -> float:
        """Return the score that every other one is better than."""
        return -math.inf

    def close(self, step: int) -> None:
        """Do nothing."""


class MetricsLog:
    """RUN/metrics.jsonl, TensorBoard and Weights & Biases: averages, then validation scores."""

    def __init__(
        self, run: Path, config: TrainConfig, step: int, state: Mapping[str, Any] | None
    ) -> None:
        """step, state: of the checkpoint that is resumed from; later rows are removed."""
        rows = _cut(run / "metrics.jsonl", step)
        self.validations = [row for row in rows if _is_validation(row)]
        _cut(run / "skipped.jsonl", step)
        _cut(run / "nonfinite.jsonl", step)
        self._lines = JsonlWriter(run / "metrics.jsonl")
        state = state or {"sums": {}, "counts": {}, "last": {}}
        self._sums: dict[str, float] = defaultdict(float, state["sums"])
        self._counts: dict[str, int] = defaultdict(int, state["counts"])
        self._last: dict[str, float] = dict(state["last"])
        self._sinks = _sinks(run, config)

    def state(self) -> dict[str, Any]:
        """Sums since the last line, for a checkpoint: the resumed run writes the line then due."""
        return {
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "last": dict(self._last),
        }

    def warn(self, message: str) -> None:
        """Warn once for all ranks."""
        warnings.warn(message, stacklevel=2)

    def note_failure(self, message: str) -> None:
        """Warn of something that could not be written, and count it; "" is not a failure."""
        if message:
            self._sums["failed_saves"] += 1
            warnings.warn(message, stacklevel=2)

    def add(
        self,
        batches: list[Batch],
        stats: StepStats,
        learning_rate: float,
        num_skipped: float,
        data_wait: float,
        seconds: float,
    ) -> None:
        """Add one step to the sums.

        num_skipped: corrupt samples on all ranks. seconds: of the step, of which `data_wait` were
        spent waiting for data.
        """
        ranks = distributed.world_size()
        values = {"data_wait": data_wait, "step_seconds": seconds}
        for name, share in stats.masked.items():
            values[f"{name}/masked"] = share
        if stats.is_finite:  # other steps would make the averages NaN
            values["grad_norm"] = stats.grad_norm
            for name, loss in stats.losses.items():
                values[f"{name}/loss"] = loss
        values["chunks"] = stats.num_chunks
        values["recomputed"] = stats.num_recomputed

        for name, loss in stats.losses.items():
            self._sums[f"{name}/seconds"] += seconds
            self._last[name] = loss
        for batch in batches:
            self._sums[f"{batch.place.task}/samples"] += len(batch.keys) * ranks
        for name, value in values.items():
            self._sums[name] += value
            self._counts[name] += 1
        self._sums["lr"] = learning_rate
        self._sums["skipped"] += num_skipped
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
                samples = self._sums[f"{name}/samples"]
                row[f"{name}/samples_per_s"] = samples / self._sums[f"{name}/seconds"]
                row[f"{name}/scale"] = model.logit_scales[name].exp().item()
        self._sums.clear()
        self._counts.clear()
        self.append(row)

    def append(self, row: dict[str, Any]) -> None:
        """Write one line to the file and to the other sinks; what fails is counted."""
        if _is_validation(row):
            self.validations.append(row)
        self.note_failure(self._lines.append([row]))
        self._send_to_sinks(row)

    def _send_to_sinks(self, row: dict[str, Any] | None) -> None:
        for sink in self._sinks:
            try:
                sink(row)
            except OSError as error:
                self.note_failure(
                    f"a logger could not write ({error}); training continues."
                )

    def has_validated(self, step: int) -> bool:
        """Whether the scores of a step are logged."""
        return any(row["step"] == step for row in self.validations)

    def last_validation(self) -> dict[str, float]:
        """The newest scores, by "task metric"."""
        newest = self.validations[-1] if self.validations else {}
        return {
            name.removeprefix("val/"): value
            for name, value in newest.items()
            if name.startswith("val/")
        }

    def best_validation(self, name: str) -> float:
        """The highest score of that name so far; -inf if there is none."""
        key = f"val/{name}"
        scores = [row[key] for row in self.validations if key in row]
        return max(scores, default=-math.inf)

    def close(self, step: int) -> None:
        """Write the failures that no line has counted yet, and close the sinks."""
        if self._sums["failed_saves"]:
            self.append({"step": step, "failed_saves": self._sums["failed_saves"]})
        self.note_failure(self._lines.append([]))
        self._send_to_sinks(None)


def _is_validation(row: Mapping[str, Any]) -> bool:
    return any(name.startswith("val/") for name in row)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; a last line that a crash cut short is left out."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    rows = []
    for number, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number + 1 < len(lines):
                raise ValueError(
                    f"line {number + 1} of {file} is not JSON; repair or remove it."
                ) from None
    return rows


def _cut(file: Path, step: int) -> list[dict[str, Any]]:
    """Remove the rows after a step from a file; returns the rest."""
    rows = [row for row in read_rows(file) if row["step"] <= step]
    if file.is_file():
        replace_text(file, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


Sink = Callable[[dict[str, Any] | None], None]  # None: the run is over


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

        def to_wandb(row: dict[str, Any] | None) -> None:
            if row is None:
                session.finish()
            else:
                session.log(row, step=row["step"])

        sinks.append(to_wandb)
    return sinks
