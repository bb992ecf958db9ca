"""What an evaluation found, as a table in the terminal and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from unimodal.progress import open_console

from ..scoring.results import Row
from .layout import (
    SECTIONS,
    Comparisons,
    Line,
    best_of,
    changes_of,
    difference_said,
    dims_of,
    half_interval,
    is_score,
    languages_of,
    lines_of,
    main_metrics,
    notes_of,
    number,
    section_of,
    signed,
    sure_lines,
    value_text,
    variant_groups,
    variants_of,
)

Key: TypeAlias = tuple[str, str, str]  # task, metric and model
Cells: TypeAlias = Mapping[Key, Row]
Results: TypeAlias = (
    Sequence[Row] | Mapping[str, Sequence[Row]]
)  # of one model, or by the name of each model


TITLES = "dimensions", "changed vectors and inputs"  # of the tables of variants


def results_table(
    results: Results,
    title: str = "",
    *,
    halves: Mapping[str, str] | None = None,
    comparisons: Comparisons | None = None,
    width: int | None = None,
) -> Group:
    """The scores: one table with a line for each task and metric and a column for each model, and
    one of variants.

    The best model of a line is bold; ± is the further end of the 95 % interval, left out where it
    does not fit. Below stands why a score is undefined, and what of a task's data its scores leave
    out.

    halves: task -> which half of the space it is about (`halves_of`); the table gets a section for
        each.
    comparisons: model -> `eval.scoring.statistics.compare` of the first model and it; what differs
        is marked with a *.
    width: columns to fit into; None: those of the terminal, and without a limit where there is
        none.
    """
    models = by_model(results)
    width = width or open_console().width
    sure = sure_lines(comparisons or {})
    for with_intervals in (True, False):
        table = _score_table(models, title, halves or {}, sure, with_intervals)
        if Console(width=10_000).measure(table).minimum <= width:
            break
    notes = _notes(models)
    return Group(
        table, *_language_tables(models), *_variant_tables(models, width), *notes
    )


def results_json(
    results: Results, facts: Mapping[str, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Rows of {task, metric, value, chance, baseline}, and low, high, variant, num and note where
    they are set.

    The value is null where it is undefined; the note says why.

    facts: model -> what is true of all its rows ({"fingerprint": ..., "suite": ..., "split": ...}),
        said in each of them, so that rows of several files can be laid together. With several
        models, or with facts, each row also has its `model`.
    """
    models = by_model(results)
    named = isinstance(results, Mapping)
    return [
        {
            **({"model": name} if named else {}),
            **_plain(row),
            **(facts or {}).get(name, {}),
        }
        for name, rows in models.items()
        for row in rows
    ]


def write_json(
    results: Results, file: Path, facts: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Write the rows as a JSON list; the folder is made if need be. facts: as for
    `results_json`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        results_json(results, facts), indent=1, ensure_ascii=False, allow_nan=False
    )
    file.write_text(text + "\n", encoding="utf-8")


def by_model(results: Results) -> dict[str, Sequence[Row]]:
    """The rows by the name of their model; one model alone has the name ""."""
    return dict(results) if isinstance(results, Mapping) else {"": results}


def _notes(models: Mapping[str, Sequence[Row]]) -> list[Text]:
    """What is said below the tables: once, where it is true of all models."""
    found: dict[tuple[str, str], list[str]] = {}
    for model, rows in models.items():
        for place, note in notes_of(rows).items():
            found.setdefault((place, note), []).append(model)
    lines = []
    for (place, note), names in found.items():
        whose = "" if len(names) == len(models) else f" ({', '.join(names)})"
        lines.append(Text(f"{place}{whose}: {note}", style="dim"))
    return lines


def _plain(row: Row) -> dict[str, Any]:
    empty = {"low": None, "high": None, "variant": "", "num": None, "note": ""}
    left_out = [
        name for name, nothing in empty.items() if getattr(row, name) == nothing
    ]
    return {
        name: value
        for name, value in dataclasses.asdict(row).items()
        if name not in left_out
    }


def _score_table(
    models: Mapping[str, Sequence[Row]],
    title: str,
    halves: Mapping[str, str],
    sure: Mapping[str, set[Line]],
    with_intervals: bool,
) -> Table:
    table = Table(
        title=title or None,
        box=box.SIMPLE_HEAD,
        header_style="bold",
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for name in ("chance", "BM25"):
        table.add_column(name, justify="right", style="dim", no_wrap=True)
    lines = lines_of(models)
    for line in _in_sheets(lines):
        del lines[line]
    cells = {
        line: _score_cells(line, lines[line], models, sure, with_intervals)
        for line in lines
    }
    for column, name in enumerate(models, start=2):
        widest = max((len(row[column]) for row in cells.values()), default=0)
        table.add_column(
            name or "model", justify="right", overflow="fold", min_width=widest
        )
    sections = {line: section_of(line, halves) for line in lines}
    used = [name for name in SECTIONS if name in sections.values()]
    for section in used:
        if len(used) > 1:
            table.add_row(Text(SECTIONS[section], style="bold underline"))
        inside = [line for line in lines if sections[line] == section]
        for place, line in enumerate(inside):
            is_last = place + 1 == len(inside)
            task = line[0] if place == 0 or inside[place - 1][0] != line[0] else ""
            table.add_row(
                task,
                line[1],
                *cells[line],
                end_section=is_last or inside[place + 1][0] != line[0],
            )
    if any(sure.values()):
        table.caption = Text(
            f"* {difference_said(next(iter(models)))}", style="table.caption"
        )
        table.caption_justify = "left"
    return table


def _score_cells(
    line: Line,
    cells: Mapping[str, Row],
    models: Iterable[str],
    sure: Mapping[str, set[Line]],
    with_intervals: bool,
) -> list[Text]:
    known = next(iter(cells.values()))
    best = best_of(line[1], (row.value for row in cells.values()))
    texts = [Text(number(known.chance)), Text(number(known.baseline))]
    for name in models:
        row = cells.get(name)
        value = None if row is None else row.value
        text = Text(
            value_text(row), style="bold" if value is not None and value == best else ""
        )
        if any(sure.values()):
            text.append("*" if line in sure.get(name, ()) else " ")
        if (
            with_intervals
            and row is not None
            and row.value is not None
            and row.low is not None
        ):
            text.append(f" {half_interval(row)}", style="dim not bold")
        texts.append(text)
    return texts


def _in_sheets(lines: Iterable[Line]) -> list[Line]:
    sheets = languages_of(lines).values()
    return [
        line
        for sheet in sheets
        for columns in sheet.values()
        for line in columns.values()
    ]


def _language_tables(models: Mapping[str, Sequence[Row]]) -> list[Table]:
    """A line for each language, the first metric of each direction by each model."""
    lines = lines_of(models)
    tables = []
    for name, sheet in languages_of(lines).items():
        columns: dict[str, str] = {}
        for column, (_, metric) in (
            (column, line) for cells in sheet.values() for column, line in cells.items()
        ):
            columns.setdefault(column.removesuffix(metric), column)
        table = Table(
            title=name,
            box=box.SIMPLE_HEAD,
            header_style="bold",
            title_justify="left",
            padding=(0, 1, 0, 0),
        )
        table.add_column("language")
        for column in columns.values():
            for model in models:
                table.add_column(
                    f"{column} {model}".strip(), justify="right", overflow="fold"
                )
        for language, cells in sheet.items():
            found = [
                lines[cells[column]] if column in cells else {}
                for column in columns.values()
            ]
            table.add_row(
                language, *(_value_of(row, model) for row in found for model in models)
            )
        tables.append(table)
    return tables


def _value_of(cells: Mapping[str, Row], model: str) -> str:
    return value_text(cells.get(model))


def _variant_tables(models: Mapping[str, Sequence[Row]], width: int) -> list[Table]:
    """Dimensions in one table, all else in others: a line for each task's first metric, a column a
    variant.
    """
    lines = lines_of(models)
    main = main_metrics(lines)
    variants = {
        name: {
            key: row
            for key, row in cells.items()
            if main.get(key[0], key[1]) == key[1] or not is_score(key[1])
        }
        for name, cells in variants_of(models).items()
    }
    changes = changes_of(models)
    tables = []
    for place, names in enumerate(
        [[name for name in variants if dims_of(name)], *variant_groups(variants)]
    ):
        keys = _keys(names, variants, models)
        cells = {
            name: _varied_cells(name, keys, variants[name], changes.get(name, {}))
            for name in names
        }
        for portion, part in enumerate(_fitting(cells, keys, width)):
            title = TITLES[place] if place < len(TITLES) and portion == 0 else None
            tables.append(
                _variant_table(title, {name: cells[name] for name in part}, keys, lines)
            )
    return tables


def _keys(
    names: Sequence[str], variants: Mapping[str, Cells], models: Iterable[str]
) -> list[Key]:
    """(task, metric, model) of all that was varied so, models beneath each other."""
    found = dict.fromkeys(key[:2] for name in names for key in variants[name])
    keys = [(task, metric, model) for task, metric in found for model in models]
    return [key for key in keys if any(key in variants[name] for name in names)]


def _varied_cells(
    variant: str, keys: Sequence[Key], rows: Cells, changes: Mapping[Key, float]
) -> dict[Key, Text]:
    """A column: scores, and beside each the difference to the same queries' plain score; not of
    dimensions.
    """
    values = {key: value_text(rows.get(key)) for key in keys}
    said = {
        key: signed(changes[key])
        for key in keys
        if key in changes and not dims_of(variant)
    }
    widest = max(map(len, said.values()), default=0)
    cells = {}
    for key, value in values.items():
        cells[key] = Text(value)
        if widest:
            cells[key].append(f" {said.get(key, ''):>{widest}}", style="dim")
    return cells


def _variant_table(
    title: str | None,
    columns: Mapping[str, Mapping[Key, Text]],
    keys: Sequence[Key],
    lines: Mapping[Line, Mapping[str, Row]],
) -> Table:
    table = Table(
        title=title,
        box=box.SIMPLE_HEAD,
        header_style="bold",
        title_justify="left",
        padding=(0, 1, 0, 0),
    )
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    is_named = any(model for _, _, model in keys)
    if is_named:
        table.add_column("model", overflow="fold")
    for name, cells in columns.items():
        table.add_column(
            str(dims_of(name) or name), justify="right", min_width=_width(name, cells)
        )
    plain = {key: lines.get(key[:2], {}).get(key[2]) for key in keys}
    if any(plain.values()):
        table.add_column(
            "all" if dims_of(next(iter(columns))) else "plain",
            justify="right",
            no_wrap=True,
        )
    last: tuple[str, str] = "", ""
    for task, metric, model in keys:
        known = plain[task, metric, model]
        table.add_row(
            "" if task == last[0] else task,
            "" if (task, metric) == last else metric,
            *([model] if is_named else []),
            *(cells[task, metric, model] for cells in columns.values()),
            *([value_text(known)] if any(plain.values()) else []),
        )
        last = task, metric
    return table


def _fitting(
    columns: Mapping[str, Mapping[Key, Text]], keys: Sequence[Key], width: int
) -> list[list[str]]:
    """The names of columns in portions that fit beside task, metric, model and the plain score."""
    if not columns:
        return []
    task, metric, model = (max(map(len, column)) for column in zip(*keys, strict=True))
    left = width - 2 - sum(one + 2 for one in (task, metric, min(model, 12), 5))
    portions: list[list[str]] = [[]]
    for name in columns:
        if (
            portions[-1]
            and sum(_width(one, columns[one]) + 2 for one in [*portions[-1], name])
            > left
        ):
            portions.append([])
        portions[-1].append(name)
    return portions


def _width(variant: str, cells: Mapping[Key, Text]) -> int:
    """Of its column: that of the widest cell, or of the longest word of its name."""
    return max(
        5,
        *map(len, cells.values()),
        *map(len, str(dims_of(variant) or variant).split()),
    )
