"""Score a model on a suite."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from unimodal.encoder import Encoder
from unimodal.progress import progress_bar
from unimodal.vectors import Vectors, normalize, truncate

from .cache import EmbeddingCache, Stopped
from .data.inputs import Side
from .data.task_data import Direction, TaskData
from .results import TaskResult
from .scoring.metrics import check_vectors
from .scoring.score_row import ScoreRow, Values
from .suites import Suite, load_tasks


def evaluate(
    encoder: Encoder,
    suite: Suite,
    data_root: Path,
    *,
    split: str = "test",
    tasks: Mapping[str, TaskData] | None = None,
    cache: EmbeddingCache | None = None,
    validation: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    show_progress: bool | None = False,
) -> list[TaskResult]:
    """Score the model on every task of the suite, in its order.

    data_root: the folder that the inputs of the suite are relative to.
    split: `val` for choosing a model, `test` for reporting it.
    tasks: the result of `load_tasks`, if it is already there.
    cache: of this encoder; None: one in memory.
    validation: score during training: without intervals, and a collapsed embedding is a warning.
    should_stop: called before each task and, in a cache made here, before each block of inputs;
        once it is true, the results so far are returned.

    The first N dimensions, normalized again, are scored too if the suite's `analysis.dims` name N
    (rows of the variant "64 dims"; matryoshka, Kusupati et al., 2022,
    https://arxiv.org/abs/2205.13147). Nothing is encoded for that, and dims beyond the model's
    vectors are left out with a warning. A task with a modality that the model lacks has rows with
    the value None.

    Raises ValueError, before anything is encoded, for missing data and for metrics that a task
    cannot have; and later, naming the task, for vectors that are not finite, not of length 1 or all
    alike.
    """
    with_images = "image" in encoder.modalities
    loaded = tasks or load_tasks(suite, data_root, split, with_images=with_images)
    metrics = {
        name: _metrics(name, data, suite.task_of(name).metrics)
        for name, data in loaded.items()
    }
    cache = cache or EmbeddingCache(
        encoder, should_stop=should_stop, show_progress=show_progress
    )
    results: list[TaskResult] = []
    try:
        for name, data in loaded.items():
            if should_stop():
                break
            results += score_task(
                cache,
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
    """The scores that `evaluate` will compute of these data, as "task metric"."""
    names = []
    for name, data in loaded.items():
        metrics = _metrics(name, data, suite.task_of(name).metrics)
        for direction in data.directions:
            names += [f"{name}{direction} {metric}" for metric in metrics]
    return names


def score_task(
    cache: EmbeddingCache,
    name: str,
    data: TaskData,
    metrics: Sequence[str],
    *,
    dims: Sequence[int] = (),
    validation: bool = False,
    show_progress: bool | None = False,
) -> list[TaskResult]:
    """Score one task: one result for each direction ("name/text->image"), mostly one."""
    sides = data.inputs_for(cache.modalities)
    queries, documents = [encode_side(cache, side) for side in sides] or (None, None)
    with progress_bar(f"scoring {name}", None, show_progress):
        return [
            _score_direction(
                name + direction.suffix, direction, metrics, dims, validation
            )
            for direction in data.split_directions(queries, documents)
        ]


def encode_side(cache: EmbeddingCache, side: Side) -> Vectors:
    """(n, D) unit vectors of a side: of each input, or of each group of inputs."""
    vectors = cache.encode(side.inputs, side.prompt)
    if not side.group_size:
        return vectors
    groups = vectors.reshape(
        -1, side.group_size, vectors.shape[1]
    )  # (n, group size, D)
    return normalize(groups.mean(axis=1))


def _score_direction(
    name: str,
    direction: Direction,
    metrics: Sequence[str],
    dims: Sequence[int],
    validation: bool,
) -> TaskResult:
    _, data, queries, documents = direction
    if queries is not None and documents is not None:
        check_vectors(queries, f"queries of {name}", refuse_collapsed=not validation)
        check_vectors(
            documents, f"documents of {name}", refuse_collapsed=not validation
        )
    rows, values = _score(name, direction, metrics, validation)
    if queries is not None and data.notes:
        note = "; ".join(data.notes)
        rows = [
            row if row.note else dataclasses.replace(row, note=note) for row in rows
        ]
    for dim in dims:
        if queries is not None and dim > queries.shape[1]:
            warnings.warn(
                f"{dim} dims are left out: the model's vectors have {queries.shape[1]}.",
                stacklevel=2,
            )
            continue
        short_rows, _ = _score(name, _truncate(direction, dim), metrics, validation)
        variant = f"{dim} dims"
        rows += [dataclasses.replace(row, variant=variant) for row in short_rows]
    return TaskResult(name, data.half, data, rows, values, queries, documents)


def _truncate(direction: Direction, dim: int) -> Direction:
    """The same with the first `dim` dimensions of its vectors, normalized again."""
    queries = direction.queries
    documents = direction.documents
    return direction._replace(
        queries=None if queries is None else truncate(queries, dim),
        documents=None if documents is None else truncate(documents, dim),
    )


def _score(
    name: str, direction: Direction, metrics: Sequence[str], validation: bool
) -> tuple[list[ScoreRow], dict[str, Values]]:
    return direction.data.score(
        name,
        metrics,
        direction.queries,
        direction.documents,
        with_intervals=not validation,
    )


def _metrics(name: str, data: TaskData, configured: Sequence[str]) -> Sequence[str]:
    """The configured metrics of a task, checked, or its default ones."""
    try:
        for metric in configured:
            data.check_metric(metric)
    except ValueError as error:
        task = name.partition("/")[0]
        raise ValueError(f"tasks.{task}.metrics: {error}") from None
    return configured or data.default_metrics
