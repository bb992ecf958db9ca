"""A run from recipe to model directory: the list of what a step does."""

from __future__ import annotations

import math
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from unimodal.checkpoint import count_parameters, load_tensors, model_card, save_model
from unimodal.embedder import Embedder
from unimodal.model import DualEncoder
from unimodal.preprocess import Tokenizer
from unimodal.progress import progress_bar
from unimodal.shards.index import find_shards

from . import distributed
from .config import Stage, TrainConfig
from .data.collate import Batch
from .data.loader import StepDataset, steps_from
from .data.order import generator
from .log import MetricsLog, record_nonfinite, record_skipped
from .prepare import make_model, prepare_model
from .resume import (
    check_resumable,
    checkpoints,
    load_moments,
    moments_of,
    read_state,
    save_checkpoint,
    write_config,
)
from .schedule import learning_rate, place_of
from .sharding import gather_weights, shard, whole_copy
from .step import make_optimizer, train_step

_OWN_KEYS = ("device", "workers", "log_every", "keep", "tensorboard", "wandb")  # a rank may have its own
MAX_NONFINITE = 10  # steps in a row without an update: weights, data or learning rate are beyond waiting


class Evaluate(Protocol):
    """What the command line hands over: scores of a model, by name."""

    def __call__(self, embedder: Embedder, should_stop: Callable[[], bool]) -> Mapping[str, float]: ...


class Stopped(Exception):  # noqa: N818  # not an error: it was asked for
    """A signal asked the run to stop, and it did, with a checkpoint."""


def train(
    config: TrainConfig,
    *,
    evaluate: Evaluate | None = None,
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool | None = None,
) -> Path:
    """Run a recipe; returns the model directory RUN/model.

    RUN also gets config.yaml, metrics.jsonl, checkpoints/ and, with `eval.best`, the best model in best/.
    evaluate: scores a model; called every `eval.every` steps and at the end.
    resume: go on from the newest checkpoint of RUN (or start, where there is none).
    overwrite: remove what an earlier run wrote into RUN. Without either, a RUN that holds anything is refused.

    Raises ValueError for what the recipe gets wrong, before anything is written; FloatingPointError if ten steps in a
    row have a loss or gradient that is not finite (fewer at the end are a warning); ConnectionError for a process that
    has died or hangs; Stopped after SIGTERM or SIGINT, once the current step is done and saved (a second signal kills).
    """
    if config.eval is not None and evaluate is None:
        raise ValueError("the recipe has eval and train() was handed no evaluate; pass a function or set eval=null.")
    joined = distributed.is_joined()
    device = distributed.start(config.device, config.timeout)
    try:
        with _stop_signals() as should_stop:
            return _train(config, device, evaluate, resume, overwrite, show_progress, should_stop)
    finally:
        if not joined:
            distributed.stop()


def _train(
    config: TrainConfig, device: torch.device, evaluate: Evaluate | None, resume: bool, overwrite: bool,
    show_progress: bool | None, should_stop: Callable[[], bool],
) -> Path:  # fmt: skip
    run, stages, is_main = Path(config.run), config.plan, distributed.rank() == 0
    continues = _check_run_folder(run, config, resume, overwrite)
    for path in {source.path for stage in stages for task in stage.tasks.values() for source in task.sources.values()}:
        find_shards(Path(config.data_root) / path)  # what is missing is said before a model is fetched
    model, tokenizer = make_model(config, checkpoints(run)[-1] if continues else None)
    model = prepare_model(model, config, device)
    dataset = StepDataset(
        stages, Path(config.data_root), model.config, tokenizer, config.seed,
        distributed.rank(), distributed.world_size(),
    )  # fmt: skip
    newest = checkpoints(run)[-1] if continues else None
    if newest is not None:
        _check_shards(newest, dataset)
        load_tensors(model, newest / "model.safetensors")
    step = int(read_state(newest)["step"]) if newest is not None else 0
    distributed.check_same(_what_ranks_share(config, dataset, step))
    whole = model  # what is saved and evaluated
    if config.parallel == "fsdp":
        whole, model = whole_copy(model), shard(model)
    optimizer = make_optimizer(model, stages[0].optim, config.towers)
    if newest is not None:
        load_moments(newest, model, optimizer)
    if is_main and not continues:
        if overwrite:
            _remove_run(run)
        run.mkdir(parents=True, exist_ok=True)
        write_config(run, config)
    distributed.barrier()
    log = MetricsLog(run, config, step) if is_main else None

    def stop_is_agreed() -> bool:
        return distributed.add_up([should_stop()])[0] > 0

    def gather_whole() -> None:
        if whole is not model:
            gather_weights(model, whole)

    def save() -> None:
        gather_whole()
        moments = moments_of(model, optimizer)
        state = {"shards": dataset.fingerprints()}
        distributed.on_main(
            lambda: save_checkpoint(run, step, whole, tokenizer, moments, state, config.keep), config.timeout
        )

    def validate() -> bool:
        """Score the model if that is due and not done; returns whether to stop."""
        due = config.eval is not None and step > 0 and (step % config.eval.every == 0 or step == config.total_steps)
        if due:
            gather_whole()
            distributed.on_main(score, config.timeout)
        return stop_is_agreed()

    def score() -> None:
        if log is not None and evaluate is not None and not log.has_validated(step):
            scores = evaluate(_embedder(whole, tokenizer, device), should_stop)
            if whole is not model:
                whole.cpu()  # the room on the device is the shards'
            if not should_stop():  # a validation that was cut short is done again by the run that goes on
                _keep_best(run, step, scores, config, whole, tokenizer, log)

    num_nonfinite = 0  # in a row
    stopping = validate()  # a run that was stopped while it validated
    batches = steps_from(dataset, step, config.total_steps, config.workers)
    with progress_bar("training", config.total_steps, show_progress if is_main else False) as advance:
        while step < config.total_steps and not stopping:
            stage = stages[place_of(stages, step).stage]
            waited = time.perf_counter()
            batch = next(batches)
            started = time.perf_counter()
            rate = _learning_rate(stages, step)
            with distributed.waiting_for_peers("computing a step"):
                stats = train_step(
                    model, batch, stage, optimizer, config.step,
                    learning_rate=rate, precision=config.precision, seed=_dropout_seed(config.seed, step),
                )  # fmt: skip
            step += 1
            num_nonfinite = 0 if stats.is_finite else num_nonfinite + 1
            if num_nonfinite:
                record_nonfinite(run, step, batch)
            if num_nonfinite == MAX_NONFINITE:
                raise FloatingPointError(_describe_nonfinite(run, step, num_nonfinite, batch))
            (skipped,) = distributed.add_up([record_skipped(run, step, batch)])
            stopping = stop_is_agreed()
            if log is not None:
                log.add(batch, stats, rate, skipped, started - waited, time.perf_counter() - waited)
                advance(step, log.line())
                if step % config.log_every == 0 or step == config.total_steps or stopping:
                    log.write(step, stage, model)
            if step % config.save_every == 0 or step == config.total_steps or stopping:
                save()
            stopping = stopping or validate()
    if log is not None:
        log.close()
    if stopping:
        if distributed.add_up([is_main and not any(path.name == f"step-{step:08d}" for path in checkpoints(run))])[0]:
            save()
        raise Stopped(f"stopped at step {step} of {config.total_steps}; go on with --resume.")
    if is_main and num_nonfinite:  # those steps changed nothing: the model is that of the steps before
        warnings.warn(_describe_nonfinite(run, step, num_nonfinite, batch), stacklevel=2)
    gather_whole()
    if is_main and log is not None:
        trained_on = f"Trained for {step} steps with unimodal on {', '.join(sorted(dataset.shards))}."
        save_model(run / "model", whole, tokenizer, _card(whole, trained_on, log.last_validation()), overwrite=True)
    distributed.barrier()
    return run / "model"


def _check_run_folder(run: Path, config: TrainConfig, resume: bool, overwrite: bool) -> bool:
    """Whether there is a checkpoint to go on from; refuses to write over a run that nobody asked to lose."""
    if resume and (checkpoints(run) or (run / "config.yaml").is_file()):
        check_resumable(run, config)
        return bool(checkpoints(run))
    if run.exists() and any(run.iterdir()) and not overwrite and not resume:
        raise ValueError(f"{run} exists already; go on with --resume, start anew with --overwrite, or set run=.")
    return False


def _remove_run(run: Path) -> None:
    """Remove what a run writes and nothing else: the shards of the demo, say, lie in the folder of its run."""
    for name in ("checkpoints", "model", "best", "tensorboard"):
        shutil.rmtree(run / name, ignore_errors=True)
    for name in ("config.yaml", "metrics.jsonl", "skipped.jsonl", "nonfinite.jsonl", "plots.png"):
        (run / name).unlink(missing_ok=True)


def _check_shards(newest: Path, dataset: StepDataset) -> None:
    before = read_state(newest)["shards"]
    changed = {path for path, fingerprint in dataset.fingerprints().items() if before.get(path) != fingerprint}
    if changed:
        raise ValueError(
            f"the shards of {sorted(changed)[0]!r} are not those that {newest} was trained on; start a new run."
        )


def _what_ranks_share(config: TrainConfig, dataset: StepDataset, step: int) -> dict[str, Any]:
    """By name, all that must be the same on every rank: wrong negatives are silent otherwise."""
    values: dict[str, Any] = {}

    def flatten(value: Any, name: str) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                flatten(inner, f"{name}.{key}" if name else str(key))
        else:
            values[name] = value

    flatten({key: value for key, value in config.model_dump().items() if key not in _OWN_KEYS}, "")
    for path, fingerprint in dataset.fingerprints().items():
        values[f"the shards of {path!r}"] = fingerprint
    return {**values, "the first step": step, "the order of batches": dataset.digest(config.total_steps)}


def _describe_nonfinite(run: Path, step: int, count: int, batches: list[Batch]) -> str:
    batch = batches[-1]
    more = f" and {len(batch.keys) - 8:,} more" if len(batch.keys) > 8 else ""
    return (
        f"loss or gradient was not finite in {count} steps in a row, the last being step {step} (task "
        f"{batch.place.task!r}, source {batch.place.source!r}, samples {', '.join(batch.keys[:8])}{more}); nothing was "
        f"updated in them: look at the samples in {run / 'nonfinite.jsonl'}, or start a run with a lower optim.lr from "
        "a checkpoint whose loss was still good (model=null init=RUN/checkpoints/step-N)."
    )


def _learning_rate(stages: list[Stage], step: int) -> float:
    number, stage_step = place_of(stages, step)
    return learning_rate(stages[number].optim, stage_step, stages[number].steps)


def _dropout_seed(seed: int, step: int) -> int:
    """Dropout depends on (seed, step, rank) alone, so a checkpoint needs no generator state."""
    return int(generator(seed, step, distributed.rank(), "dropout").integers(2**62))


def _embedder(model: DualEncoder, tokenizer: Tokenizer, device: torch.device) -> Embedder:
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return Embedder(model, tokenizer, device=str(device), dtype=dtype)


def _keep_best(
    run: Path, step: int, scores: Mapping[str, float], config: TrainConfig, model: DualEncoder, tokenizer: Tokenizer,
    log: MetricsLog,
) -> None:  # fmt: skip
    assert config.eval is not None
    best = config.eval.best
    if best and best not in scores:
        raise ValueError(f"eval.best {best!r} is no validation score; choose one of {', '.join(sorted(scores))}.")
    before = max((row[f"val/{best}"] for row in log.rows if f"val/{best}" in row), default=-math.inf)
    log.append({"step": step, **{f"val/{name}": value for name, value in scores.items()}})
    if best and scores[best] > before:
        card = _card(model, f"Step {step}: {best} {scores[best]:.3f}, the highest on validation.", scores)
        save_model(run / "best", model, tokenizer, card, overwrite=True)


def _card(model: DualEncoder, trained_on: str, scores: Mapping[str, float]) -> str:
    named = [(*name.rsplit(" ", 1), value) for name, value in scores.items()]
    rows = [{"task": f"{task} (validation)", "metric": metric, "value": value} for task, metric, value in named]
    return model_card(model.config, count_parameters(model), rows, trained_on)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """The first SIGTERM or SIGINT raises a flag that the loop looks at, the second does what it always did.

    Outside the main thread nothing is caught.
    """
    received: list[int] = []
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, _frame: Any) -> None:
        received.append(number)
        restore()

    try:
        for number in (int(signal.SIGTERM), int(signal.SIGINT)):
            before[number] = signal.signal(number, on_signal)
    except ValueError:  # not the main thread: whoever started it decides
        before = {}
    try:
        yield lambda: bool(received)
    finally:
        restore()
