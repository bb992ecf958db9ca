"""A map of texts and images, clusters by what they are about, and near-duplicates.

`space.html.j2` lays them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ...analysis.neighbours import Cluster, Clusters, Duplicates
from ...analysis.space import matches_of
from ...analysis.space_map import SpaceMap
from ...data.inputs import Fused, Input
from ...results import TaskResult
from .cells import TaskName, task_name
from .inputs import ShownInput, Thumbnails, shorten, show_input

Shared = TypeVar("Shared", Clusters, Duplicates)

WIDTH = 960
HEIGHT = 600
MARGIN = 16
MAX_LABEL = 200  # characters
MAX_CLUSTERS = 12
MAX_GROUPS = 8  # per task
MAX_MEMBERS = 5  # per group


@dataclass(frozen=True)
class MapFigure:
    """A drawing of a map: a dot for each text and a square for each image."""

    task: TaskName
    method: str
    explained: float | None  # share of the variance that the axes hold
    width: int
    height: int
    texts: Sequence[tuple[float, float]]
    images: Sequence[tuple[float, float]]
    # For the script, per point: x, y, 0 for a text or 1 for an image, label, thumbnail, and the
    # numbers of the points that belong to it.
    points: Sequence[Sequence[object]]


@dataclass(frozen=True)
class ShownCluster:
    """A cluster with its words and the documents nearest to its centre."""

    words: str
    share: float
    documents: Sequence[ShownInput]


@dataclass(frozen=True)
class ClusterSection:
    """The clusters of the documents of some tasks."""

    tasks: Sequence[TaskName]
    clusters: Sequence[ShownCluster]
    num_more: int  # smaller ones that are not shown


@dataclass(frozen=True)
class ShownGroup:
    """Documents that are near-duplicates, some of them shown."""

    size: int
    documents: Sequence[ShownInput]


@dataclass(frozen=True)
class DuplicateSection:
    """The near-duplicates among the documents of some tasks."""

    tasks: Sequence[TaskName]
    share: float
    threshold: float
    groups: Sequence[ShownGroup]


def map_figures(
    maps: Sequence[SpaceMap], results: Sequence[TaskResult], thumbnails: Thumbnails
) -> list[MapFigure]:
    """A drawing of each map that has points."""
    by_name = {result.name.removesuffix("/text->image"): result for result in results}
    return [
        _map_figure(space_map, by_name[space_map.task], thumbnails)
        for space_map in maps
        if space_map.points
    ]


def _map_figure(
    space_map: SpaceMap, result: TaskResult, thumbnails: Thumbnails
) -> MapFigure:
    places = _scale([(point.x, point.y) for point in space_map.points])
    by_modality: dict[str, list[tuple[float, float]]] = {"text": [], "image": []}
    for point, place in zip(space_map.points, places, strict=True):
        by_modality[point.modality].append(place)
    explained = space_map.explained
    return MapFigure(
        task=task_name(space_map.task),
        method=space_map.method.upper(),
        explained=None if explained is None else sum(explained),
        width=WIDTH,
        height=HEIGHT,
        texts=by_modality["text"],
        images=by_modality["image"],
        points=_map_points(space_map, result, places, thumbnails),
    )


def _scale(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points in the drawing, with both axes at one scale, so that distances are kept."""
    xs = [x for x, _ in points]
    ys = [y for _, y in points]
    scale = min(
        (WIDTH - 2 * MARGIN) / max(max(xs) - min(xs), 1e-9),
        (HEIGHT - 2 * MARGIN) / max(max(ys) - min(ys), 1e-9),
    )
    middle_x = (max(xs) + min(xs)) / 2
    middle_y = (max(ys) + min(ys)) / 2
    places = []
    for x, y in points:
        across = round(WIDTH / 2 + (x - middle_x) * scale, 1)
        down = round(HEIGHT / 2 - (y - middle_y) * scale, 1)
        places.append((across, down))
    return places


def _map_points(
    space_map: SpaceMap,
    result: TaskResult,
    places: Sequence[tuple[float, float]],
    thumbnails: Thumbnails,
) -> list[list[object]]:
    """The points for the script, as `MapFigure` describes them."""
    documents = _documents(result)
    mates = _mates(space_map, result)
    points: list[list[object]] = []
    for number, point in enumerate(space_map.points):
        is_image = point.modality == "image"
        uri = _thumbnail(documents[point.index], thumbnails) if is_image else ""
        label = shorten(point.label, MAX_LABEL)
        points.append([*places[number], int(is_image), label, uri, mates[number]])
    return points


def _mates(space_map: SpaceMap, result: TaskResult) -> list[list[int]]:
    """For each point, the numbers of the points that belong to it."""
    corpus = result.data.as_corpus()
    assert corpus is not None
    images = {
        point.index: number
        for number, point in enumerate(space_map.points)
        if point.modality == "image"
    }
    matches = matches_of(corpus.judgements)
    mates: list[list[int]] = [[] for _ in space_map.points]
    for number, point in enumerate(space_map.points):
        if point.modality != "text":
            continue
        for document in matches[point.index]:
            if document in images:
                mates[number].append(images[document])
                mates[images[document]].append(number)
    return mates


def _thumbnail(document: Input, thumbnails: Thumbnails) -> str:
    # a map has images alone, no texts and no fused inputs
    if isinstance(document, (str, Fused)):
        return ""
    return thumbnails.uri(document)


def cluster_sections(
    clusters: Sequence[Clusters], results: Sequence[TaskResult], thumbnails: Thumbnails
) -> list[ClusterSection]:
    """What the documents of each task are about: the words, the share and the middle of each
    cluster.
    """
    by_name = {result.name: result for result in results}
    sections = []
    for tasks, found in _merge_tasks(clusters, lambda found: found.clusters):
        documents = _documents(by_name[found.task])
        section = ClusterSection(
            tasks,
            [
                _show_cluster(cluster, documents, thumbnails)
                for cluster in found.clusters[:MAX_CLUSTERS]
            ],
            num_more=len(found.clusters) - MAX_CLUSTERS,
        )
        sections.append(section)
    return sections


def _show_cluster(
    cluster: Cluster, documents: Sequence[Input], thumbnails: Thumbnails
) -> ShownCluster:
    words = ", ".join(cluster.words) or "no words of its own"
    shown = _show_inputs(documents, cluster.typical, thumbnails)
    return ShownCluster(words, cluster.share, shown)


def duplicate_sections(
    duplicates: Sequence[Duplicates],
    results: Sequence[TaskResult],
    thumbnails: Thumbnails,
) -> list[DuplicateSection]:
    """The largest groups of documents that the model can hardly tell apart, per task."""
    by_name = {result.name: result for result in results}
    sections = []
    for tasks, found in _merge_tasks(duplicates, lambda found: found.groups):
        documents = _documents(by_name[found.task])
        groups = []
        for members in found.groups[:MAX_GROUPS]:
            shown = _show_inputs(documents, members[:MAX_MEMBERS], thumbnails)
            groups.append(ShownGroup(len(members), shown))
        if groups:
            section = DuplicateSection(tasks, found.share, found.threshold, groups)
            sections.append(section)
    return sections


def _merge_tasks(
    found: Sequence[Shared], content: Callable[[Shared], object]
) -> list[tuple[list[TaskName], Shared]]:
    """What was found, once for all tasks of a set that search the same documents.

    content: what is equal for tasks that search the same documents.
    """
    merged: list[tuple[list[str], Shared]] = []
    for of_task in found:
        for tasks, other in merged:
            is_same_set = _set_of(tasks[0]) == _set_of(of_task.task)
            if is_same_set and content(other) == content(of_task):
                tasks.append(of_task.task)
                break
        else:
            merged.append(([of_task.task], of_task))
    return [(list(map(task_name, tasks)), first) for tasks, first in merged]


def _set_of(task: str) -> str:
    return task.partition("/")[0]


def _documents(result: TaskResult) -> Sequence[Input]:
    corpus = result.data.as_corpus()
    assert corpus is not None
    return corpus.documents


def _show_inputs(
    documents: Sequence[Input], positions: Iterable[int], thumbnails: Thumbnails
) -> list[ShownInput]:
    return [show_input(documents[position], thumbnails) for position in positions]
