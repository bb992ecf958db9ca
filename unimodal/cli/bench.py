"""The command that runs benchmarks."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .outputs import check_outputs

if TYPE_CHECKING:
    from unimodal.compare import BenchRow

_BENCHES = {
    "loss": ("unimodal.training.speed.loss", "bench_loss"),
    "step": ("unimodal.training.speed.step", "bench_step"),
    "data": ("unimodal.training.speed.data", "bench_data"),
    "eval": ("unimodal.eval.speed", "bench_eval"),
    "search": ("unimodal.eval.speed.search", "bench_search"),
    "serve": ("unimodal.eval.speed.serving", "bench_serve"),
}


def bench(
    name: Annotated[
        str, typer.Argument(help="Run loss, step, data, eval, search or serve.")
    ],
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Take the median of this many rounds; default: loss 5, others 3.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Use this many torch threads; default: step and data 1, others torch's.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the rows to this file.")
    ] = None,
) -> None:
    """Benchmark training, evaluation, search or the server against peer libraries."""
    from unimodal.compare import rows_table, write_json
    from unimodal.progress import open_console

    run = _find_bench(name)
    check_outputs({"--json": json_file})  # it would be written after minutes
    options = {"rounds": rounds, "threads": threads}
    given = {key: value for key, value in options.items() if value is not None}
    rows = run(**given)
    open_console().print(rows_table(rows, f"bench {name}"))
    if json_file is not None:
        write_json(rows, json_file)


def _find_bench(name: str) -> Callable[..., list[BenchRow]]:
    from unimodal.config import nearest

    if name not in _BENCHES:
        raise ValueError(f"there is no bench {name!r}; {nearest(name, _BENCHES)}")
    module, function = _BENCHES[name]
    run: Callable[..., list[BenchRow]] = getattr(
        importlib.import_module(module), function
    )
    return run
