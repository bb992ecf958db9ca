"""A run from recipe to model directory: the list of what a step does."""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.optim import Optimizer

from unimodal.checkpoint import count_parameters, model_card, save_model
from unimodal.embedder import Embedder
from unimodal.model import DualEncoder
from unimodal.preprocess import Tokenizer
from unimodal.progress import progress_bar
from unimodal.shards.index import find_shards

from . import distributed
from .config import Stage, TrainConfig
from .data.loader import StepDataset, steps_from
from .data.order import generator
from .log import MetricsLog, record_skipped
from .prepare import make_model, prepare_model
from .resume import check_resumable, checkpoints, load_checkpoint, save_checkpoint, write_config
from .schedule import learning_rate, place_of
from .step import make_optimizer, train_step


class Evaluate(Protocol):
    """What the command line hands over: scores of a model, by name."""

    def __call__(self, embedder: Embedder, should_stop: Callable[[], bool]) -> Mapping[str, float]: ...


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
    evaluate: called every `eval.every` steps and at the end.
    resume: go on from the newest checkpoint of RUN (or start, where there is none).
    overwrite: remove RUN first. Without either, a RUN that exists is refused.

    Raises ValueError for what the recipe gets wrong, before anything is written; FloatingPointError for a loss that is
    not finite. SIGTERM and SIGINT save a checkpoint after the current step and leave with KeyboardInterrupt.
    """
    device = distributed.start(config.device)
    try:
        with _stop_signals() as should_stop:
            return _train(config, device, evaluate, resume, overwrite, show_progress, should_stop)
    finally:
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
    optimizer = make_optimizer(model, stages[0].optim, config.towers)
    step = _restore(run, model, optimizer, dataset) if continues else 0
    distributed.check_same("recipe and data", f"{config.model_dump()} {dataset.fingerprints()} {step}")
    if is_main and not continues:
        if overwrite:
            shutil.rmtree(run, ignore_errors=True)
        run.mkdir(parents=True, exist_ok=True)
        write_config(run, config)
    log = MetricsLog(run, config, step) if is_main else None
    batches = steps_from(dataset, step, config.total_steps, config.workers)
    with progress_bar("training", config.total_steps, show_progress if is_main else False) as advance:
        while step < config.total_steps:
            stage = stages[place_of(stages, step).stage]
            waited = time.perf_counter()
            batch = next(batches)
            started = time.perf_counter()
            _seed_step(config.seed, step)
            rate = _learning_rate(stages, step)
            stats = train_step(
                model, batch, stage, optimizer,
                step=step, learning_rate=rate, token_budget=config.token_budget, precision=config.precision,
            )  # fmt: skip
            step += 1
            corrupt = record_skipped(run, step, batch)
            stop, skipped = distributed.add_up([should_stop(), corrupt], device)
            stopping = stop > 0
            if log is not None:
                log.add(batch, stats, rate, skipped, started - waited, time.perf_counter() - waited)
                advance(step, log.line())
                if step % config.log_every == 0 or step == config.total_steps or stopping:
                    log.write(step, stage, model)
            evaluates = config.eval is not None and (step % config.eval.every == 0 or step == config.total_steps)
            if evaluates and not stopping:
                if is_main and evaluate is not None and log is not None:
                    advance(step, "evaluating")
                    scores = evaluate(_embedder(model, tokenizer, device), should_stop)
                    _keep_best(run, step, scores, config, model, tokenizer, log)
                stopping = distributed.add_up([should_stop()], device)[0] > 0
            if step % config.save_every == 0 or step == config.total_steps or stopping:
                if is_main:
                    state = {"shards": dataset.fingerprints()}
                    save_checkpoint(run, step, model, tokenizer, optimizer, state, config.keep)
                distributed.barrier()
            if stopping and step < config.total_steps:
                raise KeyboardInterrupt(f"stopped at step {step} of {config.total_steps}; go on with --resume")
    if is_main and log is not None:
        trained_on = f"Trained for {step} steps with unimodal on {', '.join(sorted(dataset.shards))}."
        save_model(
            run / "model",
            model,
            tokenizer,
            _card(model, trained_on),
            overwrite=True,
        )
        log.close()
    distributed.barrier()
    return run / "model"


def _check_run_folder(run: Path, config: TrainConfig, resume: bool, overwrite: bool) -> bool:
    """Whether there is a checkpoint to go on from; refuses to write over a run that nobody asked to lose."""
    if resume and (run / "config.yaml").is_file():
        check_resumable(run, config)
        return bool(checkpoints(run))
    if run.exists() and any(run.iterdir()) and not overwrite and not resume:
        raise ValueError(
            f"{run} exists already; go on with --resume, start anew with --overwrite, or choose another run=."
        )
    return False


def _restore(run: Path, model: DualEncoder, optimizer: Optimizer, dataset: StepDataset) -> int:
    newest = checkpoints(run)[-1]
    state = load_checkpoint(newest, model, optimizer)
    changed = {path for path, fingerprint in dataset.fingerprints().items() if state["shards"].get(path) != fingerprint}
    if changed:
        raise ValueError(
            f"the shards of {sorted(changed)[0]!r} are not those that {newest} was trained on; start a new run."
        )
    return int(state["step"])


def _learning_rate(stages: list[Stage], step: int) -> float:
    number, stage_step = place_of(stages, step)
    return learning_rate(stages[number].optim, stage_step, stages[number].steps)


def _seed_step(seed: int, step: int) -> None:
    """Dropout depends on (seed, step, rank) alone, so a checkpoint needs no generator state."""
    torch.manual_seed(int(generator(seed, step, distributed.rank(), "dropout").integers(2**62)))


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
        raise ValueError(
            f"eval.best {best!r} is not among the validation scores; choose one of {', '.join(sorted(scores))}."
        )
    log.append({"step": step, **{f"val/{name}": value for name, value in scores.items()}})
    before = [row[f"val/{best}"] for row in log.rows if f"val/{best}" in row][:-1]
    if best and scores[best] > max(before, default=-math.inf):
        card = _card(model, f"Step {step}: {best} {scores[best]:.3f}, the highest on validation.")
        save_model(run / "best", model, tokenizer, card, overwrite=True)


def _card(model: DualEncoder, trained_on: str) -> str:
    return model_card(model.config, count_parameters(model), trained_on=trained_on)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGINT raise a flag that the loop looks at; outside the main thread nothing is caught."""
    received: list[int] = []
    before: dict[int, Any] = {}
    try:
        for number in (int(signal.SIGTERM), int(signal.SIGINT)):
            before[number] = signal.signal(number, lambda caught, _frame: received.append(caught))
    except ValueError:  # not the main thread: whoever started it decides
        before = {}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
