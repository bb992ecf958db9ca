"""The report as one HTML file that needs no network, no server and no library.

Python prepares plain values; the Jinja templates of this folder escape them and lay them out. A
content security policy allows the page's own style and script by their hashes, images inside the
page, and nothing else.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...analysis.contamination import TaskOverlap
from ...analysis.neighbours import Clusters, Duplicates
from ...analysis.space_map import SpaceMap
from ...results import TaskResult
from ...scoring.score_row import ScoreRow
from ...summary import BALANCE
from ..layout import (
    Comparisons,
    changes_of,
    format_number,
    halves_of,
    lines_of,
    section_of,
    variants_of,
)
from .cells import (
    Cell,
    Head,
    ModelName,
    Table,
    TableRow,
    TextCell,
    model_name,
    number_cell,
)
from .failures import task_failures
from .inputs import Thumbnails
from .overlap import overlap_tables
from .space import cluster_sections, duplicate_sections, map_figures
from .tables import (
    comparison_tables,
    dims_figures,
    language_tables,
    notes,
    published_tables,
    score_tables,
    variant_tables,
)
from .templates import render

BALANCES = {
    "text_mean": "text half",
    "cross-modal_mean": "text and images half",
    "min": "weaker half",
    "harmonic_mean": "balance (harmonic mean)",
}
ABOUT_SCORES = (
    "Each score with half of its 95 % interval, beside chance and, for tasks with text on both "
    "sides, BM25. In the drawing a dot is a model with its interval, the tick is chance, the "
    "diamond BM25."
)
ABOUT_NOTES = (
    "Why a score is undefined (means leave it out), and what a task's data lacks."
)
ABOUT_COMPARISONS = (
    "Both models on the same queries: how much better the second one is, and how often chance "
    "alone would make them differ as much (p). p values are not corrected for multiple tests."
)
ABOUT_PUBLISHED = (
    "Published scores of the same task in the same metric; no column mixes definitions."
)
ABOUT_DIMS = "The first dimensions of each vector, normalised again: the scores of a smaller index."
ABOUT_VARIANTS = (
    "Each column names the change. Beside each score is the difference that it makes to the same "
    "queries. The plain score is of all queries."
)
ABOUT_MAP = (
    "Texts and images in two dimensions. Point at one to see it and what belongs to it."
)
ABOUT_CLUSTERS = (
    "Groups of documents that the model puts close together, named by the words that are "
    "typical of them."
)
ABOUT_DUPLICATES = "Documents that the model can hardly tell apart."
ABOUT_OVERLAP = (
    "Texts and images of the suite that also occur in the training data, with examples."
)
ABOUT_FAILURES = (
    "The worst queries of each task: the query, the right answer, and what came first."
)
FOOTER = (
    "hit_rate_at_k: share of queries with a relevant document among the first k (R@k in papers "
    "on CLIP). recall_at_k: share of the relevant documents among the first k. Intervals are "
    "Wilson's for shares of queries, else bootstrapped over queries."
)


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """All that is known of one model."""

    results: Sequence[TaskResult]
    rows: Sequence[ScoreRow] = ()  # of the analyses, beside those of the results
    # {"parameters": "22.7 M", ...}
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    maps: Sequence[SpaceMap] = ()
    clusters: Sequence[Clusters] = ()
    duplicates: Sequence[Duplicates] = ()

    @property
    def all_rows(self) -> list[ScoreRow]:
        """The rows of the results, then those of the analyses."""
        rows = [row for result in self.results for row in result.rows]
        return [*rows, *self.rows]


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page; `layout` names the part of report.html.j2 that shows its content."""

    key: str
    title: str
    about: str
    layout: str
    content: Sequence[object]


@dataclasses.dataclass(frozen=True)
class ModelPart:
    """What a section shows of one model; it is named if the page has several models."""

    model: ModelName | None
    content: Sequence[object]


def write_report(
    file: Path,
    models: Mapping[str, ModelReport],
    *,
    title: str,
    introduction: str = "",
    overlaps: Sequence[TaskOverlap] = (),
    comparisons: Comparisons | None = None,
    max_images: int = 500,
) -> None:
    """Write the report of one model, or of several side by side.

    models: by the name that the page shows.
    overlaps: what of the suite occurs in the training data; from `eval.analysis.contamination`.
    comparisons: of each other model with the first; from `eval.scoring.statistics.compare`.
    max_images: thumbnails in the page, of some 4 kB each: a third in maps, the others first
        among the failures.
    """
    halves = {
        task: half
        for report in models.values()
        for task, half in halves_of(report.results).items()
    }
    summaries = {name: _summary(report, halves) for name, report in models.items()}
    sections = _sections(models, halves, overlaps, comparisons or {}, max_images)
    style = _read_asset("style.css")
    script = _read_asset("script.js")
    html = render(
        "report.html.j2",
        title=title,
        introduction=introduction,
        scores=_score_tiles(summaries),
        facts=_fact_tiles(models),
        side_by_side=_side_by_side(models, summaries) if len(models) > 1 else None,
        sections=[section for section in sections if section.content],
        footer=FOOTER,
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(html, encoding="utf-8")


def _sections(
    models: Mapping[str, ModelReport],
    halves: Mapping[str, str],
    overlaps: Sequence[TaskOverlap],
    comparisons: Comparisons,
    max_images: int,
) -> list[Section]:
    """All sections, those without content too."""
    names = list(models)
    rows = {name: report.all_rows for name, report in models.items()}
    lines = lines_of(rows)
    variants = variants_of(rows)
    if overlaps:
        variants.pop("contamination", None)  # has a section of its own

    on_maps = Thumbnails(max_images // 3)
    thumbnails = Thumbnails(max_images - max_images // 3)
    # failures come first, so that they have images even if the others have none left
    results = {name: report.results for name, report in models.items()}
    failures = task_failures(results, thumbnails)
    maps = _per_model(
        models, lambda report: map_figures(report.maps, report.results, on_maps)
    )
    clusters = _per_model(
        models,
        lambda report: cluster_sections(report.clusters, report.results, thumbnails),
    )
    duplicates = _per_model(
        models,
        lambda report: duplicate_sections(
            report.duplicates, report.results, thumbnails
        ),
    )

    scores = score_tables(lines, names, halves, comparisons)
    compared = comparison_tables(comparisons, lines, names[0])
    published = published_tables(lines, names)
    languages = language_tables(lines, names)
    dims = dims_figures(variants, lines, names, _num_dims(models))
    changed = variant_tables(variants, changes_of(rows), lines, names)
    overlap = overlap_tables(overlaps)
    return [
        Section("scores", "Scores", ABOUT_SCORES, "tables", scores),
        Section("notes", "Notes on these scores", ABOUT_NOTES, "notes", notes(rows)),
        Section("compared", "Comparison", ABOUT_COMPARISONS, "tables", compared),
        Section("published", "Published models", ABOUT_PUBLISHED, "tables", published),
        Section("languages", "Languages", "", "tables", languages),
        Section("dimensions", "Fewer dimensions", ABOUT_DIMS, "charts", dims),
        Section(
            "variants", "Changed vectors and inputs", ABOUT_VARIANTS, "tables", changed
        ),
        Section("map", "A map of the space", ABOUT_MAP, "maps", maps),
        Section("clusters", "Clusters", ABOUT_CLUSTERS, "clusters", clusters),
        Section(
            "duplicates", "Near-duplicates", ABOUT_DUPLICATES, "duplicates", duplicates
        ),
        Section("contamination", "Seen in training", ABOUT_OVERLAP, "tables", overlap),
        Section("failures", "Failures", ABOUT_FAILURES, "failures", failures),
    ]


def _num_dims(models: Mapping[str, ModelReport]) -> dict[str, int]:
    """model -> number of dimensions of its vectors, where they are known."""
    num_dims = {}
    for name, report in models.items():
        for result in report.results:
            if result.queries is not None:
                num_dims[name] = result.queries.shape[1]
    return num_dims


def _per_model(
    models: Mapping[str, ModelReport],
    show: Callable[[ModelReport], Sequence[object]],
) -> list[ModelPart]:
    """What a section shows of each model, without the models that have nothing to show."""
    parts = []
    for place, (name, report) in enumerate(models.items()):
        content = show(report)
        if content:
            model = model_name(name, place) if len(models) > 1 else None
            parts.append(ModelPart(model, content))
    return parts


def _score_tiles(
    summaries: Mapping[str, Mapping[str, float | None]],
) -> dict[str, str]:
    """The scores of whole halves by the first model, as texts."""
    first = next(iter(summaries.values()))
    return {name: format_number(value) for name, value in first.items()}


def _fact_tiles(models: Mapping[str, ModelReport]) -> dict[str, str]:
    """What to know of the first model at a glance."""
    name, report = next(iter(models.items()))
    return {"model": name, **report.facts} if name else dict(report.facts)


def _side_by_side(
    models: Mapping[str, ModelReport],
    summaries: Mapping[str, Mapping[str, float | None]],
) -> Table:
    """Scores of whole halves and facts, one row per model."""
    scores = dict.fromkeys(key for summary in summaries.values() for key in summary)
    facts = dict.fromkeys(key for report in models.values() for key in report.facts)
    rows = []
    for place, (name, report) in enumerate(models.items()):
        cells: list[Cell] = [model_name(name, place)]
        cells += [number_cell(summaries[name].get(key), "score") for key in scores]
        cells += [TextCell(report.facts.get(key, "–")) for key in facts]
        rows.append(TableRow(cells))
    heads = [Head("model")]
    heads += [Head(key, "number") for key in scores]
    heads += [Head(key) for key in facts]
    return Table(heads, rows)


def _summary(report: ModelReport, halves: Mapping[str, str]) -> dict[str, float | None]:
    """Scores of whole halves: the balance first, then other rows of more than one task."""
    rows = [
        row
        for row in report.all_rows
        if not row.variant and section_of((row.task, row.metric), halves) == ""
    ]
    rows.sort(key=lambda row: row.task != BALANCE)
    summary = {}
    for row in rows:
        name = f"{row.task}, {row.metric}".replace("->", " → ")
        if row.task == BALANCE:
            name = BALANCES.get(row.metric) or name
        summary[name] = row.value
    return summary


def _read_asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _hash(inline: str) -> str:
    digest = hashlib.sha256(inline.encode()).digest()
    return "sha256-" + base64.b64encode(digest).decode()
