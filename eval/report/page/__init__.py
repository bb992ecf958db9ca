"""The report as one HTML file that needs nothing else: no network, no server, no library.

All that comes from data is escaped. A content security policy allows the page's own style and
script by their hashes, images that lie in it, and nothing from anywhere.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from ...analysis.contamination import TaskOverlap
from ...analysis.neighbours import Clusters, Duplicates
from ...analysis.space_map import SpaceMap
from ...scoring.results import Row, TaskResult
from ...scoring.summary import BALANCE
from ..layout import (
    Comparisons,
    changes_of,
    halves_of,
    lines_of,
    number,
    section_of,
    variants_of,
)
from .failures import failure_sections
from .inputs import Thumbnails
from .overlap import overlap_tables
from .space import cluster_sections, duplicate_sections, map_figures
from .tables import (
    comparison_tables,
    curves,
    language_tables,
    model_html,
    notes_list,
    number_cell,
    published_tables,
    score_tables,
    table,
    variant_tables,
)

BALANCES = {
    "text_mean": "text half",
    "cross-modal_mean": "text and images half",
    "min": "weaker half",
    "harmonic_mean": "balance (harmonic mean)",
}
SCORES_SAID = (
    "Each score stands with half of its 95 % interval, beside chance and, where both sides are "
    "words, BM25. In the drawing a dot is a model with its interval, the tick is chance, the "
    "diamond BM25."
)
NOTES_SAID = (
    "Why a score is undefined (it is left out of means), and what of a task's data is "
    "missing."
)
COMPARED_SAID = (
    "The same queries asked of both: how much better the second is, and how often chance alone "
    "would make the models differ as much (p). Every test stands alone: of twenty between "
    "equals one is below 0.05."
)
PUBLISHED_SAID = (
    "What others published of the same task in the same metric. Definitions are never mixed "
    "in a column."
)
DIMS_SAID = (
    "The first dimensions of each vector, normalised again: what a smaller index would "
    "score."
)
VARIANTS_SAID = (
    "What was done stands above each column, and beside each score the difference that it makes "
    "to the same queries. The plain score is of all queries."
)
MAP_SAID = (
    "Texts and images in two dimensions. Point at one to read or see it, and what belongs "
    "to it."
)
CLUSTERS_SAID = (
    "Documents in groups that the model made by itself, named by the words that set them "
    "apart."
)
DUPLICATES_SAID = (
    "Documents so close to another that a ranking tells them apart by luck alone."
)
OVERLAP_SAID = (
    "Texts and images of the suite that also stand in the training data, and examples of "
    "them."
)
FAILURES_SAID = (
    "The queries that went worst in each task: what was asked, what was right, and what "
    "came first."
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
    rows: Sequence[Row] = ()  # of the analyses, beside those of the results
    facts: Mapping[str, str] = dataclasses.field(
        default_factory=dict
    )  # {"parameters": "22.7 M", ...}
    maps: Sequence[SpaceMap] = ()
    clusters: Sequence[Clusters] = ()
    duplicates: Sequence[Duplicates] = ()

    @property
    def all_rows(self) -> list[Row]:
        """The rows of the results, then those of the analyses."""
        return [*(row for result in self.results for row in result.rows), *self.rows]


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

    models: by the name that the page calls them.
    overlaps: what of the suite stands in the training data; from `eval.analysis.contamination`.
    comparisons: of each other model with the first; from `eval.scoring.statistics.compare`.
    max_images: thumbnails in the page, of some 4 kB each: a third in maps, the others first where
        it fails.
    """
    names = list(models)
    rows = {name: report.all_rows for name, report in models.items()}
    halves = {
        task: half
        for report in models.values()
        for task, half in halves_of(report.results).items()
    }
    lines = lines_of(rows)
    variants = variants_of(rows)
    if overlaps:
        variants.pop("contamination", None)  # has a section of its own
    on_maps = Thumbnails(max_images // 3)
    thumbnails = Thumbnails(max_images - max_images // 3)
    failures = failure_sections(
        {name: report.results for name, report in models.items()}, thumbnails
    )
    compared = comparison_tables(comparisons or {}, lines, names[0])
    num_dims = {
        name: one.queries.shape[1]
        for name, report in models.items()
        for one in report.results
        if one.queries is not None
    }
    sections = [
        ("scores", "Scores", SCORES_SAID, score_tables(lines, names, halves, comparisons or {})),
        ("notes", "What to know of these scores", NOTES_SAID, notes_list(rows)),
        ("compared", "One model against the other", COMPARED_SAID, compared),
        ("published", "Beside published models", PUBLISHED_SAID, published_tables(lines, names)),
        ("languages", "Languages", "", language_tables(lines, names)),
        ("dimensions", "Fewer dimensions", DIMS_SAID, _wrapped("charts", curves(variants, lines, names, num_dims))),
        ("variants", "Changed vectors, changed inputs", VARIANTS_SAID,
         variant_tables(variants, changes_of(rows), lines, names)),
        ("map", "A map of the space", MAP_SAID,
         _of_each(models, lambda one: map_figures(one.maps, one.results, on_maps))),
        ("clusters", "What it is about", CLUSTERS_SAID,
         _of_each(models, lambda one: cluster_sections(one.clusters, one.results, thumbnails))),
        ("duplicates", "Near-duplicates", DUPLICATES_SAID,
         _of_each(models, lambda one: duplicate_sections(one.duplicates, one.results, thumbnails))),
        ("contamination", "Seen in training", OVERLAP_SAID, overlap_tables(overlaps)),
        ("failures", "Where it fails", FAILURES_SAID, failures),
    ]  # fmt: skip
    shown = [section for section in sections if section[3]]
    style = _asset("style.css")
    script = _asset("script.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src "
        f"'{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _, _ in shown)
    html = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<header><div class="inner">
<h1>{escape(title)}</h1>
{f"<p>{escape(introduction)}</p>" if introduction else ""}
{_tiles(models, halves) if len(models) == 1 else _side_by_side(models, halves)}
</div></header>
<nav aria-label="sections"><div class="inner">{links}</div></nav>
<main>
{"".join(_section(*section) for section in shown)}
</main>
<footer>{escape(FOOTER)}</footer>
<script>{script}</script>
</body>
</html>
"""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(html, encoding="utf-8")


def _section(key: str, title: str, said: str, body: str) -> str:
    explained = f'<p class="said">{escape(said)}</p>' if said else ""
    return f'<section id="{key}"><h2>{escape(title)}</h2>{explained}{body}</section>\n'


def _tiles(models: Mapping[str, ModelReport], halves: Mapping[str, str]) -> str:
    """What to know of one model at a glance."""
    name, report = next(iter(models.items()))
    scores = "".join(
        f'<div class="main"><dt>{escape(summary)}</dt><dd>{number(value)}</dd></div>'
        for summary, value in _summary(report, halves).items()
    )
    known = {"model": name, **report.facts} if name else report.facts
    facts = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>"
        for key, value in known.items()
    )
    return f'<dl class="tiles">{scores}</dl><dl class="tiles facts">{facts}</dl>'


def _side_by_side(models: Mapping[str, ModelReport], halves: Mapping[str, str]) -> str:
    """The same of several models, a row each."""
    summaries = {name: _summary(report, halves) for name, report in models.items()}
    columns = list(
        dict.fromkeys(key for summary in summaries.values() for key in summary)
    )
    facts = list(
        dict.fromkeys(key for report in models.values() for key in report.facts)
    )
    rows = []
    for place, (name, report) in enumerate(models.items()):
        scores = "".join(
            number_cell(summaries[name].get(key), classes="score") for key in columns
        )
        said = "".join(
            f"<td>{escape(report.facts.get(key, '–'))}</td>" for key in facts
        )
        rows.append(f"<tr><td>{model_html(name, place)}</td>{scores}{said}</tr>")
    scored = [(key, "number") for key in columns]
    known = [(key, "text") for key in facts]
    return table([("model", "text"), *scored, *known], rows)


def _summary(report: ModelReport, halves: Mapping[str, str]) -> dict[str, float | None]:
    """What stands for whole halves: the balance first, then other rows of no single task."""
    rows = [
        row
        for row in report.all_rows
        if not row.variant and section_of((row.task, row.metric), halves) == ""
    ]
    rows.sort(key=lambda row: row.task != BALANCE)
    named = {
        row: BALANCES.get(row.metric) if row.task == BALANCE else None for row in rows
    }
    return {
        name or f"{row.task}, {row.metric}".replace("->", " → "): row.value
        for row, name in named.items()
    }


def _of_each(
    models: Mapping[str, ModelReport], body: Callable[[ModelReport], str]
) -> str:
    """The same of every model, under its name where there are several."""
    parts = []
    for place, (name, report) in enumerate(models.items()):
        if inside := body(report):
            parts.append(
                f'<h3 class="whose">{model_html(name, place)}</h3>{inside}'
                if len(models) > 1
                else inside
            )
    return "".join(parts)


def _wrapped(name: str, inside: str) -> str:
    return f'<div class="{name}">{inside}</div>' if inside else ""


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(inline: str) -> str:
    return (
        "sha256-" + base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    )
