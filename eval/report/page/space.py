"""The space to be looked at: a map of texts and images, clusters by what they are about,
near-duplicates.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import TypeVar

from ...analysis.neighbours import Clusters, Duplicates
from ...analysis.space import matches_of
from ...analysis.space_map import SpaceMap
from ...data.datasets import Fused, Input, RetrievalData
from ...scoring.results import TaskResult
from .inputs import Thumbnails, input_html, shortened
from .tables import task_html

Found = TypeVar("Found")

WIDTH = 960
HEIGHT = 600
MARGIN = 16
MAX_LABEL = 200  # characters
MAX_CLUSTERS = 12
MAX_GROUPS = 8
MAX_MEMBERS = 5  # shown of a task


def map_figures(
    maps: Sequence[SpaceMap], results: Sequence[TaskResult], thumbnails: Thumbnails
) -> str:
    """A drawing of each map, a dot a text and a square an image; whoever points at one reads it
    and sees its mates.
    """
    by_name = {result.name.removesuffix("/text->image"): result for result in results}
    return "".join(
        _map_figure(one, by_name[one.task], thumbnails) for one in maps if one.points
    )


def cluster_sections(
    clusters: Sequence[Clusters], results: Sequence[TaskResult], thumbnails: Thumbnails
) -> str:
    """What the documents of each task are about: each cluster's words and share, and what stands in
    its middle.
    """
    by_name = {result.name: result for result in results}
    parts = []
    for place, (tasks, one) in enumerate(
        _alike([(one.task, one.clusters, one) for one in clusters])
    ):
        documents = _documents(by_name[one.task])
        cards = "".join(
            "<article "
            f'class="cluster"><h4>{escape(", ".join(cluster.words) or "no words of its own")}</h4>'
            f'<p class="quiet">{cluster.share:.1%} of the documents</p><ul '
            f'class="items">{_items([documents[at] for at in cluster.typical], thumbnails)}</ul></article>'
            for cluster in one.clusters[:MAX_CLUSTERS]
        )
        more = len(one.clusters) - MAX_CLUSTERS
        said = f'<p class="quiet">and {more} smaller ones</p>' if more > 0 else ""
        parts.append(
            _opening(
                tasks, f'<div class="clusters">{cards}</div>{said}', is_open=place == 0
            )
        )
    return "".join(parts)


def duplicate_sections(
    duplicates: Sequence[Duplicates],
    results: Sequence[TaskResult],
    thumbnails: Thumbnails,
) -> str:
    """Documents that the model can hardly tell apart, the largest groups of each task; "" if no
    task has any.
    """
    by_name = {result.name: result for result in results}
    parts = []
    for tasks, one in _alike([(one.task, one.groups, one) for one in duplicates]):
        documents = _documents(by_name[one.task])
        groups = "".join(
            f'<li><p class="quiet">{len(group)} alike</p><ul class="items">'
            f"{_items([documents[at] for at in group[:MAX_MEMBERS]], thumbnails)}</ul></li>"
            for group in one.groups[:MAX_GROUPS]
        )
        if groups:
            share = (
                f'<span class="direction">{one.share:.1%} have another at a cosine of '
                f"{one.threshold:g} or more</span>"
            )
            parts.append(
                _opening(
                    f"{tasks} {share}",
                    f'<ul class="groups">{groups}</ul>',
                    is_open=False,
                )
            )
    return "".join(parts)


def _alike(found: Sequence[tuple[str, object, Found]]) -> list[tuple[str, Found]]:
    """(the names of tasks as HTML, what was found), once for tasks that search the same documents.

    found: (task, what it is told apart by, all of it).
    """
    together: list[tuple[list[str], object, Found]] = []
    for task, key, one in found:
        known = next(
            (
                names
                for names, other, _ in together
                if other == key and _set(names[0]) == _set(task)
            ),
            None,
        )
        if known is None:
            together.append(([task], key, one))
        else:
            known.append(task)
    return [(" · ".join(map(task_html, names)), one) for names, _, one in together]


def _set(task: str) -> str:
    return task.partition("/")[0]


def _map_figure(drawn: SpaceMap, result: TaskResult, thumbnails: Thumbnails) -> str:
    places = _placed([(point.x, point.y) for point in drawn.points])
    shapes = [
        f'<circle class="point text" cx="{x}" cy="{y}" r="3.5"/>'
        if point.modality == "text"
        else f'<rect class="point image" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>'
        for point, (x, y) in zip(drawn.points, places, strict=True)
    ]
    counts = {
        kind: sum(point.modality == kind for point in drawn.points)
        for kind in ("text", "image")
    }
    axes = (
        ""
        if drawn.explained is None
        else f"; the axes hold {sum(drawn.explained):.0%} of the variance"
    )
    said = (
        f"map of {counts['text']} texts and {counts['image']} images; arrow keys go from "
        "one to the next"
    )
    method = (
        f"{escape(drawn.method.upper())}{axes}; lines lead to what belongs together"
    )
    return (
        f'<figure class="map"><div class="legend">{_toggle("text", "texts", counts["text"])}'
        f"{_toggle('image', 'pictures', counts['image'])}</div>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" tabindex="0" role="img" aria-label="{said}">'
        f'<g class="mates"></g>{"".join(shapes)}<circle class="here" r="7" cx="-20" cy="-20"/></svg>'
        f'<div class="tip" role="status" hidden></div>'
        f'<figcaption>{task_html(drawn.task)}<span class="quiet">{method}</span></figcaption>'
        f'<script type="application/json">{_points_json(drawn, result, places, thumbnails)}</script></figure>'
    )


def _points_json(
    drawn: SpaceMap,
    result: TaskResult,
    places: Sequence[tuple[float, float]],
    thumbnails: Thumbnails,
) -> str:
    """[[x, y, 0 text or 1 image, label, thumbnail, [numbers of the points that belong to it]],
    ...]
    """
    assert isinstance(result.data, RetrievalData)
    numbers = {
        (point.modality, point.index): number
        for number, point in enumerate(drawn.points)
    }
    matches = matches_of(result.data)
    mates: list[list[int]] = [[] for _ in drawn.points]
    for number, point in enumerate(drawn.points):
        for document in matches[point.index] if point.modality == "text" else ():
            if (other := numbers.get(("image", document))) is not None:
                mates[number].append(other)
                mates[other].append(number)
    points = [
        [
            x,
            y,
            int(point.modality == "image"),
            shortened(point.label, MAX_LABEL),
            _thumbnail(result.data.documents[point.index], thumbnails)
            if point.modality == "image"
            else "",
            mates[number],
        ]
        for number, (point, (x, y)) in enumerate(zip(drawn.points, places, strict=True))
    ]
    return json.dumps(points, ensure_ascii=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )


def _placed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points in the drawing, both axes at one scale, so that distances are seen as they are."""
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    scale = min(
        (WIDTH - 2 * MARGIN) / max(max(xs) - min(xs), 1e-9),
        (HEIGHT - 2 * MARGIN) / max(max(ys) - min(ys), 1e-9),
    )
    middle_x = (max(xs) + min(xs)) / 2
    middle_y = (max(ys) + min(ys)) / 2
    return [
        (
            round(WIDTH / 2 + (x - middle_x) * scale, 1),
            round(HEIGHT / 2 - (y - middle_y) * scale, 1),
        )
        for x, y in points
    ]


def _thumbnail(one: Input, thumbnails: Thumbnails) -> str:
    return (
        "" if isinstance(one, (str, Fused)) else thumbnails.uri(one)
    )  # a map has neither


def _toggle(kind: str, name: str, count: int) -> str:
    return (
        f'<button type="button" class="{kind}" data-kind="{kind}" '
        f'aria-pressed="true">{count:,} {name}</button>'
    )


def _documents(result: TaskResult) -> Sequence[Input]:
    assert isinstance(result.data, RetrievalData)
    return result.data.documents


def _items(inputs: Iterable[Input], thumbnails: Thumbnails) -> str:
    return "".join(f"<li>{input_html(one, thumbnails)}</li>" for one in inputs)


def _opening(summary: str, body: str, *, is_open: bool) -> str:
    opened = " open" if is_open else ""
    return (
        f"<details{opened}><summary>{summary}</summary><div "
        f'class="inside">{body}</div></details>'
    )
