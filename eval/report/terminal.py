"""The scores of an evaluation as tables in the terminal and as JSON."""

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

from ..scoring.score_row import ScoreRow
from .layout import (
    SECTIONS,
    Comparisons,
    Key,
    Line,
    Lines,
    Variants,
    best_of,
    changes_of,
    dims_of,
    explain_mark,
    format_change,
    format_interval,
    format_number,
    format_value,
    is_score,
    language_lines,
    languages_of,
    lines_of,
    main_metrics,
    notes_of,
    section_of,
    significant_lines,
    variant_groups,
    variant_keys,
    variants_of,
)

# Of one model, or by the name of each model.
Results: TypeAlias = Sequence[ScoreRow] | Mapping[str, Sequence[ScoreRow]]

TITLES = (
    "dimensions",
    "changed vectors and inputs",
)  # of the tables of variants
MIN_COLUMN = 5  # "0.123"
MAX_MODEL_NAME = 12  # a longer name folds when columns are fitted
# Of a row of JSON: these keys are left out if they have these values.
EMPTY_FIELDS = {
    "low": None,
    "high": None,
    "variant": "",
    "num": None,
    "note": "",
}


def results_table(
    results: Results,
    title: str = "",
    *,
    halves: Mapping[str, str] | None = None,
    comparisons: Comparisons | None = None,
    width: int | None = None,
) -> Group:
    """The table of scores, then the tables of languages and variants, then notes.

    A line per task and metric, a column per model. The best model of a line is bold; ± is the
    distance to the further end of the 95 % interval, left out where it does not fit. The notes
    say why a score is undefined and what of a task's data a score leaves out.

    halves: task -> the half of the space that it is about (`halves_of`), each with a section.
    comparisons: model -> `eval.scoring.statistics.compare` of the first model and it; a *
        marks a difference.
    width: columns to fit into; None: those of the terminal, and no limit without one.
    """
    models = by_model(results)
    width = width or open_console().width
    significant = significant_lines(comparisons or {})
    for with_intervals in (True, False):
        table = _score_table(models, title, halves or {}, significant, with_intervals)
        if Console(width=10_000).measure(table).minimum <= width:
            break
    return Group(
        table,
        *_language_tables(models),
        *_variant_tables(models, width),
        *_notes(models),
    )


def results_json(
    results: Results,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Rows of {task, metric, value, chance, baseline}, and low, high, variant, num and note where
    they are set.

    The value is null where it is undefined; the note says why.

    facts: model -> what is true of all its rows ({"fingerprint": ..., "suite": ..., "split": ...}),
        repeated in each row, so that rows of several files can be joined. With several models,
        each row also has its `model`.
    """
    has_names = isinstance(results, Mapping)
    rows = []
    for name, model_rows in by_model(results).items():
        model = {"model": name} if has_names else {}
        model_facts = (facts or {}).get(name, {})
        rows += [{**model, **_plain(row), **model_facts} for row in model_rows]
    return rows


def write_json(
    results: Results,
    file: Path,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write the rows as a JSON list, and make the folder if need be. facts: see `results_json`."""
    rows = results_json(results, facts)
    text = json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n", encoding="utf-8")


def by_model(results: Results) -> dict[str, Sequence[ScoreRow]]:
    """The rows by the name of their model; a single model without a name is ""."""
    return dict(results) if isinstance(results, Mapping) else {"": results}


def _notes(models: Mapping[str, Sequence[ScoreRow]]) -> list[Text]:
    """The notes below the tables; a note that is not true of all models names its models."""
    named: dict[tuple[str, str], list[str]] = {}
    for model, rows in models.items():
        for place, note in notes_of(rows).items():
            named.setdefault((place, note), []).append(model)
    lines = []
    for (place, note), names in named.items():
        whose = "" if len(names) == len(models) else f" ({', '.join(names)})"
        lines.append(Text(f"{place}{whose}: {note}", style="dim"))
    return lines


def _plain(row: ScoreRow) -> dict[str, Any]:
    return {
        name: value
        for name, value in dataclasses.asdict(row).items()
        if name not in EMPTY_FIELDS or value != EMPTY_FIELDS[name]
    }


def _make_table(title: str | None) -> Table:
    return Table(
        title=title,
        box=box.SIMPLE_HEAD,
        header_style="bold",
        title_justify="left",
        padding=(0, 1, 0, 0),
    )


def _score_table(
    models: Mapping[str, Sequence[ScoreRow]],
    title: str,
    halves: Mapping[str, str],
    significant: Mapping[str, set[Line]],
    with_intervals: bool,
) -> Table:
    lines = lines_of(models)
    for line in language_lines(lines):
        del lines[line]
    cells = {
        line: _score_cells(line, lines[line], models, significant, with_intervals)
        for line in lines
    }

    table = _make_table(title or None)
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for name in ("chance", "BM25"):
        table.add_column(name, justify="right", style="dim", no_wrap=True)
    for column, name in enumerate(models, start=2):
        widest = max((len(row[column]) for row in cells.values()), default=0)
        table.add_column(
            name or "model",
            justify="right",
            overflow="fold",
            min_width=widest,
        )

    sections = {line: section_of(line, halves) for line in lines}
    used = [name for name in SECTIONS if name in sections.values()]
    for section in used:
        if len(used) > 1:
            table.add_row(Text(SECTIONS[section], style="bold underline"))
        inside = {line: cells[line] for line in lines if sections[line] == section}
        _add_section(table, inside)

    if any(significant.values()):
        caption = f"* {explain_mark(next(iter(models)))}"
        table.caption = Text(caption, style="table.caption")
        table.caption_justify = "left"
    return table


def _add_section(table: Table, cells: Mapping[Line, Sequence[Text]]) -> None:
    """Add the lines of a section; the name of a task stands in its first line."""
    lines = list(cells)
    for place, line in enumerate(lines):
        task, metric = line
        is_first = place == 0 or lines[place - 1][0] != task
        is_last = place + 1 == len(lines) or lines[place + 1][0] != task
        name = task if is_first else ""
        table.add_row(name, metric, *cells[line], end_section=is_last)


def _score_cells(
    line: Line,
    rows: Mapping[str, ScoreRow],
    models: Iterable[str],
    significant: Mapping[str, set[Line]],
    with_intervals: bool,
) -> list[Text]:
    """Chance, BM25 and the score of each model. rows: model -> row."""
    first = next(iter(rows.values()))
    best = best_of(line[1], (row.value for row in rows.values()))
    texts = [
        Text(format_number(first.chance)),
        Text(format_number(first.baseline)),
    ]
    has_marks = any(significant.values())
    for name in models:
        row = rows.get(name)
        value = None if row is None else row.value
        is_best = value is not None and value == best
        text = Text(format_value(row), style="bold" if is_best else "")
        if has_marks:
            text.append("*" if line in significant.get(name, ()) else " ")
        has_interval = row is not None and value is not None and row.low is not None
        if row is not None and has_interval and with_intervals:
            text.append(f" {format_interval(row)}", style="dim not bold")
        texts.append(text)
    return texts


def _language_tables(
    models: Mapping[str, Sequence[ScoreRow]],
) -> list[Table]:
    """A line for each language, with the first metric of each direction by each model."""
    lines = lines_of(models)
    return [
        _language_table(name, languages, lines, list(models))
        for name, languages in languages_of(lines).items()
    ]


def _language_table(
    name: str,
    languages: Mapping[str, Mapping[str, Line]],
    lines: Lines,
    models: Sequence[str],
) -> Table:
    columns: dict[str, str] = {}  # direction -> "direction metric", of its first metric
    for cells in languages.values():
        for column, (_, metric) in cells.items():
            columns.setdefault(column.removesuffix(metric), column)

    table = _make_table(name)
    table.add_column("language")
    for column in columns.values():
        for model in models:
            head = f"{column} {model}".strip()
            table.add_column(head, justify="right", overflow="fold")
    for language, cells in languages.items():
        texts = []
        for column in columns.values():
            rows = lines[cells[column]] if column in cells else {}
            texts += [format_value(rows.get(model)) for model in models]
        table.add_row(language, *texts)
    return table


def _variant_tables(
    models: Mapping[str, Sequence[ScoreRow]], width: int
) -> list[Table]:
    """Dimensions in one table, all else in others: a line for each task's first metric, a column
    for each variant.
    """
    lines = lines_of(models)
    variants = _main_variants(variants_of(models), main_metrics(lines))
    changes = changes_of(models)
    dims = [name for name in variants if dims_of(name)]
    tables = []
    for place, names in enumerate([dims, *variant_groups(variants)]):
        keys = variant_keys(names, variants, list(models))
        cells = {
            name: _variant_cells(name, keys, variants[name], changes.get(name, {}))
            for name in names
        }
        for number, part in enumerate(_split_columns(cells, keys, width)):
            is_titled = place < len(TITLES) and number == 0
            columns = {name: cells[name] for name in part}
            title = TITLES[place] if is_titled else None
            tables.append(_variant_table(title, columns, keys, lines))
    return tables


def _main_variants(
    variants: Variants, main: Mapping[str, str]
) -> dict[str, dict[Key, ScoreRow]]:
    """The variants with the first metric of each task, and all metrics that are not scores."""
    kept: dict[str, dict[Key, ScoreRow]] = {}
    for name, cells in variants.items():
        kept[name] = {}
        for key, row in cells.items():
            task, metric, _ = key
            if main.get(task, metric) == metric or not is_score(metric):
                kept[name][key] = row
    return kept


def _variant_cells(
    variant: str,
    keys: Sequence[Key],
    rows: Mapping[Key, ScoreRow],
    changes: Mapping[Key, float],
) -> dict[Key, Text]:
    """A column of scores, each with the difference to the plain score of the same queries.

    Dimensions have no differences.
    """
    texts: dict[Key, str] = {}
    if not dims_of(variant):
        texts = {key: format_change(changes[key]) for key in keys if key in changes}
    widest = max(map(len, texts.values()), default=0)
    cells = {}
    for key in keys:
        cells[key] = Text(format_value(rows.get(key)))
        if widest:
            cells[key].append(f" {texts.get(key, ''):>{widest}}", style="dim")
    return cells


def _variant_table(
    title: str | None,
    columns: Mapping[str, Mapping[Key, Text]],
    keys: Sequence[Key],
    lines: Lines,
) -> Table:
    plain = {
        (task, metric, model): lines.get((task, metric), {}).get(model)
        for task, metric, model in keys
    }
    has_plain = any(plain.values())
    has_names = any(model for _, _, model in keys)

    table = _make_table(title)
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    if has_names:
        table.add_column("model", overflow="fold")
    for name, cells in columns.items():
        head = str(dims_of(name) or name)
        table.add_column(head, justify="right", min_width=_column_width(name, cells))
    if has_plain:
        head = "all" if dims_of(next(iter(columns))) else "plain"
        table.add_column(head, justify="right", no_wrap=True)

    last = ("", "")
    for key in keys:
        task, metric, model = key
        row: list[str | Text] = [
            "" if task == last[0] else task,
            "" if (task, metric) == last else metric,
        ]
        if has_names:
            row.append(model)
        row += [cells[key] for cells in columns.values()]
        if has_plain:
            row.append(format_value(plain[key]))
        table.add_row(*row)
        last = (task, metric)
    return table


def _split_columns(
    columns: Mapping[str, Mapping[Key, Text]],
    keys: Sequence[Key],
    width: int,
) -> list[list[str]]:
    """The names of columns in parts that each fit beside task, metric, model and plain score."""
    if not columns:
        return []
    task, metric, model = (max(map(len, names)) for names in zip(*keys, strict=True))
    others = (task, metric, min(model, MAX_MODEL_NAME), MIN_COLUMN)
    room = width - 2 - sum(other + 2 for other in others)
    parts: list[list[str]] = [[]]
    used = 0
    for name, cells in columns.items():
        needed = _column_width(name, cells) + 2
        if parts[-1] and used + needed > room:
            parts.append([])
            used = 0
        parts[-1].append(name)
        used += needed
    return parts


def _column_width(variant: str, cells: Mapping[Key, Text]) -> int:
    """The width of the widest cell or of the longest word of the head."""
    head = str(dims_of(variant) or variant)
    return max(MIN_COLUMN, *map(len, cells.values()), *map(len, head.split()))
