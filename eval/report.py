"""What an evaluation found, as a table in the terminal and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich import box
from rich.table import Table
from rich.text import Text

from .results import Row

Results: TypeAlias = Sequence[Row] | Mapping[str, Sequence[Row]]  # of one model, or by the name of each model


def results_table(results: Results, title: str = "") -> Table:
    """A table with a line for each task and metric and a column for each model; the best model of a line is bold."""
    models = _by_model(results)
    table = Table(title=title or None, box=box.SIMPLE_HEAD, header_style="bold", title_justify="left")
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for name in ("chance", "BM25"):
        table.add_column(name, justify="right", style="dim")
    for name in models:
        table.add_column(name or "model", justify="right", overflow="fold")
    lines = _lines(models)
    for number, (key, cells) in enumerate(lines.items()):
        task, metric = key
        first = number == 0 or list(lines)[number - 1][0] != task
        last_of_task = number + 1 < len(lines) and list(lines)[number + 1][0] != task
        known = next(row for row in cells.values())
        values = [cells[name].value if name in cells else None for name in models]
        table.add_row(
            task if first else "",
            metric,
            _number(known.chance),
            _number(known.baseline),
            *(_styled(value, values) for value in values),
            end_section=last_of_task,
        )
    return table


def results_json(results: Results) -> list[dict[str, Any]]:
    """Rows of {task, metric, value, chance, baseline}; with several models each row also has its `model`."""
    if not isinstance(results, Mapping):
        return [dataclasses.asdict(row) for row in results]
    return [{"model": name, **dataclasses.asdict(row)} for name, rows in results.items() for row in rows]


def write_json(results: Results, file: Path) -> None:
    """Write the rows as a JSON list; the folder is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results_json(results), indent=1, ensure_ascii=False, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8")


def _by_model(results: Results) -> dict[str, Sequence[Row]]:
    return dict(results) if isinstance(results, Mapping) else {"": results}


def _lines(models: Mapping[str, Sequence[Row]]) -> dict[tuple[str, str], dict[str, Row]]:
    """(task, metric) -> model -> row, in the order in which they first occur."""
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for name, rows in models.items():
        for row in rows:
            lines.setdefault((row.task, row.metric), {})[name] = row
    return lines


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _styled(value: float | None, values: Sequence[float | None]) -> Text:
    known = [one for one in values if one is not None]
    is_best = len(known) > 1 and value is not None and value == max(known)
    return Text(_number(value), style="bold" if is_best else "")
