"""What a run writes of its model: checkpoints while it trains, and a model when it ends."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from unimodal import distributed
from unimodal.formats import native
from unimodal.formats.card import count_parameters, model_card
from unimodal.model import DualEncoder

from .data.collate import Batch
from .main_rank import on_main
from .run.ledger import describe_seen, write_ledger
from .run.moments import moments_of
from .run.resume import RunState, start_from
from .run.saving import Snapshot
from .run.stopping import Stopped, StopSignals
from .setup import Run
from .sharding import copy_weights, gather_weights

_SHOWN_KEYS = 8  # samples that a message names


def save(run: Run) -> None:
    """Copy all that changes and start to write it; every rank calls it."""
    run.saver.wait()  # one checkpoint at a time
    state = RunState(
        step=run.step,
        num_skipped=run.num_skipped,
        num_samples=run.num_samples,
        shards=run.dataset.fingerprints(),
        mixtures=run.dataset.plan.state(),
        changes=run.changes,
        log=run.log.state(),
    )
    if run.is_main:
        _write_ledger(run)
    card = model_card(run.model.config, count_parameters(run.model))

    spare = run.saver.spare
    spare_weights = spare.weights if spare is not None else {}
    spare_moments = spare.moments.tensors if spare is not None else {}
    with distributed.waiting_for_peers("copying a checkpoint"):
        weights = copy_weights(run.model, spare_weights)
        moments = moments_of(run.model, run.optimizer, spare_moments)
    run.saver.save(Snapshot(run.model.config, weights, moments, state, card))


def _write_ledger(run: Run) -> None:
    try:
        write_ledger(run.folder, run.dataset, run.step, run.num_skipped, run.changes)
    except OSError as error:
        run.log.note_failure(
            f"the ledger could not be written ({error}); training continues."
        )


def stop(run: Run, number: int, signals: StopSignals) -> Stopped:
    """Save the last step; returns the exception for a signal. Every rank calls it."""
    run.saver.abandon(run.step)
    run.saver.wait()
    if distributed.all_reduce_sum([not _is_saved(run)])[0]:
        save(run)
    _end_writing(run, signals)
    where = ""
    if not _is_saved(run):
        newest = run.saver.newest_step
        where = f", which could not be saved (the newest checkpoint is of {newest})"
    steps = f"step {run.step} of {run.config.total_steps}"
    message = f"stopped at {steps}{where}; continue with --resume."
    return Stopped(message, number)


def _is_saved(run: Run) -> bool:
    """Whether the last step is saved; rank 0 alone knows."""
    return not run.is_main or run.step == run.saver.newest_step


def finish(run: Run, signals: StopSignals) -> Path:
    """Write RUN/model, which alone ends a run if it fails; every rank calls it."""
    _end_writing(run, signals)
    gather_whole(run)
    on_main(lambda: _write_model(run), run.config.timeout)
    distributed.barrier()
    return run.folder / "model"


def _write_model(run: Run) -> None:
    if run.num_skipped:
        skipped = run.folder / "skipped.jsonl"
        message = (
            f"{run.num_skipped:,} of {run.num_samples:,} samples were corrupt and were replaced; "
            f"they are listed in {skipped}"
        )
        print(message, file=sys.stderr)
    seen = describe_seen(run.dataset, run.step)
    trained_on = f"Trained for {run.step} steps with unimodal on {seen}."
    card = describe_model(run.whole, trained_on, run.log.last_validation())
    folder = run.folder / "model"
    try:
        native.save(folder, run.whole, run.tokenizer, card, overwrite=True)
    except OSError as error:
        newest = run.saver.newest
        state = (
            f"the newest checkpoint is {newest}" if newest else "there is no checkpoint"
        )
        raise OSError(
            f"the model could not be written to {folder} ({error}); {state}: make room and resume "
            "with --resume."
        ) from error


def _end_writing(run: Run, signals: StopSignals) -> None:
    run.saver.close(signals.should_stop)
    for failure in run.saver.failures():
        run.log.note_failure(failure)
    run.log.close(run.step)


def gather_whole(run: Run, *, everywhere: bool = False) -> None:
    """Fill the whole copy of sharded weights, on rank 0 or on every rank; every rank calls it."""
    if run.whole is not run.model:
        with distributed.waiting_for_peers("gathering the weights"):
            gather_weights(run.model, run.whole, everywhere=everywhere)


def describe_nonfinite(run: Run, count: int, batches: list[Batch]) -> str:
    """A message about the last `count` steps, whose loss or gradient was not finite."""
    batch = batches[-1]
    samples = ", ".join(batch.keys[:_SHOWN_KEYS])
    if len(batch.keys) > _SHOWN_KEYS:
        samples += f" and {len(batch.keys) - _SHOWN_KEYS:,} more"
    overrides = start_from(run.folder, run.config, run.step - count)
    origin = f" from the last checkpoint before them ({overrides})" if overrides else ""
    return (
        f"loss or gradient was not finite in {count} steps in a row, the last being step "
        f"{run.step} (task {batch.place.task!r}, source {batch.place.source!r}, samples "
        f"{samples}); nothing was updated in them: look at the samples in "
        f"{run.folder / 'nonfinite.jsonl'}, or start a run with a lower optim.lr{origin}."
    )


def describe_model(
    model: DualEncoder, trained_on: str, scores: Mapping[str, float]
) -> str:
    """A model card with validation scores, by "task metric"."""
    rows = []
    for name, value in scores.items():
        task, metric = name.rsplit(" ", 1)
        rows.append({"task": f"{task} (validation)", "metric": metric, "value": value})
    return model_card(model.config, count_parameters(model), rows, trained_on)
