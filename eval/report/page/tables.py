"""The tables of the page: scores, comparisons, published scores, languages and variants, and the
charts of fewer dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...scoring.score_row import ScoreRow
from ...scoring.statistics import Comparison
from ..layout import (
    SECTIONS,
    SIGNIFICANT,
    Changes,
    Comparisons,
    Line,
    Lines,
    Variants,
    best_of,
    dims_of,
    explain_mark,
    format_change,
    format_interval,
    is_score,
    language_lines,
    languages_of,
    main_metrics,
    notes_of,
    section_of,
    significant_lines,
    variant_groups,
    variant_keys,
)
from ..published import PublishedScore, published_scores
from .cells import (
    Cell,
    Head,
    LinksCell,
    MetricName,
    NumberCell,
    PlotCell,
    Table,
    TableRow,
    TaskName,
    TextCell,
    count_cell,
    empty_cell,
    metric_name,
    model_name,
    number_cell,
    task_name,
)
from .charts import DimsChart, dims_chart, score_plot

MAX_PUBLISHED = 14  # models beside ours in one table, the best ones
KEPT_SHARE = 0.95  # of the score of all dimensions, for the caption of a chart


@dataclass(frozen=True)
class Note:
    """Why a score is undefined, or what it leaves out."""

    place: str  # the task and the metrics
    model: str  # "" if the page has one model
    text: str


@dataclass(frozen=True)
class ChartFigure:
    """A chart of fewer dimensions with its caption."""

    chart: DimsChart
    task: TaskName
    metric: MetricName
    enough: str  # how few dimensions keep most of the score; "" if unknown


def score_tables(
    lines: Lines,
    models: Sequence[str],
    halves: Mapping[str, str],
    comparisons: Comparisons,
) -> list[Table]:
    """A table for each half of the space, a row for each task and metric.

    Leaves out the lines that stand in the tables of languages.
    """
    elsewhere = language_lines(lines)
    significant = significant_lines(comparisons)
    tables = []
    for section, title in SECTIONS.items():
        inside = {
            line: cells
            for line, cells in lines.items()
            if line not in elsewhere and section_of(line, halves) == section
        }
        if inside:
            heading = title[0].upper() + title[1:]
            tables.append(_score_table(heading, inside, models, significant))
    return tables


def _score_table(
    title: str,
    lines: Lines,
    models: Sequence[str],
    significant: Mapping[str, set[Line]],
) -> Table:
    has_scores = any(is_score(metric) for _, metric in lines)
    has_counts = any(row.num for cells in lines.values() for row in cells.values())

    heads = [Head("task"), Head("metric")]
    for name in models:
        heads.append(Head(name if len(models) > 1 else "score", "number"))
    if has_scores:
        heads.append(Head("0 to 1", "drawing"))
        heads.append(Head("chance", "number"))
        heads.append(Head("BM25", "number"))
    if has_counts:
        heads.append(Head("n", "number"))

    rows = []
    for line, cells in lines.items():
        row = _score_cells(line, cells, models, significant)
        if has_scores:
            first = next(iter(cells.values()))
            plot = score_plot(cells, models) if is_score(line[1]) else None
            row.append(PlotCell(plot))
            row.append(number_cell(first.chance, "quiet"))
            row.append(number_cell(first.baseline, "quiet"))
        if has_counts:
            count = next((row.num for row in cells.values() if row.num), None)
            row.append(count_cell(count))
        rows.append(TableRow(row))
    return Table(heads, rows, title)


def _score_cells(
    line: Line,
    cells: Mapping[str, ScoreRow],
    models: Sequence[str],
    significant: Mapping[str, set[Line]],
) -> list[Cell]:
    """Task, metric, and the score of each model."""
    task, metric = line
    best = best_of(metric, (row.value for row in cells.values()))
    row: list[Cell] = [task_name(task), metric_name(metric)]
    for name in models:
        is_significant = line in significant.get(name, ())
        row.append(_score_cell(cells.get(name), best, is_significant))
    return row


def _score_cell(
    row: ScoreRow | None, best: float | None, is_significant: bool
) -> NumberCell:
    if row is None or row.value is None:
        return empty_cell(row)
    classes = "score best" if row.value == best else "score"
    plain = number_cell(row.value, classes)
    half = ""
    interval = ""
    if row.low is not None and row.high is not None:
        half = format_interval(row)
        interval = f"95 % interval: {row.low:.3f} to {row.high:.3f}"
    return NumberCell(
        row.value,
        plain.text,
        classes,
        mark_note=explain_mark("the first model") if is_significant else "",
        detail=half,
        detail_note=interval,
    )


def comparison_tables(
    comparisons: Comparisons, lines: Lines, first: str
) -> list[Table]:
    """The differences of each other model to the first, with interval and p value."""
    tables = []
    for name, compared in comparisons.items():
        rows = [
            TableRow(_comparison_cells(comparison))
            for comparison in compared
            if (comparison.task, comparison.metric) in lines
        ]
        heads = [
            Head("task"),
            Head("metric"),
            Head(first, "number"),
            Head(name, "number"),
            Head("difference", "number"),
            Head("95 % interval", "number"),
            Head("p", "number"),
            Head("queries", "number"),
        ]
        if rows:
            tables.append(Table(heads, rows))
    return tables


def _comparison_cells(comparison: Comparison) -> list[Cell]:
    difference = comparison.difference
    p_value = comparison.p_value
    p_text = "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
    p_classes = "significant" if p_value < SIGNIFICANT else ""
    return [
        task_name(comparison.task),
        metric_name(comparison.metric),
        number_cell(comparison.first),
        number_cell(comparison.second),
        NumberCell(difference, f"{difference:+.3f}", "score"),
        _interval_cell(comparison.low, comparison.high),
        NumberCell(p_value, p_text, p_classes),
        count_cell(comparison.num),
    ]


def _interval_cell(low: float | None, high: float | None) -> NumberCell:
    if low is None or high is None:
        return number_cell(None)
    return NumberCell(low, f"{low:+.3f} … {high:+.3f}", "quiet")


def published_tables(lines: Lines, models: Sequence[str]) -> list[Table]:
    """For each task with published scores, those beside ours, in the same metrics."""
    tasks: dict[str, dict[str, list[PublishedScore]]] = {}
    for task, metric in lines:
        scores = published_scores(task, metric)
        if scores:
            tasks.setdefault(task, {})[metric] = scores
    return [
        _published_table(task, metrics, lines, models)
        for task, metrics in tasks.items()
    ]


def _published_table(
    task: str,
    metrics: Mapping[str, Sequence[PublishedScore]],
    lines: Lines,
    models: Sequence[str],
) -> Table:
    rows = []
    for place, name in enumerate(models):
        ours: list[Cell] = [model_name(name, place)]
        for metric in metrics:
            ours.append(number_cell(_value(lines, (task, metric), name), "score"))
        ours.append(TextCell("this report"))
        rows.append(TableRow(ours, is_ours=True))

    by_model: dict[str, dict[str, PublishedScore]] = {}
    for metric, scores in metrics.items():
        for score in scores:
            by_model.setdefault(score.model, {})[metric] = score
    for name in _best_first(by_model, next(iter(metrics)))[:MAX_PUBLISHED]:
        known = by_model[name]
        theirs: list[Cell] = [TextCell(name)]
        for metric in metrics:
            theirs.append(number_cell(known[metric].value if metric in known else None))
        theirs.append(LinksCell({score.source: score.url for score in known.values()}))
        rows.append(TableRow(theirs))

    tolerance = max(score.tolerance for scores in metrics.values() for score in scores)
    return Table(
        [Head("model"), *(Head(name, "number") for name in metrics), Head("source")],
        rows,
        caption=f"differences under {tolerance:.3f} may come from the tools alone",
        caption_task=task_name(task),
    )


def _best_first(
    by_model: Mapping[str, Mapping[str, PublishedScore]], metric: str
) -> list[str]:
    """The models by their score in a metric; those without one come last."""

    def order(name: str) -> float:
        score = by_model[name].get(metric)
        return 0.0 if score is None else -score.value

    return sorted(by_model, key=order)


def language_tables(lines: Lines, models: Sequence[str]) -> list[Table]:
    """A table for each set of tasks in several languages, with a row for each language."""
    return [
        _language_table(name, languages, lines, models)
        for name, languages in languages_of(lines).items()
    ]


def _language_table(
    name: str,
    languages: Mapping[str, Mapping[str, Line]],
    lines: Lines,
    models: Sequence[str],
) -> Table:
    columns = list(dict.fromkeys(key for cells in languages.values() for key in cells))
    heads = [Head("language")]
    for column in columns:
        for model in models:
            title = f"{column} {model}" if len(models) > 1 else column
            heads.append(Head(title, "number"))

    rows = []
    for language, cells in languages.items():
        row: list[Cell] = [TextCell(language)]
        for column in columns:
            by_model = lines.get(cells[column], {}) if column in cells else {}
            row += [_shaded_cell(by_model.get(model)) for model in models]
        rows.append(TableRow(row))
    return Table(heads, rows, caption=f"{name} · {len(languages)} languages")


def _shaded_cell(row: ScoreRow | None) -> NumberCell:
    """A score on one of nine shades of the style sheet: the higher, the deeper."""
    if row is None or row.value is None:
        return empty_cell(row)
    shade = max(0, min(8, int(row.value * 9)))
    return number_cell(row.value, f"heat{shade}")


def dims_figures(
    variants: Variants, lines: Lines, models: Sequence[str], num_dims: Mapping[str, int]
) -> list[ChartFigure]:
    """A chart for the first metric of each task that was scored in fewer dimensions.

    num_dims: model -> number of all its dimensions.
    """
    main = main_metrics(lines)
    scores: dict[Line, dict[str, dict[int, float]]] = {}
    for variant, cells in variants.items():
        dims = dims_of(variant)
        if not dims:
            continue
        for (task, metric, model), row in cells.items():
            is_main = main.get(task, metric) == metric and is_score(metric)
            if row.value is not None and is_main:
                curves = scores.setdefault((task, metric), {})
                curves.setdefault(model, {})[dims] = row.value

    figures = []
    for (task, metric), curves in scores.items():
        for model, curve in curves.items():
            value = _value(lines, (task, metric), model)
            if value is not None and model in num_dims:
                curve[num_dims[model]] = value
        figure = ChartFigure(
            chart=dims_chart(f"{task}, {metric}, by dimensions", curves),
            task=task_name(task),
            metric=metric_name(metric),
            enough=_describe_enough(curves, models),
        )
        figures.append(figure)
    return figures


def _describe_enough(
    curves: Mapping[str, Mapping[int, float]], models: Sequence[str]
) -> str:
    """How few dimensions keep 95 % of the score of the most."""
    parts = []
    for name in models:
        curve = curves.get(name)
        if not curve or curve[max(curve)] <= 0:
            continue
        least = KEPT_SHARE * curve[max(curve)]
        fewest = min(dim for dim, value in curve.items() if value >= least)
        parts.append(f"{name}: {fewest}" if len(models) > 1 else str(fewest))
    if not parts:
        return ""
    return f"95 % of the score in {' · '.join(parts)} dimensions"


def variant_tables(
    variants: Variants, changes: Changes, lines: Lines, models: Sequence[str]
) -> list[Table]:
    """Scores of changed vectors or inputs beside the plain score, with the difference."""
    return [
        _variant_table(names, variants, changes, lines, models)
        for names in variant_groups(variants)
    ]


def _variant_table(
    names: Sequence[str],
    variants: Variants,
    changes: Changes,
    lines: Lines,
    models: Sequence[str],
) -> Table:
    heads = [Head("task"), Head("metric")]
    if len(models) > 1:
        heads.append(Head("model"))
    heads.append(Head("plain", "number"))
    heads += [Head(name, "number") for name in names]

    rows = []
    for key in variant_keys(names, variants, models):
        task, metric, model = key
        row: list[Cell] = [task_name(task), metric_name(metric)]
        if len(models) > 1:
            row.append(model_name(model, models.index(model)))
        row.append(number_cell(_value(lines, (task, metric), model), "score"))
        for name in names:
            change = changes.get(name, {}).get(key)
            row.append(_changed_cell(variants[name].get(key), change))
        rows.append(TableRow(row))
    return Table(heads, rows)


def _changed_cell(row: ScoreRow | None, change: float | None) -> NumberCell:
    if row is None or row.value is None:
        return empty_cell(row)
    plain = number_cell(row.value)
    if change is None:
        return plain
    text = format_change(change)
    direction = ""
    if text != "±0" and is_score(row.metric):
        direction = "down" if change < 0 else "up"
    return NumberCell(row.value, plain.text, change=text, change_direction=direction)


def notes(models: Mapping[str, Iterable[ScoreRow]]) -> list[Note]:
    """Why scores are undefined, and what of a task's data they leave out."""
    found: dict[Note, None] = {}
    for name, rows in models.items():
        for place, text in notes_of(rows).items():
            found[Note(place, name if len(models) > 1 else "", text)] = None
    return list(found)


def _value(lines: Lines, line: Line, model: str) -> float | None:
    row = lines.get(line, {}).get(model)
    return None if row is None else row.value
