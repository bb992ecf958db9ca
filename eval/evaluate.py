"""Score a model on a suite."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from unimodal.config import nearest
from unimodal.encoder import Encoder
from unimodal.progress import progress_bar
from unimodal.vectors import Vectors, truncate

from .cache import EmbeddingStore, Stopped
from .data.asked import asked_of
from .data.datasets import PairData, RetrievalData, TaskData, ZeroShotData, swap_sides
from .scoring.metrics import check_vectors, parse_metric
from .scoring.results import Half, Row, TaskResult, Values
from .scoring.retrieval import half_of, retrieval_rows, usual_metrics
from .scoring.statistics import CORRELATIONS
from .scoring.sts import STS_METRICS, sts_rows
from .scoring.zero_shot import (
    ZERO_SHOT_METRICS,
    check_zero_shot_metric,
    class_vectors,
    zero_shot_rows,
)
from .suites import Suite, load_tasks


def evaluate(
    encoder: Encoder,
    suite: Suite,
    data_root: Path,
    *,
    split: str = "test",
    tasks: Mapping[str, TaskData] | None = None,
    store: EmbeddingStore | None = None,
    validation: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    show_progress: bool | None = False,
) -> list[TaskResult]:
    """Score the model on every task of the suite, in its order.

    data_root: the folder that the inputs of the suite are relative to.
    split: `val` for choosing a model, `test` for reporting it.
    tasks: what `load_tasks` gave, where it is there already.
    store: of this encoder, where vectors are to be kept; None: one in memory.
    validation: scores that training looks at while it goes on: no intervals, and a collapsed
        embedding is a warning.
    should_stop: asked before each task and, in a store made here, before each block of inputs; once
        true, the results so far are returned.

    Where the suite's `analysis.dims` say so, the first so many dimensions, normalised again, are
    scored too (rows of the variant "64 dims"; matryoshka, Kusupati et al., 2022,
    https://arxiv.org/abs/2205.13147); nothing is encoded for that, and what is longer than the
    model's vectors is left out with a warning. A task with a modality that the model has not is
    left unscored: its rows have the value None. Raises ValueError, before anything is encoded, for
    missing data and for metrics that a task cannot have; and later, by the name of the task, for
    vectors that are not finite, not of length 1 or all alike.
    """
    loaded = tasks or load_tasks(
        suite, data_root, split, with_images="image" in encoder.modalities
    )
    metrics = {
        name: _metrics(name, data, suite.task_of(name).metrics)
        for name, data in loaded.items()
    }
    store = store or EmbeddingStore(
        encoder, should_stop=should_stop, show_progress=show_progress
    )
    results: list[TaskResult] = []
    try:
        for name, data in loaded.items():
            if should_stop():
                break
            results += score_task(
                store,
                name,
                data,
                metrics[name],
                dims=suite.analysis.dims,
                validation=validation,
                show_progress=show_progress,
            )
    except Stopped:
        pass
    return results


def score_names(suite: Suite, loaded: Mapping[str, TaskData]) -> list[str]:
    """The scores that `evaluate` will give of these data, as "task metric"."""
    names = []
    for name, data in loaded.items():
        is_both_ways = isinstance(data, RetrievalData) and data.both_ways
        rows = (
            [f"{name}/text->image", f"{name}/image->text"] if is_both_ways else [name]
        )
        metrics = _metrics(name, data, suite.task_of(name).metrics)
        names += [f"{row} {metric}" for row in rows for metric in metrics]
    return names


def score_task(
    store: EmbeddingStore,
    name: str,
    data: TaskData,
    metrics: Sequence[str],
    *,
    dims: Sequence[int] = (),
    validation: bool = False,
    show_progress: bool | None = False,
) -> list[TaskResult]:
    """Score one task: one result, or one for each direction ("name/text->image") of captions and
    images.
    """
    queries, documents = _vectors(store, data)
    sides = [(name, data, queries, documents)]
    if isinstance(data, RetrievalData) and data.both_ways:
        asking = sorted(
            {
                document
                for documents_of_one in data.relevant
                for document in documents_of_one
            }
        )
        back = None if documents is None else documents[asking]
        sides = [
            (f"{name}/text->image", data, queries, documents),
            (f"{name}/image->text", swap_sides(data), back, queries),
        ]
    with progress_bar(f"scoring {name}", None, show_progress):
        return [_result(*side, metrics, dims, validation) for side in sides]


def rows_of(results: Iterable[TaskResult]) -> list[Row]:
    """All their rows."""
    return [row for result in results for row in result.rows]


def _result(
    name: str,
    data: TaskData,
    queries: Vectors | None,
    documents: Vectors | None,
    metrics: Sequence[str],
    dims: Sequence[int],
    validation: bool,
) -> TaskResult:
    if queries is not None and documents is not None:
        check_vectors(queries, f"queries of {name}", refuse_collapsed=not validation)
        check_vectors(
            documents, f"documents of {name}", refuse_collapsed=not validation
        )
    rows, values = _rows(name, data, metrics, queries, documents, not validation)
    for dim in dims:
        if queries is not None and dim > queries.shape[1]:
            warnings.warn(
                f"{dim} dims are left out: the model's vectors have {queries.shape[1]}.",
                stacklevel=2,
            )
            continue
        cut, cut_documents = (
            None if side is None else truncate(side, dim)
            for side in (queries, documents)
        )
        cut_rows, _ = _rows(name, data, metrics, cut, cut_documents, not validation)
        rows += [dataclasses.replace(row, variant=f"{dim} dims") for row in cut_rows]
    if queries is not None and isinstance(data, RetrievalData) and data.notes:
        rows = [
            row
            if row.variant or row.note
            else dataclasses.replace(row, note="; ".join(data.notes))
            for row in rows
        ]
    return TaskResult(name, _half(data), data, rows, values, queries, documents)


def _rows(
    name: str,
    data: TaskData,
    metrics: Sequence[str],
    queries: Vectors | None,
    documents: Vectors | None,
    with_intervals: bool,
) -> tuple[list[Row], dict[str, Values]]:
    if isinstance(data, RetrievalData):
        return retrieval_rows(
            name, data, metrics, queries, documents, with_intervals=with_intervals
        )
    if isinstance(data, PairData):
        return sts_rows(
            name, data, metrics, queries, documents, with_intervals=with_intervals
        )
    return zero_shot_rows(
        name, data, metrics, queries, documents, with_intervals=with_intervals
    )


def _vectors(
    store: EmbeddingStore, data: TaskData
) -> tuple[Vectors, Vectors] | tuple[None, None]:
    """Those of queries and documents, of both sides of pairs, of images and classes; None for
    want of a modality.
    """
    asked = asked_of(data, store.modalities)
    if not asked:
        return None, None
    first, second = (store.encode(*side) for side in asked)
    if isinstance(data, ZeroShotData):
        return second, class_vectors(first, len(data.class_names))
    return first, second


def _half(data: TaskData) -> Half:
    if isinstance(data, RetrievalData):
        return half_of(data)
    return "text" if isinstance(data, PairData) else "cross-modal"


def _metrics(name: str, data: TaskData, wanted: Sequence[str]) -> Sequence[str]:
    """What a task is to print: what it asks for, once it is seen that there is such a metric, or
    what is usual.
    """
    try:
        for metric in wanted:
            if isinstance(data, RetrievalData):
                parse_metric(metric)
            elif isinstance(data, ZeroShotData):
                check_zero_shot_metric(metric)
            elif metric not in CORRELATIONS:
                raise ValueError(
                    f"there is no metric {metric!r} of pairs; {nearest(metric, CORRELATIONS)}"
                )
    except ValueError as error:
        raise ValueError(f"tasks.{name.partition('/')[0]}.metrics: {error}") from None
    if wanted:
        return wanted
    if isinstance(data, RetrievalData):
        return usual_metrics(data)
    return STS_METRICS if isinstance(data, PairData) else ZERO_SHOT_METRICS
