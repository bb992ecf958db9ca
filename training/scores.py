"""The scores of a run on validation: when they are due, where they go, and the best model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from unimodal.embedder import Embedder
from unimodal.encoder import Encoder
from unimodal.formats import native

from .ending import describe_model, gather_whole
from .main_rank import stop_requested
from .run.stopping import StopSignals
from .setup import Run
from .sharding import empty
from .validation import validate


class Evaluate(Protocol):
    """What the command line hands over: scores of a model, by name; None is undefined."""

    def __call__(
        self, encoder: Encoder, should_stop: Callable[[], bool], /
    ) -> Mapping[str, float | None]: ...


def validate_run(run: Run, evaluate: Evaluate | None, signals: StopSignals) -> int:
    """Score the model if that is due and not done yet; every rank calls it.

    Returns the signal that asked to stop meanwhile, or 0.
    """
    if evaluate is None or not _is_due(run):
        return 0

    def should_stop() -> bool:
        return signals.should_stop() or stop_requested()

    def score(encoder: Encoder) -> None:
        if run.log.has_validated(run.step):
            return
        start = time.perf_counter()
        scores = evaluate(encoder, should_stop)
        seconds = time.perf_counter() - start
        if not should_stop():  # the resumed run repeats a validation that was cut short
            _keep_scores(run, scores, seconds)

    gather_whole(run, everywhere=True)
    validate(_embedder(run), score, run.config.timeout, signals.should_stop)
    if run.whole is not run.model:  # the device's memory is for the shards
        if run.is_main:
            run.whole.cpu()
        else:
            empty(run.whole)
    return signals.agree()


def _is_due(run: Run) -> bool:
    settings = run.config.eval
    if settings is None or run.step == 0:
        return False
    return run.step % settings.every == 0 or run.step == run.config.total_steps


def _embedder(run: Run) -> Embedder:
    dtype = str(next(run.whole.parameters()).dtype).removeprefix("torch.")
    return Embedder(run.whole, run.tokenizer, device=str(run.device), dtype=dtype)


def _keep_scores(run: Run, scores: Mapping[str, float | None], seconds: float) -> None:
    """Log the scores that are defined, and keep the model if it is the best so far."""
    known = {name: score for name, score in scores.items() if score is not None}
    _keep_best(run, scores, known)
    values = {f"val/{name}": score for name, score in known.items()}
    run.log.append({"step": run.step, **values, "validation_seconds": seconds})


def _keep_best(
    run: Run, scores: Mapping[str, float | None], known: Mapping[str, float]
) -> None:
    assert run.config.eval is not None
    best = run.config.eval.best
    if not best:
        return
    if best not in scores:
        names = ", ".join(sorted(scores))
        raise ValueError(
            f"eval.best {best!r} is not a validation score; use one of {names}."
        )
    if best not in known:
        run.log.note_failure(
            f"eval.best {best!r} is undefined at step {run.step}, so this model is not compared "
            "with others."
        )
        return
    is_better = known[best] > run.log.best_validation(best)  # False for NaN
    if not is_better:
        return
    trained_on = (
        f"Step {run.step}: {best} {known[best]:.3f}, the highest on validation."
    )
    card = describe_model(run.whole, trained_on, known)
    try:
        native.save(run.folder / "best", run.whole, run.tokenizer, card, overwrite=True)
    except OSError as error:
        run.log.note_failure(
            f"the best model, of step {run.step}, could not be written ({error}); training "
            "continues."
        )
