"""The worst queries and pairs of each task: the query, what it should have found, and what it
found. `failures.html.j2` lays them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...analysis.failures import (
    RankedDocument,
    WorstPair,
    WorstQuery,
    worst_pairs,
    worst_queries,
)
from ...results import TaskResult
from ..layout import format_number
from .cells import (
    Cell,
    Head,
    ModelName,
    Table,
    TableRow,
    TaskName,
    TextCell,
    model_name,
    number_cell,
    task_name,
)
from .inputs import ShownInput, Thumbnails, show_input

MAX_SHOWN = 6  # queries per task, of all models together


@dataclass(frozen=True)
class ShownDocument:
    """A document that was found, or should have been."""

    input: ShownInput
    rank: int
    score: float
    is_relevant: bool


@dataclass(frozen=True)
class FailedQuery:
    """A query that went wrong."""

    query: ShownInput
    rank: int  # of its best relevant document
    value: str  # "METRIC VALUE"; "" without any
    relevant: Sequence[ShownDocument]
    found: Sequence[ShownDocument]


@dataclass(frozen=True)
class ModelFailures:
    """What went wrong by one model; it is named if the page has several models."""

    model: ModelName | None
    queries: Sequence[FailedQuery]
    pairs: Table | None


@dataclass(frozen=True)
class TaskFailures:
    """What went wrong in one task."""

    task: TaskName
    models: Sequence[ModelFailures]


def task_failures(
    results: Mapping[str, Sequence[TaskResult]], thumbnails: Thumbnails
) -> list[TaskFailures]:
    """The worst queries or pairs of each task by each model. results: by the model's name."""
    tasks = dict.fromkeys(
        result.name for by_task in results.values() for result in by_task
    )
    count = max(2, MAX_SHOWN // max(1, len(results)))
    sections = []
    for task in tasks:
        models = []
        for place, (model, by_task) in enumerate(results.items()):
            found = (result for result in by_task if result.name == task)
            result = next(found, None)
            if result is None:
                continue
            named = model_name(model, place) if len(results) > 1 else None
            failures = _failures_of(result, named, count, thumbnails)
            if failures.queries or failures.pairs:
                models.append(failures)
        if models:
            sections.append(TaskFailures(task_name(task), models))
    return sections


def _failures_of(
    result: TaskResult, model: ModelName | None, count: int, thumbnails: Thumbnails
) -> ModelFailures:
    worst = worst_queries(result, count)
    queries = [_show_query(query, thumbnails) for query in worst]
    pairs = worst_pairs(result, count)
    return ModelFailures(model, queries, _pairs_table(pairs) if pairs else None)


def _show_query(worst: WorstQuery, thumbnails: Thumbnails) -> FailedQuery:
    # in this order: documents get their thumbnails before the query does
    relevant = [_show_document(document, thumbnails) for document in worst.relevant]
    found = [_show_document(document, thumbnails) for document in worst.top]
    query = show_input(worst.query, thumbnails)
    value = ""
    if worst.value is not None:
        value = f"{worst.metric} {format_number(worst.value)}"
    return FailedQuery(query, worst.rank, value, relevant, found)


def _show_document(document: RankedDocument, thumbnails: Thumbnails) -> ShownDocument:
    shown = show_input(document.input, thumbnails)
    return ShownDocument(shown, document.rank, document.score, document.is_relevant)


def _pairs_table(pairs: Sequence[WorstPair]) -> Table:
    rows = []
    for pair in pairs:
        cells: list[Cell] = [
            TextCell(pair.left),
            TextCell(pair.right),
            number_cell(pair.score),
            number_cell(pair.cosine),
            TextCell(_describe_place(pair)),
        ]
        rows.append(TableRow(cells))
    heads = [
        Head("one text"),
        Head("the other"),
        Head("people", "number"),
        Head("cosine", "number"),
        Head("the model finds them"),
    ]
    return Table(heads, rows)


def _describe_place(pair: WorstPair) -> str:
    direction = "too close" if pair.place > pair.human_place else "too far apart"
    return (
        f"{direction}: more similar than {pair.place:.0%} of the pairs, for people than "
        f"{pair.human_place:.0%}"
    )
