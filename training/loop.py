"""A run from recipe to model directory: the list of what a step does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from unimodal import distributed
from unimodal.progress import progress_bar
from unimodal.tables.skipped import is_over_limit

from .config import Stage, TrainConfig
from .data.collate import Batch
from .data.feed import Feed
from .data.loader import LoaderContext, steps_from
from .data.order import generator
from .ending import describe_nonfinite, finish, save, stop
from .run.log import nonfinite_rows, skipped_rows
from .run.stopping import Stopped, StopSignals, stop_signals
from .schedule import learning_rate, place_of
from .scores import Evaluate, validate_run
from .setup import Run, Seen, begin, join_ranks
from .step import StepStats, train_step
from .validation import load_on_main

__all__ = ["Evaluate", "Stopped", "train"]

# Batches of a source with nothing to learn from, and none that has something: it has nothing.
MAX_IDLE = 10
# Steps in a row without an update: waiting does not help weights, data or learning rate.
MAX_NONFINITE = 10


def train(
    config: TrainConfig,
    *,
    evaluate: Evaluate | None = None,
    load: Callable[[], object] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool | None = None,
) -> Path:
    """Run a recipe; returns the model directory RUN/model.

    RUN also gets config.yaml, metrics.jsonl, checkpoints/ and, with `eval.best`, the best model in
    best/.
    evaluate: scores a model; called every `eval.every` steps and at the end.
    load: loads what `evaluate` needs; called before anything else is read, on rank 0, which alone
        calls `evaluate`. An exception of it is raised on every rank.
    resume: resume from the newest checkpoint of RUN that is whole, or from that of the mirror if it
        is later. A broken checkpoint is skipped with a warning. Without any checkpoint, start.
    overwrite: remove what an earlier run wrote into RUN. Without `resume` and `overwrite`, a RUN
        that holds anything is refused.

    Raises ValueError for a mistake in the recipe, before anything is written, and if all
    checkpoints are broken; FloatingPointError if ten steps in a row have a loss or gradient that is
    not finite (fewer at the end are a warning); ConnectionError if a process has died or hangs;
    OSError if the finished model cannot be written (a checkpoint that cannot is a warning and a
    count); Stopped after SIGTERM or SIGINT, once the current step is done and saved, or at once
    before the first step. A second signal kills.
    """
    if config.eval is not None and evaluate is None:
        raise ValueError(
            "the recipe has eval, but train() got no `evaluate`; pass a function, or set eval=null."
        )
    was_joined = distributed.is_initialized()
    device = join_ranks(config.device, config.timeout, config.start_timeout)
    try:
        if load is not None:
            # There is nothing to save yet: a signal ends it at once.
            load_on_main(load, config.timeout)
        with stop_signals() as signals:
            run = begin(config, device, resume, overwrite)
            signals.hold()  # from here on there is something to save
            return _train(run, evaluate, show_progress, signals)
    finally:
        if not was_joined:
            distributed.destroy_process_group()


def _train(
    run: Run,
    evaluate: Evaluate | None,
    show_progress: bool | None,
    signals: StopSignals,
) -> Path:
    config = run.config
    last_step = config.total_steps
    batches: list[Batch] = []
    num_nonfinite = 0  # steps in a row
    is_resumed = run.step > 0

    # A run that was stopped while it validated does that first.
    signal = validate_run(run, evaluate, signals)
    context = LoaderContext()
    steps = steps_from(run.dataset, run.step, last_step, config.workers, context)
    feed = Feed(steps, run.dataset.is_small, context.processes)
    show = show_progress if run.is_main else False
    try:
        with progress_bar("training", last_step, show, start=run.step) as advance:
            while run.step < last_step and not signal:
                wait_start = time.perf_counter()
                fed = feed.next(signals)
                if fed.signal:
                    signal = fed.signal
                    break
                step_start = time.perf_counter()
                batches = fed.batches
                _count_samples(run, batches, fed.num_skipped)

                rate = _learning_rate(run.stages, run.step)
                stats = _step(run, batches, rate)
                run.step += 1
                _list_bad_samples(run, batches, stats)

                num_nonfinite = 0 if stats.is_finite else num_nonfinite + 1
                if num_nonfinite == MAX_NONFINITE:
                    message = describe_nonfinite(run, num_nonfinite, batches)
                    raise FloatingPointError(message)

                data_wait = step_start - wait_start
                seconds = time.perf_counter() - wait_start
                run.log.add(batches, stats, rate, fed.num_skipped, data_wait, seconds)
                advance(run.step, run.log.line())
                if _is_due(run.step, config.log_every, last_step):
                    run.log.write(run.step, _stage_at(run, run.step - 1), run.model)

                _watch_idle(run, batches, stats, is_resumed)
                if _is_due(run.step, config.save_every, last_step):
                    save(run)
                signal = validate_run(run, evaluate, signals)
    finally:
        feed.close()

    if signal:
        raise stop(run, signal, signals)
    if not is_resumed:  # what a resumed run learned before is not known
        _refuse_idle_run(run)
    # Those steps changed nothing: the model is that of the steps before.
    if num_nonfinite:
        run.log.warn(describe_nonfinite(run, num_nonfinite, batches))
    return finish(run, signals)


def _is_due(step: int, every: int, last_step: int) -> bool:
    return step % every == 0 or step == last_step


def _count_samples(run: Run, batches: list[Batch], num_skipped: int) -> None:
    """Count samples and corrupt ones; raises ValueError, on every rank, if these are too many."""
    num_samples = sum(len(batch.keys) for batch in batches)
    run.num_samples += num_samples * distributed.world_size()
    run.num_skipped += num_skipped
    max_skipped = run.config.max_skipped
    if is_over_limit(run.num_skipped, run.num_samples, max_skipped):
        run.log.note_failure(run.skipped.append(skipped_rows(run.step + 1, batches)))
        raise ValueError(
            f"{run.num_skipped:,} of {run.num_samples:,} samples are corrupt, over max_skipped "
            f"{max_skipped:g}: look at them in {run.folder / 'skipped.jsonl'}, repair the shards, "
            "or raise max_skipped."
        )


def _step(run: Run, batches: list[Batch], rate: float) -> StepStats:
    with distributed.waiting_for_peers("computing a step"):
        return train_step(
            run.model,
            batches,
            _stage_at(run, run.step),
            run.optimizer,
            run.config.step,
            learning_rate=rate,
            precision=run.config.precision,
            seed=_dropout_seed(run.config.seed, run.step),
        )


def _list_bad_samples(run: Run, batches: list[Batch], stats: StepStats) -> None:
    """Write down the samples of a step that were corrupt or gave a loss that is not finite."""
    run.log.note_failure(run.skipped.append(skipped_rows(run.step, batches)))
    nonfinite = [] if stats.is_finite else nonfinite_rows(run.step, batches)
    run.log.note_failure(run.nonfinite.append(nonfinite))
    for failure in run.saver.failures():
        run.log.note_failure(failure)


def _watch_idle(
    run: Run, batches: list[Batch], stats: StepStats, is_resumed: bool
) -> None:
    """Warn of a source's first batch with nothing to learn from.

    Raises ValueError if the first ten batches of a source in a run are like that.
    """
    for batch, lacks in zip(batches, stats.lacks, strict=True):
        place = batch.place
        seen = run.sources.setdefault((place.task, place.source), Seen())
        seen.num_batches += 1
        if not lacks:
            continue
        seen.num_idle += 1
        message = (
            f"of task {place.task!r}, source {place.source!r}, teaches nothing: {lacks}; shuffle "
            "or repair its shards, remove the source, or change the task's loss or "
            "mask_duplicates."
        )
        if seen.num_idle == seen.num_batches == MAX_IDLE and not is_resumed:
            raise ValueError(f"each of the first {MAX_IDLE} batches {message}")
        if seen.num_idle == 1:
            seen.first = f"the batch of step {run.step} {message}"
            run.log.warn(seen.first)


def _refuse_idle_run(run: Run) -> None:
    """Raise ValueError if no batch had anything to learn from: the model did not change."""
    sources = list(run.sources.values())
    if sources and all(seen.num_idle == seen.num_batches for seen in sources):
        raise ValueError(
            f"the run has learned nothing: every batch was like the first, {sources[0].first}"
        )


def _stage_at(run: Run, step: int) -> Stage:
    return run.stages[place_of(run.stages, step).stage]


def _learning_rate(stages: list[Stage], step: int) -> float:
    number, stage_step = place_of(stages, step)
    stage = stages[number]
    return learning_rate(stage.optim, stage_step, stage.steps)


def _dropout_seed(seed: int, step: int) -> int:
    """Draw a seed from (seed, step, rank) alone: a checkpoint needs no generator state."""
    draw = generator(seed, step, distributed.rank(), "dropout")
    return int(draw.integers(2**62))
