"""Commands that change weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import Overrides, say

if TYPE_CHECKING:
    from unimodal.embedder import Embedder
    from unimodal.eval.data.datasets import TaskData
    from unimodal.training.config import SourceConfig, TrainConfig
    from unimodal.training.loop import Evaluate


def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="Go on from the newest checkpoint of the run, if there is one.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Remove the run's folder first.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Check the recipe and print what would happen.")] = False,
) -> None:
    """Train a model by a recipe; `torchrun --nproc-per-node N -m unimodal train ...` uses N processes."""
    from unimodal.config import read_config
    from unimodal.training.config import TrainConfig

    config = read_config(TrainConfig, recipe, overrides or [])
    if dry_run:
        _print_plan(config)
        return
    say(f"model in {run_training_by(config, resume=resume, overwrite=overwrite)}")


def plot(run: Annotated[Path, typer.Argument(help="The folder of a run.")]) -> None:
    """Draw the curves of a run into RUN/plots.png."""
    from unimodal.training.plot import plot_run

    say(f"curves in {plot_run(run)}")


def run_training_by(config: TrainConfig, *, resume: bool, overwrite: bool = False) -> Path:
    from unimodal.training.loop import Stopped
    from unimodal.training.loop import train as run_training

    try:
        evaluate, load = _evaluator(config)
        model: Path = run_training(config, evaluate=evaluate, load=load, resume=resume, overwrite=overwrite)
    except Stopped as stopped:
        say(str(stopped))
        raise typer.Exit(128 + stopped.signal) from None  # as a shell says that a signal ended a process
    except KeyboardInterrupt:  # before training looks after signals
        raise typer.Exit(130) from None
    return model


def _evaluator(config: TrainConfig) -> tuple[Evaluate, Callable[[], None]] | tuple[None, None]:
    """Validation during training: scores by "task metric" of the suite that the recipe names, and what loads it."""
    if config.eval is None:
        return None, None
    from unimodal.config import nearest
    from unimodal.eval.evaluate import evaluate as score
    from unimodal.eval.evaluate import rows_of
    from unimodal.eval.suites import load_tasks, read_suite

    settings, suite = config.eval, read_suite(config.eval.suite)
    for name in settings.tasks:
        if name not in suite.tasks:
            raise ValueError(f"eval.tasks: {name!r} is not in suite {settings.suite!r}; {nearest(name, suite.tasks)}")
    left_out = [f"tasks.{name}=null" for name in suite.tasks if settings.tasks and name not in settings.tasks]
    suite = read_suite(settings.suite, left_out)
    root = Path(settings.data_root or config.data_root)
    loaded: dict[str, TaskData] = {}

    def load() -> None:  # what is missing is said before the first step, not at the first validation
        loaded.update(load_tasks(suite, root, settings.split))

    def validate(embedder: Embedder, should_stop: Callable[[], bool]) -> Mapping[str, float | None]:
        options = {"split": settings.split, "tasks": loaded, "validation": True, "should_stop": should_stop}
        rows = rows_of(score(embedder, suite, root, **options))
        return {f"{row.task} {row.metric}": row.value for row in rows if row.value is not None or row.is_undefined}

    return validate, load


def _print_plan(config: TrainConfig) -> None:
    """What a run would do, from the recipe alone: no data, no model and no torch is needed."""
    from rich.table import Table

    from unimodal.progress import open_console
    from unimodal.yaml_text import dump_yaml

    tasks = [(stage, name, task) for stage in config.plan for name, task in stage.tasks.items()]
    table = Table("task", *(name for _, name, _ in tasks), show_lines=False)
    rows: dict[str, list[str]] = {
        "stage": [f"{stage.name}, {stage.steps:,} steps, {stage.schedule}" for stage, _, _ in tasks],
        "share": [f"{task.share:g}" for _, _, task in tasks],
        "global_batch": [f"{task.global_batch:,} in {task.num_streams} streams" for _, _, task in tasks],
        "max_length": [f"{task.max_length}" for _, _, task in tasks],
        "loss": [task.loss for _, _, task in tasks],
        "temperature": [("from " if task.learns_temperature else "") + f"{task.start_temperature:g}"
                        for _, _, task in tasks],
        "sources": ["\n".join(f"{source}, weight {at.weight:g}{_what_is_missing(config, at)}"
                              for source, at in task.sources.items()) for _, _, task in tasks],
    }  # fmt: skip
    for key, values in rows.items():
        table.add_row(key, *values)
    print(dump_yaml(config.model_dump(mode="json", exclude_defaults=True)))
    open_console().print(table)


def _what_is_missing(config: TrainConfig, source: SourceConfig) -> str:
    """Of shards on this machine; what lies elsewhere is not asked for."""
    from unimodal.shards.find import below, find_shards
    from unimodal.shards.storage import is_remote

    for path in (below(config.data_root, path) for path in source.paths):
        try:
            if not is_remote(path):
                find_shards(path)
        except ValueError:
            return f" ({path} is not there)"
    return ""
