"""The tables of the page: scores beside published ones, languages, variants. Each can be sorted by
any column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from ...scoring.results import Row
from ..layout import (
    SECTIONS,
    SURE,
    UNDEFINED,
    Comparisons,
    Line,
    best_of,
    difference_said,
    dims_of,
    half_interval,
    is_score,
    languages_of,
    main_metrics,
    notes_of,
    number,
    section_of,
    signed,
    sure_lines,
    variant_groups,
)
from ..published import PublishedScore, published_scores
from .charts import COLOURS, dims_curve, score_plot

Lines = Mapping[Line, Mapping[str, Row]]
Variants = Mapping[str, Mapping[tuple[str, str, str], Row]]
Changes = Mapping[str, Mapping[tuple[str, str, str], float]]
MAX_PUBLISHED = 14  # models beside ours in one table, the best ones
MEANINGS = {
    "hit_rate": "share of queries with a relevant document among the first k; papers on CLIP call "
    "it R@k",
    "recall": "share of the relevant documents that are among the first k",
    "ndcg": "normalised discounted cumulative gain of the first k; 1 is the best order",
    "mrr": "mean of 1 / rank of the first relevant document",
    "map": "mean average precision",
    "precision": "share of the first k that is relevant",
    "accuracy": "share of images whose class comes first",
    "spearman": "rank correlation of cosine and human score",
    "pearson": "linear correlation of cosine and human score",
    "modality_gap": "distance between the centroid of the texts and that of the images",
    "alignment": "mean squared distance between what belongs together; lower is closer",
    "uniformity": "how evenly the sphere is filled; lower is more even",
    "image_share": "share of images among the first ten of one index of both",
}


def score_tables(
    lines: Lines,
    models: Sequence[str],
    halves: Mapping[str, str],
    comparisons: Comparisons,
) -> str:
    """A table for each half of the space, a row for each task and metric; languages have tables of
    their own.
    """
    sheets = languages_of(lines).values()
    elsewhere = {
        line
        for sheet in sheets
        for columns in sheet.values()
        for line in columns.values()
    }
    sure = sure_lines(comparisons)
    parts = []
    for section, title in SECTIONS.items():
        inside = {
            line: cells
            for line, cells in lines.items()
            if section_of(line, halves) == section and line not in elsewhere
        }
        if inside:
            parts.append(
                f"<h3>{escape(title[0].upper() + title[1:])}</h3>{_score_table(inside, models, sure)}"
            )
    return "".join(parts)


def comparison_tables(comparisons: Comparisons, lines: Lines, first: str) -> str:
    """The differences of the other models to the first, of the lines, with interval and p value; ""
    without any.
    """
    parts = []
    for name, compared in comparisons.items():
        rows = [
            f"<tr><td>{task_html(one.task)}</td><td>{metric_html(one.metric)}</td>{number_cell(one.first)}"
            f"{number_cell(one.second)}{number_cell(one.difference, shown=f'{one.difference:+.3f}', classes='score')}"
            f"{_interval_cell(one.low, one.high)}"
            f"{number_cell(one.p_value, shown=_p_value(one.p_value), classes='sure' if one.p_value < SURE else '')}"
            f"{number_cell(one.num, shown=f'{one.num:,}', classes='quiet')}</tr>"
            for one in compared
            if (one.task, one.metric) in lines
        ]
        heads = [("task", "text"), ("metric", "text"), (first, "number"), (name, "number"), ("difference", "number"),
                 ("95 % interval", "number"), ("p", "number"), ("queries", "number")]  # fmt: skip
        parts.append(table(heads, rows) if rows else "")
    return "".join(parts)


def published_tables(lines: Lines, models: Sequence[str]) -> str:
    """For each task that others published scores of, theirs beside ours, in the same metrics; ""
    without any.
    """
    tasks: dict[str, dict[str, list[PublishedScore]]] = {}
    for task, metric in lines:
        if found := published_scores(task, metric):
            tasks.setdefault(task, {})[metric] = found
    return "".join(
        _published_table(task, metrics, lines, models)
        for task, metrics in tasks.items()
    )


def language_tables(lines: Lines, models: Sequence[str]) -> str:
    """Tasks that exist in several languages: a row for each language. "" where there are none."""
    return "".join(
        _language_table(name, sheet, lines, models)
        for name, sheet in languages_of(lines).items()
    )


def curves(
    variants: Variants, lines: Lines, models: Sequence[str], num_dims: Mapping[str, int]
) -> str:
    """A curve for each task's first metric that was scored in fewer dimensions. num_dims: model ->
    all that it has.
    """
    main = main_metrics(lines)
    found: dict[Line, dict[str, dict[int, float]]] = {}
    for variant, cells in variants.items():
        for (task, metric, model), row in cells.items():
            dim = dims_of(variant)
            if (
                dim
                and row.value is not None
                and main.get(task, metric) == metric
                and is_score(metric)
            ):
                found.setdefault((task, metric), {}).setdefault(model, {})[dim] = (
                    row.value
                )
    for line, by_model in found.items():
        for model, curve in by_model.items():
            whole = _value(lines, line, model)
            if whole is not None and model in num_dims:
                curve[num_dims[model]] = whole
    return "".join(
        f"<figure>{dims_curve(f'{task}, {metric}, by dimensions', by_model)}"
        f"<figcaption>{task_html(task)} "
        f"{metric_html(metric)}{_enough(by_model, models)}</figcaption></figure>"
        for (task, metric), by_model in found.items()
    )


def variant_tables(
    variants: Variants, changes: Changes, lines: Lines, models: Sequence[str]
) -> str:
    """Whatever was done to vectors or inputs, beside the plain score, with the difference it makes
    (`changes_of`).
    """
    return "".join(
        _variant_table(names, variants, changes, lines, models)
        for names in variant_groups(variants)
    )


def table(
    heads: Sequence[tuple[str, str]], rows: Iterable[str], caption: str = ""
) -> str:
    """A table whose columns sort at a click or a key, but for drawings. rows: <tr> elements.

    heads: (title, "text", "number" or "drawing").
    """
    cells = "".join(_head(title, kind) for title, kind in heads)
    named = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table class="sortable">{named}<thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def number_cell(
    value: float | None, *, shown: str = "", extra: str = "", classes: str = ""
) -> str:
    """A cell that sorts by its value. shown: HTML instead of the number; extra: behind it."""
    key = "" if value is None else f' data-value="{value:.6g}"'
    return (
        '<td class="number '
        f'{classes}"{key}>{shown or ("–" if value is None else number(value))}{extra}</td>'
    )


def task_html(task: str) -> str:
    """The name of a task, its direction set apart."""
    name, _, direction = task.rpartition("/") if "->" in task else (task, "", "")
    shown = (
        f' <span class="direction">{escape(direction.replace("->", " → "))}</span>'
        if direction
        else ""
    )
    return f"{escape(name)}{shown}"


def metric_html(metric: str) -> str:
    """The name of a metric, with what it means for those who rest on it."""
    meaning = next(
        (text for start, text in MEANINGS.items() if metric.startswith(start)), ""
    )
    return f'<code title="{escape(meaning)}">{escape(metric)}</code>'


def model_html(name: str, place: int) -> str:
    """The name of a model beside the dot of its colour."""
    dot = f'<span class="key m{place % COLOURS}"></span>'
    return (
        f'<span class="named">{dot}<span>{escape(name or "this model")}</span></span>'
    )


def _head(title: str, kind: str) -> str:
    if kind == "drawing":
        return f'<th scope="col" class="drawing">{escape(title)}</th>'
    return f'<th scope="col" class="{kind}"><button type="button">{escape(title)}</button></th>'


def _score_table(
    lines: Lines, models: Sequence[str], sure: Mapping[str, set[Line]]
) -> str:
    scored = any(is_score(metric) for _, metric in lines)
    rows = []
    counted = any(row.num for cells in lines.values() for row in cells.values())
    for (task, metric), cells in lines.items():
        known = next(iter(cells.values()))
        best = best_of(metric, (row.value for row in cells.values()))
        scores = "".join(
            _score_cell(cells.get(name), best, (task, metric) in sure.get(name, ()))
            for name in models
        )
        plot = score_plot(cells, models) if is_score(metric) else ""
        beside = (
            f'<td class="plot">{plot}</td>{number_cell(known.chance, classes="quiet")}'
            f"{number_cell(known.baseline, classes='quiet')}"
            if scored
            else ""
        )
        num = next((row.num for row in cells.values() if row.num), None)
        count = (
            number_cell(num, shown="" if num is None else f"{num:,}", classes="quiet")
            if counted
            else ""
        )
        rows.append(
            f"<tr><td>{task_html(task)}</td><td>{metric_html(metric)}</td>{scores}{beside}{count}</tr>"
        )
    heads = [("task", "text"), ("metric", "text")]
    heads += [(name if len(models) > 1 else "score", "number") for name in models]
    heads += (
        [("0 to 1", "drawing"), ("chance", "number"), ("BM25", "number")]
        if scored
        else []
    )
    heads += [("n", "number")] if counted else []
    return table(heads, rows)


def _score_cell(row: Row | None, best: float | None, is_sure: bool) -> str:
    if row is None or row.value is None:
        return _empty_cell(row)
    said = escape(difference_said("the first model"))
    mark = f'<span class="sure" title="{said}">*</span>' if is_sure else ""
    interval = ""
    if row.low is not None and row.high is not None:
        said = f"95 % interval: {row.low:.3f} to {row.high:.3f}"
        interval = f' <span class="half" title="{said}">{half_interval(row)}</span>'
    return number_cell(
        row.value,
        extra=mark + interval,
        classes="score best" if row.value == best else "score",
    )


def _published_table(
    task: str,
    metrics: Mapping[str, Sequence[PublishedScore]],
    lines: Lines,
    models: Sequence[str],
) -> str:
    by_model: dict[str, dict[str, PublishedScore]] = {}
    for metric, scores in metrics.items():
        for score in scores:
            by_model.setdefault(score.model, {})[metric] = score
    first = next(iter(metrics))
    ranked = sorted(
        by_model,
        key=lambda name: (
            -by_model[name][first].value if first in by_model[name] else 0.0
        ),
    )
    rows = []
    for place, name in enumerate(models):
        cells = "".join(
            number_cell(_value(lines, (task, metric), name), classes="score")
            for metric in metrics
        )
        rows.append(
            f'<tr class="ours"><td>{model_html(name, place)}</td>{cells}<td>this report</td></tr>'
        )
    for name in ranked[:MAX_PUBLISHED]:
        cells = "".join(
            number_cell(
                by_model[name][metric].value if metric in by_model[name] else None
            )
            for metric in metrics
        )
        sources = {score.source: score.url for score in by_model[name].values()}
        links = "; ".join(
            f'<a href="{escape(url)}" rel="noreferrer noopener">{escape(source)}</a>'
            for source, url in sources.items()
        )
        rows.append(
            f'<tr><td>{escape(name)}</td>{cells}<td class="source">{links}</td></tr>'
        )
    tolerance = max(score.tolerance for scores in metrics.values() for score in scores)
    caption = f"{task_html(task)} · differences under {tolerance:.3f} may come from the tools alone"
    columns = [(metric, "number") for metric in metrics]
    return table([("model", "text"), *columns, ("source", "text")], rows, caption)


def _language_table(
    name: str,
    sheet: Mapping[str, Mapping[str, Line]],
    lines: Lines,
    models: Sequence[str],
) -> str:
    columns = [
        (column, model)
        for column in dict.fromkeys(key for cells in sheet.values() for key in cells)
        for model in models
    ]
    rows = []
    for language, cells in sheet.items():
        found = [
            lines.get(cells[column], {}).get(model) if column in cells else None
            for column, model in columns
        ]
        rows.append(
            f"<tr><td>{escape(language)}</td>{''.join(map(_shaded_cell, found))}</tr>"
        )
    heads = [
        (f"{column} {model}" if len(models) > 1 else column, "number")
        for column, model in columns
    ]
    return table(
        [("language", "text"), *heads], rows, f"{escape(name)} · {len(sheet)} languages"
    )


def _shaded_cell(row: Row | None) -> str:
    """Deeper the higher: nine classes of the style sheet."""
    if row is None or row.value is None:
        return _empty_cell(row)
    return number_cell(row.value, classes=f"heat{max(0, min(8, int(row.value * 9)))}")


def _variant_table(
    names: Sequence[str],
    variants: Variants,
    changes: Changes,
    lines: Lines,
    models: Sequence[str],
) -> str:
    found = dict.fromkeys(key[:2] for name in names for key in variants[name])
    rows = []
    for task, metric in found:
        for place, model in enumerate(models):
            key = task, metric, model
            if not any(key in variants[name] for name in names):
                continue
            cells = [
                _varied_cell(variants[name].get(key), changes.get(name, {}).get(key))
                for name in names
            ]
            plain = _value(lines, (task, metric), model)
            named = f"<td>{model_html(model, place)}</td>" if len(models) > 1 else ""
            rows.append(
                f"<tr><td>{task_html(task)}</td><td>{metric_html(metric)}</td>{named}"
                f"{number_cell(plain, classes='score')}{''.join(cells)}</tr>"
            )
    heads = [("task", "text"), ("metric", "text")]
    heads += [("model", "text")] if len(models) > 1 else []
    return table(
        [*heads, ("plain", "number"), *((name, "number") for name in names)], rows
    )


def _empty_cell(row: Row | None) -> str:
    """Of what was not measured, or is undefined: why, for those who point at it (and below the
    table, for all).
    """
    if row is None or not row.is_undefined:
        return number_cell(None)
    return number_cell(
        None, shown=f'<span class="quiet" title="{escape(row.note)}">{UNDEFINED}</span>'
    )


def notes_list(models: Mapping[str, Iterable[Row]]) -> str:
    """Why scores are undefined, and what of a task's data they leave out; "" without any."""
    items = []
    for name, rows in models.items():
        for place, note in notes_of(rows).items():
            whose = f" ({escape(name)})" if len(models) > 1 else ""
            items.append(f"<li><b>{escape(place)}</b>{whose}: {escape(note)}</li>")
    return f"<ul>{''.join(dict.fromkeys(items))}</ul>" if items else ""


def _varied_cell(row: Row | None, change: float | None) -> str:
    if row is None or row.value is None:
        return _empty_cell(row)
    if change is None:
        return number_cell(row.value)
    said = signed(change)
    direction = (
        ""
        if said == "±0" or not is_score(row.metric)
        else " down"
        if change < 0
        else " up"
    )
    return number_cell(
        row.value, extra=f' <span class="change{direction}">{said}</span>'
    )


def _interval_cell(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return number_cell(None)
    return number_cell(low, shown=f"{low:+.3f} … {high:+.3f}", classes="quiet")


def _p_value(value: float) -> str:
    return "&lt; 0.001" if value < 0.001 else f"{value:.3f}"


def _value(lines: Lines, line: Line, model: str) -> float | None:
    row = lines.get(line, {}).get(model)
    return None if row is None else row.value


def _enough(by_model: Mapping[str, Mapping[int, float]], models: Sequence[str]) -> str:
    """How few dimensions keep 95 % of what the most give."""
    said = []
    for name in models:
        curve = by_model.get(name)
        if curve and curve[max(curve)] > 0:
            fewest = min(
                dim for dim, value in curve.items() if value >= 0.95 * curve[max(curve)]
            )
            said.append(f"{escape(name)}: {fewest}" if len(models) > 1 else str(fewest))
    return (
        f'<span class="quiet">95 % of the score in {" · ".join(said)} dimensions</span>'
        if said
        else ""
    )
