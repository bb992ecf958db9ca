"""A run from recipe to model directory: the list of what a step does."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch

from unimodal import distributed
from unimodal.embedder import Embedder
from unimodal.encoder import Encoder
from unimodal.formats import native
from unimodal.formats.card import count_parameters, model_card
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.progress import progress_bar
from unimodal.tables.skipped import is_over_limit

from .config import Stage, TrainConfig
from .data.collate import Batch
from .data.feed import Feed
from .data.loader import LoaderContext, steps_from
from .data.order import generator
from .main_rank import on_main, stop_requested
from .run.ledger import describe_seen, write_ledger
from .run.log import nonfinite_rows, skipped_rows
from .run.moments import moments_of
from .run.resume import RunState, start_from
from .run.saving import Snapshot
from .schedule import learning_rate, place_of
from .setup import Run, Seen, begin, join_ranks
from .sharding import copy_weights, empty, gather_weights
from .step import StepStats, train_step
from .stopping import Stopped, StopSignals, stop_signals
from .validation import load_on_main, validate

__all__ = ["Evaluate", "Stopped", "train"]

# batches of a source with nothing to learn from, and none that has something: it has nothing at all
MAX_IDLE = 10
# steps in a row without an update: weights, data or learning rate are beyond waiting
MAX_NONFINITE = 10


class Evaluate(Protocol):
    """What the command line hands over: scores of a model, by name; None stands for one that is
    undefined.
    """

    def __call__(
        self, encoder: Encoder, should_stop: Callable[[], bool], /
    ) -> Mapping[str, float | None]: ...


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
    load: called on rank 0, which alone calls `evaluate`, before anything else is read: what
        `evaluate` needs. What it raises, every rank raises.
    resume: go on from the newest checkpoint of RUN that is still what was written, or of the mirror
        where that one is later; one that is broken is passed over with a warning. Where there is
        none at all, start.
    overwrite: remove what an earlier run wrote into RUN. Without either, a RUN that holds anything
        is refused.

    Raises ValueError for what the recipe gets wrong, before anything is written, and where all
    checkpoints are broken; FloatingPointError if ten steps in a row have a loss or gradient that is
    not finite (fewer at the end are a warning); ConnectionError for a process that has died or
    hangs; OSError if the finished model cannot be written (a checkpoint that cannot is a warning
    and a count); Stopped after SIGTERM or SIGINT, once the current step is done and saved, or at
    once before the first (a second signal kills).
    """
    if config.eval is not None and evaluate is None:
        raise ValueError(
            "the recipe has eval and train() was handed no evaluate; pass a function or "
            "set eval=null."
        )
    joined = distributed.is_initialized()
    device = join_ranks(config.device, config.timeout, config.start_timeout)
    try:
        if load is not None:
            load_on_main(
                load, config.timeout
            )  # there is nothing to save yet: a signal ends it at once
        with stop_signals() as signals:
            run = begin(config, device, resume, overwrite)
            signals.hold()  # from here on there is something to save
            return _train(run, evaluate, show_progress, signals)
    finally:
        if not joined:
            distributed.destroy_process_group()


def _train(
    run: Run,
    evaluate: Evaluate | None,
    show_progress: bool | None,
    signals: StopSignals,
) -> Path:
    config, last = run.config, run.config.total_steps
    batches: list[Batch] = []
    num_nonfinite = 0  # in a row
    is_resumed = run.step > 0
    stop = _validate(
        run, evaluate, signals
    )  # a run that was stopped while it validated
    context = LoaderContext()
    steps = steps_from(run.dataset, run.step, last, config.workers, context)
    feed = Feed(steps, run.dataset.is_small, context.processes)
    try:
        show = show_progress if run.log is not None else False
        with progress_bar("training", last, show, start=run.step) as advance:
            while run.step < last and not stop:
                waited = time.perf_counter()
                fed = feed.next(signals)
                if fed.signal:
                    stop = fed.signal
                    break
                started = time.perf_counter()
                batches = fed.batches
                _count(run, batches, fed.num_skipped)
                rate = _learning_rate(run.stages, run.step)
                stats = _step(run, batches, rate)
                num_nonfinite = 0 if stats.is_finite else num_nonfinite + 1
                if num_nonfinite == MAX_NONFINITE:
                    raise FloatingPointError(
                        _describe_nonfinite(run, num_nonfinite, batches)
                    )
                if run.log is not None:
                    seconds = time.perf_counter() - waited
                    run.log.add(
                        batches, stats, rate, fed.num_skipped, started - waited, seconds
                    )
                    advance(run.step, run.log.line())
                    if run.step % config.log_every == 0 or run.step == last:
                        run.log.write(
                            run.step,
                            run.stages[place_of(run.stages, run.step - 1).stage],
                            run.model,
                        )
                _watch_idle(run, batches, stats, is_resumed)
                if run.step % config.save_every == 0 or run.step == last:
                    _save(run)
                stop = _validate(run, evaluate, signals)
    finally:
        feed.close()
    if stop:
        raise _stop(run, stop, signals)
    if not is_resumed:  # what it learned before is not known
        _refuse_idle_run(run)
    if (
        run.log is not None and num_nonfinite
    ):  # those steps changed nothing: the model is that of the steps before
        warnings.warn(_describe_nonfinite(run, num_nonfinite, batches), stacklevel=2)
    return _finish(run, signals)


def _count(run: Run, batches: list[Batch], num_skipped: int) -> None:
    """Add up samples and corrupt ones; raises ValueError, on every rank, if these are too many."""
    run.num_skipped += num_skipped
    run.num_samples += (
        sum(len(batch.keys) for batch in batches) * distributed.world_size()
    )
    share = run.config.max_skipped
    if is_over_limit(run.num_skipped, run.num_samples, share):
        _note(run, run.skipped.append(skipped_rows(run.step + 1, batches)))
        raise ValueError(
            f"{run.num_skipped:,} of {run.num_samples:,} samples could not be used, over "
            f"max_skipped {share:g}: look at them in {run.folder / 'skipped.jsonl'}, mend the "
            "shards, or raise max_skipped."
        )


def _step(run: Run, batches: list[Batch], rate: float) -> StepStats:
    """One update; what was wrong with its data or its loss is written down."""
    stage = run.stages[place_of(run.stages, run.step).stage]
    with distributed.waiting_for_peers("computing a step"):
        stats = train_step(
            run.model,
            batches,
            stage,
            run.optimizer,
            run.config.step,
            learning_rate=rate,
            precision=run.config.precision,
            seed=_dropout_seed(run.config.seed, run.step),
        )
    run.step += 1
    _note(run, run.skipped.append(skipped_rows(run.step, batches)))
    _note(
        run,
        run.nonfinite.append(
            [] if stats.is_finite else nonfinite_rows(run.step, batches)
        ),
    )
    for said in run.saver.failures():
        _note(run, said)
    return stats


def _watch_idle(
    run: Run, batches: list[Batch], stats: StepStats, is_resumed: bool
) -> None:
    """Warn of a source's first batch that teaches nothing; raises ValueError if the first ten of a
    run do not.
    """
    for batch, lacks in zip(batches, stats.lacks, strict=True):
        seen = run.sources.setdefault((batch.place.task, batch.place.source), Seen())
        seen.num_batches += 1
        seen.num_idle += lacks != ""
        if not lacks:
            continue
        said = (
            f"of task {batch.place.task!r}, source {batch.place.source!r}, teaches nothing: "
            f"{lacks}; shuffle or mend its shards, take the source out, or change the task's "
            "loss or mask_duplicates."
        )
        if seen.num_idle == seen.num_batches == MAX_IDLE and not is_resumed:
            raise ValueError(f"each of the first {MAX_IDLE} batches {said}")
        if seen.num_idle == 1:
            seen.first = f"the batch of step {run.step} {said}"
            if run.log is not None:
                warnings.warn(seen.first, stacklevel=2)


def _refuse_idle_run(run: Run) -> None:
    """Raise ValueError if no batch of the run had anything to learn from: its model is the one that
    it began with.
    """
    seen = list(run.sources.values())
    if seen and all(one.num_idle == one.num_batches for one in seen):
        raise ValueError(
            f"the run has learned nothing: every batch was like the first, {seen[0].first}"
        )


def _note(run: Run, failure: str) -> None:
    """Warn of what could not be written; rank 0 counts it in metrics.jsonl too."""
    if run.log is not None:
        run.log.note_failure(failure)
    elif failure:
        warnings.warn(failure, stacklevel=2)


def _save(run: Run) -> None:
    """Take a copy of all that changes and let it be written; every rank calls it."""
    run.saver.wait()  # one at a time
    state = RunState(
        run.step,
        run.num_skipped,
        run.num_samples,
        run.dataset.fingerprints(),
        run.dataset.plan.state(),
        run.changes,
        run.log.state() if run.log is not None else None,
    )
    _write_ledger(run)
    card = model_card(run.model.config, count_parameters(run.model))
    spare = run.saver.spare
    with distributed.waiting_for_peers("copying a checkpoint"):
        weights = copy_weights(run.model, spare.weights if spare is not None else {})
        moments = moments_of(
            run.model, run.optimizer, spare.moments.tensors if spare is not None else {}
        )
    snapshot = Snapshot(run.model.config, weights, moments, state, card)
    run.saver.save(snapshot)


def _write_ledger(run: Run) -> None:
    if run.log is not None:
        try:
            write_ledger(
                run.folder, run.dataset, run.step, run.num_skipped, run.changes
            )
        except OSError as error:
            _note(run, f"the ledger could not be written ({error}); training goes on.")


def _validate(run: Run, evaluate: Evaluate | None, signals: StopSignals) -> int:
    """Score the model if that is due and not done; returns the signal that asked to stop meanwhile,
    or 0.
    """
    settings = run.config.eval
    if settings is None or evaluate is None or run.step == 0:
        return 0
    if run.step % settings.every and run.step != run.config.total_steps:
        return 0

    def should_stop() -> bool:
        return signals.should_stop() or stop_requested()

    def score(encoder: Encoder) -> None:
        if run.log is None or run.log.has_validated(run.step):
            return
        began = time.perf_counter()
        scores = evaluate(encoder, should_stop)
        seconds = time.perf_counter() - began
        if (
            not should_stop()
        ):  # a validation that was cut short is done again by the run that goes on
            _keep_best(run, scores)
            values = {
                f"val/{name}": value
                for name, value in scores.items()
                if value is not None
            }
            run.log.append({"step": run.step, **values, "validation_seconds": seconds})

    _gather_whole(run, everywhere=True)
    validate(
        _embedder(run.whole, run.tokenizer, run.device),
        score,
        run.config.timeout,
        signals.should_stop,
    )
    if run.whole is not run.model:  # the room on the device is the shards'
        (DualEncoder.cpu if run.log is not None else empty)(run.whole)
    return signals.agree()


def _keep_best(run: Run, scores: Mapping[str, float | None]) -> None:
    assert run.config.eval is not None
    assert run.log is not None
    best = run.config.eval.best
    if best and best not in scores:
        raise ValueError(
            f"eval.best {best!r} is no validation score; choose one of {', '.join(sorted(scores))}."
        )
    before = max(
        (row[f"val/{best}"] for row in run.log.validations if f"val/{best}" in row),
        default=-math.inf,
    )
    score = scores[best] if best else None
    if best and score is None:
        _note(
            run,
            f"eval.best {best!r} is undefined at step {run.step}, so this model is not "
            "compared with others.",
        )
    if score is not None and score > before:
        known = {name: value for name, value in scores.items() if value is not None}
        card = _card(
            run.whole,
            f"Step {run.step}: {best} {score:.3f}, the highest on validation.",
            known,
        )
        try:
            native.save(
                run.folder / "best", run.whole, run.tokenizer, card, overwrite=True
            )
        except OSError as error:
            _note(
                run,
                f"the best model, of step {run.step}, could not be written ({error}); "
                "training goes on.",
            )


def _stop(run: Run, number: int, signals: StopSignals) -> Stopped:
    """Save the last step, and say where the run stands; every rank calls it."""
    run.saver.abandon(run.step)
    run.saver.wait()
    is_saved = run.step == run.saver.newest_step
    if distributed.all_reduce_sum([run.log is not None and not is_saved])[0]:
        _save(run)
    _end_writing(run, signals)
    is_saved = run.step == run.saver.newest_step or run.log is None
    where = (
        ""
        if is_saved
        else f", which could not be saved (the newest checkpoint is of {run.saver.newest_step})"
    )
    return Stopped(
        f"stopped at step {run.step} of {run.config.total_steps}{where}; go on with --resume.",
        number,
    )


def _finish(run: Run, signals: StopSignals) -> Path:
    """Write RUN/model, the one thing whose failing ends a run; every rank calls it."""
    _end_writing(run, signals)
    _gather_whole(run)

    def write() -> None:
        if run.log is None:
            return
        if run.num_skipped:
            print(
                f"{run.num_skipped:,} of {run.num_samples:,} samples could not be used and were "
                f"replaced; they are in {run.folder / 'skipped.jsonl'}",
                file=sys.stderr,
            )
        trained_on = (
            f"Trained for {run.step} steps with unimodal on "
            f"{describe_seen(run.dataset, run.step)}."
        )
        card = _card(run.whole, trained_on, run.log.last_validation())
        try:
            native.save(
                run.folder / "model", run.whole, run.tokenizer, card, overwrite=True
            )
        except OSError as error:
            raise OSError(
                f"the model could not be written to {run.folder / 'model'} ({error}); "
                + (
                    f"the newest checkpoint is {run.saver.newest}: "
                    if run.saver.newest
                    else "no checkpoint could be: "
                )
                + "make room and go on with --resume."
            ) from error

    on_main(write, run.config.timeout)
    distributed.barrier()
    return run.folder / "model"


def _end_writing(run: Run, signals: StopSignals) -> None:
    run.saver.close(signals.should_stop)
    for said in run.saver.failures():
        _note(run, said)
    if run.log is not None:
        run.log.close(run.step)


def _gather_whole(run: Run, *, everywhere: bool = False) -> None:
    if run.whole is not run.model:
        with distributed.waiting_for_peers("gathering the weights"):
            gather_weights(run.model, run.whole, everywhere=everywhere)


def _describe_nonfinite(run: Run, count: int, batches: list[Batch]) -> str:
    batch = batches[-1]
    more = f" and {len(batch.keys) - 8:,} more" if len(batch.keys) > 8 else ""
    overrides = start_from(run.folder, run.config, run.step - count)
    return (
        f"loss or gradient was not finite in {count} steps in a row, the last being step "
        f"{run.step} (task {batch.place.task!r}, source {batch.place.source!r}, samples "
        f"{', '.join(batch.keys[:8])}{more}); nothing was updated in them: look at the samples "
        f"in {run.folder / 'nonfinite.jsonl'}, or start a run with a lower "
        f"optim.lr{f' from the last checkpoint before them ({overrides})' if overrides else ''}."
    )


def _learning_rate(stages: list[Stage], step: int) -> float:
    number, stage_step = place_of(stages, step)
    return learning_rate(stages[number].optim, stage_step, stages[number].steps)


def _dropout_seed(seed: int, step: int) -> int:
    """Dropout depends on (seed, step, rank) alone, so a checkpoint needs no generator state."""
    return int(generator(seed, step, distributed.rank(), "dropout").integers(2**62))


def _embedder(
    model: DualEncoder, tokenizer: Tokenizer, device: torch.device
) -> Embedder:
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    return Embedder(model, tokenizer, device=str(device), dtype=dtype)


def _card(model: DualEncoder, trained_on: str, scores: Mapping[str, float]) -> str:
    named = [(*name.rsplit(" ", 1), value) for name, value in scores.items()]
    rows = [
        {"task": f"{task} (validation)", "metric": metric, "value": value}
        for task, metric, value in named
    ]
    return model_card(model.config, count_parameters(model), rows, trained_on)
