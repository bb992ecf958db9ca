"""The benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .outputs import check_outputs

BENCHES = ["loss", "step", "data", "eval", "search", "serve"]


def bench(
    name: Annotated[
        str, typer.Argument(help="loss, step, data, eval, search or serve.")
    ],
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of which the median is taken. Default: loss 5, others 3."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Of torch; 1 counts CPU seconds, more wall time. Default: step and data 1, "
            "others torch's own.",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write the rows there.")
    ] = None,
) -> None:
    """Time what training, evaluation, search and the server do beside what others use, on this
    machine and now.
    """
    from unimodal.compare import rows_table, write_json
    from unimodal.config import nearest
    from unimodal.progress import open_console

    if name == "loss":
        from unimodal.training.speed.loss import bench_loss as run_bench
    elif name == "step":
        from unimodal.training.speed.step import bench_step as run_bench
    elif name == "data":
        from unimodal.training.speed.data import bench_data as run_bench
    elif name == "eval":
        from unimodal.eval.speed import bench_eval as run_bench
    elif name == "search":
        from unimodal.eval.speed.search import bench_search as run_bench
    elif name == "serve":
        from unimodal.eval.speed.serving import bench_serve as run_bench
    else:
        raise ValueError(f"there is no bench {name!r}; {nearest(name, BENCHES)}")
    if json_file is not None:
        check_outputs({"--json": json_file})  # it would be written after minutes
    chosen = {"rounds": rounds, "threads": threads}
    rows = run_bench(
        **{key: value for key, value in chosen.items() if value is not None}
    )
    open_console().print(rows_table(rows, f"bench {name}"))
    if json_file is not None:
        write_json(rows, json_file)
