"""How rows are laid out, in the terminal as on a page: lines, halves of the space, languages,
variants, numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from ..scoring.results import Row, TaskResult
from ..scoring.statistics import Comparison

Line: TypeAlias = tuple[str, str]  # (task, metric)
Comparisons: TypeAlias = Mapping[
    str, Sequence[Comparison]
]  # of each other model with the first

SECTIONS = {
    "text": "text",
    "cross-modal": "text and images",
    "image": "pictures",
    "space": "the space",
    "": "all together",
}
NEUTRAL = re.compile(
    r"modality_gap|alignment|uniformity|image_share|overlapping|near_duplicate|bytes"
)  # no more is better
# stands for a value that does not exist, as - stands for one that was not measured
UNDEFINED = "undefined"
SURE = 0.05  # p values below are marked
LANGUAGE = re.compile(
    r"(?P<set>.+)/(?P<language>[a-z]{2,3}(-[A-Za-z]{2,4})?)(?P<direction>/[a-z]+->[a-z]+)?"
)
ALIKE = 0.7  # share of their lines that variants of one table have in common
MIN_LANGUAGES = 3  # of a set of tasks, to be shown as a sheet
DIMS = re.compile(r"(\d+) dims")
# ends the variant of rows that hold how far another variant lies above the plain score
DIFFERENCE = ", difference"
WITHOUT_OVERLAP = (
    "without overlap"  # of some of the queries: what it differs by may be theirs
)


def halves_of(results: Iterable[TaskResult]) -> dict[str, str]:
    """Which half of the space each task of the rows is about."""
    return {row.task: result.half for result in results for row in result.rows}


def lines_of(models: Mapping[str, Iterable[Row]]) -> dict[Line, dict[str, Row]]:
    """(task, metric) -> model -> row of what was not varied, in the order in which they first
    occur.
    """
    lines: dict[Line, dict[str, Row]] = {}
    for name, rows in models.items():
        for row in rows:
            if not row.variant:
                lines.setdefault((row.task, row.metric), {})[name] = row
    return lines


def main_metrics(lines: Iterable[Line]) -> dict[str, str]:
    """task -> the metric that its lines begin with."""
    return dict(reversed(list(lines)))


def variants_of(
    models: Mapping[str, Iterable[Row]],
) -> dict[str, dict[tuple[str, str, str], Row]]:
    """variant -> (task, metric, model) -> row, dimensions first and in their order."""
    variants: dict[str, dict[tuple[str, str, str], Row]] = {}
    for name, rows in models.items():
        for row in rows:
            if row.variant and not row.variant.endswith(
                DIFFERENCE
            ):  # `changes_of` has those
                variants.setdefault(row.variant, {})[row.task, row.metric, name] = row
    return dict(
        sorted(
            variants.items(),
            key=lambda item: (dims_of(item[0]) is None, dims_of(item[0]) or 0),
        )
    )


def changes_of(
    models: Mapping[str, Iterable[Row]],
) -> dict[str, dict[tuple[str, str, str], float]]:
    """variant -> (task, metric, model) -> how far above the same queries' plain score, where that
    is known.

    Variants that change some queries alone bring rows of the difference; most others are of all
    queries.
    """
    changes: dict[str, dict[tuple[str, str, str], float]] = {}
    for name, rows in models.items():
        plain = {(row.task, row.metric): row.value for row in rows if not row.variant}
        for row in rows:
            before = plain.get((row.task, row.metric))
            key = (row.task, row.metric, name)
            if row.value is None or not row.variant:
                continue
            if row.variant.endswith(DIFFERENCE):
                changes.setdefault(row.variant.removesuffix(DIFFERENCE), {})[key] = (
                    row.value
                )
            elif before is not None and row.variant != WITHOUT_OVERLAP:
                changes.setdefault(row.variant, {}).setdefault(key, row.value - before)
    return changes


def variant_groups(
    variants: Mapping[str, Collection[tuple[str, str, str]]],
) -> list[list[str]]:
    """Which variants stand in one table: those that are of the same lines, but for a few;
    dimensions are left out.
    """
    groups: list[tuple[set[tuple[str, str, str]], list[str]]] = []
    for name, cells in variants.items():
        if dims_of(name) or not cells:
            continue
        lines = set(cells)
        for known, names in groups:
            if len(known & lines) >= ALIKE * len(known | lines):
                known |= lines
                names.append(name)
                break
        else:
            groups.append((lines, [name]))
    return [names for _, names in groups]


def languages_of(lines: Iterable[Line]) -> dict[str, dict[str, dict[str, Line]]]:
    """set -> language -> "direction metric" -> line, of the sets of tasks that come in three
    languages or more.
    """
    sheets: dict[str, dict[str, dict[str, Line]]] = {}
    for task, metric in lines:
        if match := LANGUAGE.fullmatch(task):
            column = f"{(match['direction'] or '').strip('/')} {metric}".strip()
            sheets.setdefault(match["set"], {}).setdefault(match["language"], {})[
                column
            ] = (task, metric)
    return {
        name: sheet for name, sheet in sheets.items() if len(sheet) >= MIN_LANGUAGES
    }


def sure_lines(comparisons: Comparisons) -> dict[str, set[Line]]:
    """model -> the lines where it differs from the first model, as far as one test tells."""
    return {
        name: {(one.task, one.metric) for one in compared if one.p_value < SURE}
        for name, compared in comparisons.items()
    }


def difference_said(first: str) -> str:
    """What the mark of a line says, and how often it is wrong."""
    return (
        f"differs from {first} (paired test, p < {SURE}; of twenty such tests between equals "
        "one is below)"
    )


def section_of(line: Line, halves: Mapping[str, str]) -> str:
    """The half of the space that a line belongs to, or "space" for how it lies; "" for what is
    about both halves.
    """
    task, metric = line
    if task in halves:
        return halves[task]
    if not is_score(metric) or task.endswith("->mixed"):
        return "space"
    if "->image" in task or "image->" in task:
        return "cross-modal"
    return "" if halves else "text"


def dims_of(variant: str) -> int | None:
    """64 of "64 dims"; None of another variant."""
    match = DIMS.fullmatch(variant)
    return int(match[1]) if match else None


def is_score(metric: str) -> bool:
    """Whether more of it is better; a distance between the modalities, say, is neither good nor
    bad.
    """
    return NEUTRAL.match(metric) is None


def best_of(metric: str, values: Iterable[float | None]) -> float | None:
    """The best of several values of a score; None where there is nothing to choose between."""
    known = [one for one in values if one is not None]
    return max(known) if is_score(metric) and len(known) > 1 else None


def number(value: float | None) -> str:
    """Three decimals, none of a size in whole bytes, say; a dash for what there is not."""
    if value is None:
        return "-"
    return (
        f"{value:,.0f}"
        if abs(value) >= 10 or (value >= 2 and value == int(value))
        else f"{value:.3f}"
    )


def value_text(row: Row | None) -> str:
    """The value of a row as `number` writes it, or that it is undefined."""
    if row is None:
        return number(None)
    return UNDEFINED if row.is_undefined else number(row.value)


def notes_of(rows: Iterable[Row]) -> dict[str, str]:
    """task and metrics -> what is to be known of their values: why one is undefined, or what it
    leaves out.

    What is said of several metrics or variants of a task is said once.
    """
    metrics: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if row.note:
            named = metrics.setdefault((row.task, row.note), {})
            if (
                row.is_undefined and row.metric not in named
            ):  # else it is said of the plain score already
                named[f"{row.metric} {row.variant}".strip()] = None
    return {
        f"{task} {', '.join(filter(None, names))}".strip(): note
        for (task, note), names in metrics.items()
    }


def signed(change: float) -> str:
    """+0.012 or -0.012, without decimals from ten on; ±0 where nothing of it would be seen."""
    return (
        "±0"
        if abs(change) < 0.0005
        else f"{change:+,.0f}"
        if abs(change) >= 10
        else f"{change:+.3f}"
    )


def half_interval(row: Row) -> str:
    """±.012: the further end of the 95 % interval, seen from the value."""
    assert row.value is not None
    assert row.low is not None
    assert row.high is not None
    half = max(row.high - row.value, row.value - row.low)
    return f"±{half:.3f}".replace("±0.", "±.")
