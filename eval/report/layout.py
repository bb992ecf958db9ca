"""How rows are laid out, in the terminal and on the page: lines, halves of the space, languages,
variants and numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeAlias

from ..results import TaskResult
from ..scoring.score_row import ScoreRow
from ..scoring.statistics import Comparison

Line: TypeAlias = tuple[str, str]  # (task, metric)
Key: TypeAlias = tuple[str, str, str]  # (task, metric, model)
Lines: TypeAlias = Mapping[Line, Mapping[str, ScoreRow]]  # line -> model -> row
Variants: TypeAlias = Mapping[str, Mapping[Key, ScoreRow]]
Changes: TypeAlias = Mapping[str, Mapping[Key, float]]
# Each other model compared with the first.
Comparisons: TypeAlias = Mapping[str, Sequence[Comparison]]

SECTIONS = {
    "text": "text",
    "cross-modal": "text and images",
    "image": "images",
    "space": "the space",
    "": "all together",
}
# Metrics of which more is neither better nor worse.
NEUTRAL = re.compile(
    r"modality_gap|alignment|uniformity|image_share|overlapping|near_duplicate|bytes"
)
# A value that does not exist; "-" is a value that was not measured.
UNDEFINED = "undefined"
SIGNIFICANT = 0.05  # differences with a p value below this are marked
LANGUAGE = re.compile(
    r"(?P<set>.+)/(?P<language>[a-z]{2,3}(-[A-Za-z]{2,4})?)(?P<direction>/[a-z]+->[a-z]+)?"
)
MIN_SHARED = 0.7  # share of lines that variants in one table have in common
MIN_LANGUAGES = 3  # fewer languages of a set of tasks do not get a table of their own
DIMS = re.compile(r"(\d+) dims")
# Ends the variant of rows that hold the difference of another variant to the plain score.
DIFFERENCE = ", difference"
# Scores only some of the queries, so its difference to the plain score may come from the others.
WITHOUT_OVERLAP = "without overlap"


def halves_of(results: Iterable[TaskResult]) -> dict[str, str]:
    """task -> the half of the space that it is about."""
    return {row.task: result.half for result in results for row in result.rows}


def lines_of(
    models: Mapping[str, Iterable[ScoreRow]],
) -> dict[Line, dict[str, ScoreRow]]:
    """(task, metric) -> model -> plain row, in the order of their first occurrence."""
    lines: dict[Line, dict[str, ScoreRow]] = {}
    for name, rows in models.items():
        for row in rows:
            if not row.variant:
                lines.setdefault((row.task, row.metric), {})[name] = row
    return lines


def main_metrics(lines: Iterable[Line]) -> dict[str, str]:
    """task -> its first metric."""
    metrics: dict[str, str] = {}
    for task, metric in lines:
        metrics.setdefault(task, metric)
    return metrics


def variants_of(
    models: Mapping[str, Iterable[ScoreRow]],
) -> dict[str, dict[Key, ScoreRow]]:
    """variant -> (task, metric, model) -> row; dimensions first, in ascending order."""
    variants: dict[str, dict[Key, ScoreRow]] = {}
    for name, rows in models.items():
        for row in rows:
            # `changes_of` has the rows of differences
            if row.variant and not row.variant.endswith(DIFFERENCE):
                cells = variants.setdefault(row.variant, {})
                cells[row.task, row.metric, name] = row
    return {name: variants[name] for name in sorted(variants, key=_dims_first)}


def _dims_first(variant: str) -> tuple[bool, int]:
    dims = dims_of(variant)
    return dims is None, dims or 0


def changes_of(
    models: Mapping[str, Iterable[ScoreRow]],
) -> dict[str, dict[Key, float]]:
    """variant -> (task, metric, model) -> difference to the plain score of the same queries.

    A variant that changes only some queries brings rows of the difference; most others are
    scored on all queries. What is known from neither is left out.
    """
    changes: dict[str, dict[Key, float]] = {}
    for name, rows in models.items():
        plain = {(row.task, row.metric): row.value for row in rows if not row.variant}
        for row in rows:
            if row.value is None or not row.variant:
                continue
            key = (row.task, row.metric, name)
            before = plain.get((row.task, row.metric))
            if row.variant.endswith(DIFFERENCE):
                variant = row.variant.removesuffix(DIFFERENCE)
                changes.setdefault(variant, {})[key] = row.value
            elif before is not None and row.variant != WITHOUT_OVERLAP:
                changes.setdefault(row.variant, {}).setdefault(key, row.value - before)
    return changes


def variant_groups(
    variants: Mapping[str, Collection[Key]],
) -> list[list[str]]:
    """The variants of each table: those that share most of their lines. Leaves dimensions out."""
    groups: list[tuple[set[Key], list[str]]] = []
    for name, cells in variants.items():
        if dims_of(name) or not cells:
            continue
        lines = set(cells)
        for known, names in groups:
            if len(known & lines) >= MIN_SHARED * len(known | lines):
                known |= lines
                names.append(name)
                break
        else:
            groups.append((lines, [name]))
    return [names for _, names in groups]


def variant_keys(
    names: Iterable[str], variants: Variants, models: Sequence[str]
) -> list[Key]:
    """(task, metric, model) of all that any of the named variants scored, model by model."""
    scored = [variants[name] for name in names]
    lines = dict.fromkeys(key[:2] for cells in scored for key in cells)
    keys = [(task, metric, model) for task, metric in lines for model in models]
    known = set(chain.from_iterable(scored))
    return [key for key in keys if key in known]


def languages_of(
    lines: Iterable[Line],
) -> dict[str, dict[str, dict[str, Line]]]:
    """set -> language -> "direction metric" -> line, for sets of tasks in three languages or
    more.
    """
    sets: dict[str, dict[str, dict[str, Line]]] = {}
    for task, metric in lines:
        match = LANGUAGE.fullmatch(task)
        if match is None:
            continue
        direction = (match["direction"] or "").strip("/")
        column = f"{direction} {metric}".strip()
        languages = sets.setdefault(match["set"], {})
        languages.setdefault(match["language"], {})[column] = (
            task,
            metric,
        )
    return {
        name: languages
        for name, languages in sets.items()
        if len(languages) >= MIN_LANGUAGES
    }


def language_lines(lines: Iterable[Line]) -> set[Line]:
    """The lines that stand in the tables of languages, and so not in the table of scores."""
    found: set[Line] = set()
    for languages in languages_of(lines).values():
        for columns in languages.values():
            found.update(columns.values())
    return found


def significant_lines(comparisons: Comparisons) -> dict[str, set[Line]]:
    """model -> the lines on which one test tells it from the first model."""
    lines: dict[str, set[Line]] = {}
    for name, compared in comparisons.items():
        lines[name] = {
            (comparison.task, comparison.metric)
            for comparison in compared
            if comparison.p_value < SIGNIFICANT
        }
    return lines


def explain_mark(first: str) -> str:
    """What the * beside a score means, and how often it is wrong."""
    test = f"paired test, p < {SIGNIFICANT}, not corrected for multiple tests"
    return f"differs from {first} ({test})"


def section_of(line: Line, halves: Mapping[str, str]) -> str:
    """The half of the space that a line is about; "space" for its geometry, "" for both halves."""
    task, metric = line
    if task in halves:
        return halves[task]
    if not is_score(metric) or task.endswith("->mixed"):
        return "space"
    if "->image" in task or "image->" in task:
        return "cross-modal"
    return "" if halves else "text"


def dims_of(variant: str) -> int | None:
    """64 for "64 dims"; None for any other variant."""
    match = DIMS.fullmatch(variant)
    return int(match[1]) if match else None


def is_score(metric: str) -> bool:
    """Whether more is better; a distance between the modalities is neither good nor bad."""
    return NEUTRAL.match(metric) is None


def best_of(metric: str, values: Iterable[float | None]) -> float | None:
    """The best of several values of a score; None if there is nothing to choose from."""
    known = [value for value in values if value is not None]
    return max(known) if is_score(metric) and len(known) > 1 else None


def format_number(value: float | None) -> str:
    """Three decimals, or none for large and whole numbers such as a size in bytes; "-" for None."""
    if value is None:
        return "-"
    is_whole = value >= 2 and value == int(value)
    if abs(value) >= 10 or is_whole:
        return f"{value:,.0f}"
    return f"{value:.3f}"


def format_value(row: ScoreRow | None) -> str:
    """The value of a row as `format_number` writes it, or that it is undefined."""
    if row is None:
        return format_number(None)
    return UNDEFINED if row.is_undefined else format_number(row.value)


def format_change(change: float) -> str:
    """+0.012 or -0.012, without decimals from ten on; ±0 if it would round to zero."""
    if abs(change) < 0.0005:
        return "±0"
    if abs(change) >= 10:
        return f"{change:+,.0f}"
    return f"{change:+.3f}"


def format_interval(row: ScoreRow) -> str:
    """±.012: the distance from the value to the further end of its 95 % interval."""
    assert row.value is not None
    assert row.low is not None
    assert row.high is not None
    half = max(row.high - row.value, row.value - row.low)
    return f"±{half:.3f}".replace("±0.", "±.")


def notes_of(rows: Iterable[ScoreRow]) -> dict[str, str]:
    """ "TASK METRICS" -> why these values are undefined, or what they leave out.

    A note that several metrics or variants of a task share appears once.
    """
    metrics: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if not row.note:
            continue
        names = metrics.setdefault((row.task, row.note), {})
        # the note of a variant is that of the plain score, which came first
        if row.is_undefined and row.metric not in names:
            names[f"{row.metric} {row.variant}".strip()] = None
    return {
        f"{task} {', '.join(filter(None, names))}".strip(): note
        for (task, note), names in metrics.items()
    }
