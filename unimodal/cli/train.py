"""Commands that change weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Overrides, say

if TYPE_CHECKING:
    from unimodal.encoder import Encoder
    from unimodal.eval.data.task_data import TaskData
    from unimodal.eval.suites import Suite
    from unimodal.training.config import EvalConfig, Stage, TrainConfig
    from unimodal.training.data.check import FoundSource
    from unimodal.training.loop import Evaluate


def train(
    recipe: Annotated[
        str,
        typer.Argument(help="Train by a YAML file, or a shipped recipe by its name."),
    ],
    overrides: Overrides = None,
    resume: Annotated[
        bool,
        typer.Option(
            help="Resume from the newest checkpoint of the run, if there is one."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option(help="Remove the run's folder first.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Check the recipe and print what would happen.")
    ] = False,
) -> None:
    """Train a model by a recipe; on N GPUs: `torchrun --nproc-per-node N -m unimodal train`."""
    from unimodal.config import read_config
    from unimodal.training.config import TrainConfig

    config = read_config(TrainConfig, recipe, overrides or [])
    if dry_run:
        _print_plan(config)
        return
    say(f"model in {run_training_by(config, resume=resume, overwrite=overwrite)}")


def plot(
    run: Annotated[Path, typer.Argument(help="Read the log of this run's folder.")],
) -> None:
    """Plot the curves of a run to RUN/plots.png."""
    from unimodal.training.run.plot import plot_run

    say(f"curves in {plot_run(run)}")


def run_training_by(
    config: TrainConfig, *, resume: bool, overwrite: bool = False
) -> Path:
    from unimodal.training.loop import Stopped
    from unimodal.training.loop import train as run_training

    try:
        evaluate, load = _evaluator(config)
        model: Path = run_training(
            config, evaluate=evaluate, load=load, resume=resume, overwrite=overwrite
        )
    except Stopped as stopped:
        say(str(stopped))
        # As a shell reports that a signal ended a process.
        raise typer.Exit(128 + stopped.signal) from None
    except KeyboardInterrupt:  # before training looks after signals
        raise typer.Exit(130) from None
    return model


def _evaluator(
    config: TrainConfig,
) -> tuple[Evaluate, Callable[[], None]] | tuple[None, None]:
    """Return the validation of a run, and what loads its data.

    The scores are called "task metric", of the suite that the recipe names.
    """
    if config.eval is None:
        return None, None
    from unimodal.config import nearest
    from unimodal.eval.evaluate import evaluate as score
    from unimodal.eval.evaluate import score_names
    from unimodal.eval.results import rows_of
    from unimodal.eval.suites import load_tasks

    settings = config.eval
    suite = _read_suite(config.eval)
    root = Path(settings.data_root or config.data_root)
    loaded: dict[str, TaskData] = {}

    def load() -> None:
        # What is missing is reported before the first step, not at the first validation.
        loaded.update(load_tasks(suite, root, settings.split))
        names = score_names(suite, loaded)
        if settings.best and settings.best not in names:
            raise ValueError(
                f"eval.best {settings.best!r} is not a validation score; "
                f"{nearest(settings.best, names)}"
            )

    def validate(
        encoder: Encoder, should_stop: Callable[[], bool]
    ) -> Mapping[str, float | None]:
        results = score(
            encoder,
            suite,
            root,
            split=settings.split,
            tasks=loaded,
            validation=True,
            should_stop=should_stop,
        )
        return {
            f"{row.task} {row.metric}": row.value
            for row in rows_of(results)
            if row.value is not None or row.is_undefined
        }

    return validate, load


def _read_suite(settings: EvalConfig) -> Suite:
    """Read the suite of the validation, with the tasks that the recipe names.

    Raises ValueError for a suite, a task or a best score that is not there.
    """
    from unimodal.config import nearest
    from unimodal.eval.suites import read_suite

    suite = read_suite(settings.suite)
    for name in settings.tasks:
        if name not in suite.tasks:
            raise ValueError(
                f"eval.tasks: {name!r} is not in suite {settings.suite!r}; "
                f"{nearest(name, suite.tasks)}"
            )
    left_out = [
        f"tasks.{name}=null"
        for name in suite.tasks
        if settings.tasks and name not in settings.tasks
    ]
    suite = read_suite(settings.suite, left_out)
    if settings.best:
        row, _, metric = settings.best.rpartition(" ")
        if not row or not metric:
            raise ValueError(
                f"eval.best {settings.best!r} is not a task and a metric; write for example "
                f"'{next(iter(suite.tasks))} ndcg_at_10'."
            )
        suite.task_of(row)
    return suite


def _print_plan(config: TrainConfig) -> None:
    """Print what a run would do, from the recipe and the sidecars of shards alone.

    No data, no model and no torch is needed. Raises ValueError for what a run would be refused for.
    """
    from rich.table import Table

    from unimodal.progress import open_console
    from unimodal.training.data.check import check_data
    from unimodal.training.model_check import check_start
    from unimodal.yaml_text import dump_yaml

    check_start(config)
    world_size = os.environ.get("WORLD_SIZE")
    found = check_data(config, int(world_size) if world_size else None)
    tasks = [
        (number, name, task)
        for number, stage in enumerate(config.plan)
        for name, task in stage.tasks.items()
    ]
    sources = []
    for number, name, task in tasks:
        lines = [
            f"{source}, weight {at.weight:g}{_describe_found(found[number, name, source])}"
            for source, at in task.sources.items()
        ]
        sources.append("\n".join(lines))
    table = Table("task", *(name for _, name, _ in tasks), show_lines=False)
    rows: dict[str, list[str]] = {
        "stage": [_describe_stage(config.plan[number]) for number, _, _ in tasks],
        "share": [f"{task.share:g}" for _, _, task in tasks],
        "global_batch": [
            f"{task.global_batch:,} in {task.num_streams} streams"
            for _, _, task in tasks
        ],
        "processes": [_divisors(task.num_streams) for _, _, task in tasks],
        "max_length": [f"{task.max_length}" for _, _, task in tasks],
        "loss": [task.loss for _, _, task in tasks],
        "temperature": [
            ("from " if task.learns_temperature else "") + f"{task.start_temperature:g}"
            for _, _, task in tasks
        ],
        "sources": sources,
    }
    for key, values in rows.items():
        table.add_row(key, *values)
    validation = _describe_validation(config)
    print(dump_yaml(config.model_dump(mode="json", exclude_defaults=True)))
    open_console().print(table)
    if validation:
        print(validation)


def _describe_stage(stage: Stage) -> str:
    return f"{stage.name}, {stage.steps:,} steps, {stage.schedule}"


def _divisors(number: int) -> str:
    """The numbers of processes that can share this number of streams."""
    return ", ".join(
        str(count) for count in range(1, number + 1) if number % count == 0
    )


def _describe_found(found: FoundSource) -> str:
    if found.missing:
        return f" ({found.missing} is not there)"
    return "" if found.num_samples is None else f", {found.num_samples:,} samples"


def _describe_validation(config: TrainConfig) -> str:
    """The tasks of the validation, and what they lack on this machine."""
    if config.eval is None:
        return ""
    from unimodal.eval.suites import missing_of

    suite = _read_suite(config.eval)
    root = Path(config.eval.data_root or config.data_root)
    missing = {lack.task for lack in missing_of(suite, root, config.eval.split)}
    names = (
        f"{name} (not below {root})" if name in missing else name
        for name in suite.tasks
    )
    return f"validation every {config.eval.every:,} steps: {', '.join(names)}"
