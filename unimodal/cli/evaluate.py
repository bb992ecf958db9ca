"""Commands that put a number on a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... [KEY=VALUE]...",
            help="Model directories, hub ids, open_clip:NAME[/TAG] or hf:NAME; then "
            "values laid over the suite (tasks.NAME=null leaves one out).",
        ),
    ],
    suite: Annotated[str, typer.Option(help="A shipped suite (mini, demo) or a YAML file.")] = "mini",
    data: Annotated[Path, typer.Option(help="The folder that the suite's files are relative to.")] = Path("."),
    split: Annotated[str, typer.Option(help="val to choose, test to report.")] = "test",
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the rows there.")] = None,
    device: Annotated[str | None, typer.Option(help="Default: a GPU where there is one.")] = None,
) -> None:
    """Score models on a suite: one table, chance and BM25 beside every number."""
    from rich.console import Console

    from unimodal.embedder import load
    from unimodal.eval.evaluate import evaluate as score
    from unimodal.eval.evaluate import rows_of
    from unimodal.eval.report import results_table, write_json
    from unimodal.eval.suites import read_suite

    overrides = [word for word in models if "=" in word]
    models = [word for word in models if "=" not in word]
    if not models:
        raise ValueError("no model to score; give a model directory, a hub id, open_clip:NAME[/TAG] or hf:NAME.")
    tasks, bars = read_suite(suite, overrides), sys.stderr.isatty()
    encoders = (load(model, device=device) for model in models)
    scored = [rows_of(score(encoder, tasks, data, split=split, show_progress=bars)) for encoder in encoders]
    results = dict(zip(_short_names(models), scored, strict=True)) if len(models) > 1 else scored[0]
    Console().print(results_table(results, f"{suite}, {split}"))
    if json_file is not None:
        write_json(results, json_file)


def _short_names(models: list[str]) -> list[str]:
    """The last parts of the paths, as many as it takes to tell them apart; RUN/model is named by its run."""
    parts = [model.rstrip("/").removesuffix("/model").split("/") for model in models]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return models
