"""What the tables of the page are made of, as plain values; `tables.html.j2` lays them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from ...scoring.score_row import ScoreRow
from ..layout import UNDEFINED, format_number
from .charts import NUM_COLOURS, ScorePlot

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
    "modality_gap": "distance between the centroids of the texts and of the images",
    "alignment": "mean squared distance between matching texts and images; lower is closer",
    "uniformity": "how evenly the vectors fill the sphere; lower is more even",
    "image_share": "share of images in the top 10 of one index of texts and images",
}


@dataclass(frozen=True)
class TaskName:
    """A task, with its direction apart."""

    kind: ClassVar[str] = "task"
    name: str
    direction: str  # "text → image"; "" without one


@dataclass(frozen=True)
class MetricName:
    """A metric, with what it means for a reader who points at it."""

    kind: ClassVar[str] = "metric"
    name: str
    meaning: str


@dataclass(frozen=True)
class ModelName:
    """A model beside the dot of its colour."""

    kind: ClassVar[str] = "model"
    name: str
    colour: int


@dataclass(frozen=True)
class TextCell:
    """A text."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class NumberCell:
    """A number, by which its column is sorted, and what stands beside it."""

    kind: ClassVar[str] = "number"
    value: float | None
    text: str
    classes: str = ""
    note: str = ""  # for a reader who points at the number
    mark_note: str = ""  # what the mark * behind the number means; "" for no mark
    detail: str = ""  # such as half of the interval
    detail_note: str = ""
    change: str = ""
    change_direction: str = ""  # "up" or "down"; "" for neither


@dataclass(frozen=True)
class PlotCell:
    """A drawing; None leaves the cell empty."""

    kind: ClassVar[str] = "plot"
    plot: ScorePlot | None


@dataclass(frozen=True)
class LinksCell:
    """Links to sources."""

    kind: ClassVar[str] = "links"
    links: Mapping[str, str]  # text -> URL


Cell: TypeAlias = (
    TaskName | MetricName | ModelName | TextCell | NumberCell | PlotCell | LinksCell
)


@dataclass(frozen=True)
class Head:
    """The head of a column; columns sort at a click or a key, except for drawings."""

    title: str
    kind: str = "text"  # "text", "number" or "drawing"


@dataclass(frozen=True)
class TableRow:
    """A row; rows of this report's models beside those of others are marked."""

    cells: Sequence[Cell]
    is_ours: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a title above it and a caption in it; "" or None leaves them out."""

    heads: Sequence[Head]
    rows: Sequence[TableRow]
    title: str = ""
    caption: str = ""
    caption_task: TaskName | None = None  # stands before the caption


def task_name(task: str) -> TaskName:
    """The name of a task and its direction."""
    if "->" not in task:
        return TaskName(task, "")
    name, _, direction = task.rpartition("/")
    return TaskName(name, direction.replace("->", " → "))


def metric_name(metric: str) -> MetricName:
    """The name of a metric and its meaning."""
    for start, meaning in MEANINGS.items():
        if metric.startswith(start):
            return MetricName(metric, meaning)
    return MetricName(metric, "")


def model_name(name: str, place: int) -> ModelName:
    """The name of a model and the colour of its place among the models."""
    return ModelName(name or "this model", place % NUM_COLOURS)


def number_cell(value: float | None, classes: str = "") -> NumberCell:
    """A number, or a dash for None."""
    text = "–" if value is None else format_number(value)
    return NumberCell(value, text, classes)


def count_cell(count: int | None) -> NumberCell:
    """A number of queries, or a dash for None."""
    text = "–" if count is None else f"{count:,}"
    return NumberCell(count, text, "quiet")


def empty_cell(row: ScoreRow | None) -> NumberCell:
    """A value that was not measured, or that is undefined, with the reason."""
    if row is None or not row.is_undefined:
        return number_cell(None)
    return NumberCell(None, UNDEFINED, note=row.note)
