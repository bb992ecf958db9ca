"""Official results, in mteb's layout, of a model of ours: mteb itself scores each task."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from unimodal.embedder import Embedder
from unimodal.progress import progress_bar

from ..cache import EmbeddingCache, Stopped
from ..scoring.score_row import ScoreRow
from .adapter import MtebModel, mteb_model
from .tasks import (
    MtebTask,
    find_mteb_task,
    import_mteb,
    list_mteb_tasks,
    load_data,
    parts_of,
)


def mteb_name(source: str) -> str:
    """The name of a model in mteb's results: a hub id, or "unimodal/" and its source.

    >>> mteb_name("runs/demo/model"), mteb_name("open_clip:ViT-B-32/openai")
    ('unimodal/runs-demo-model', 'unimodal/open_clip-ViT-B-32-openai')
    >>> mteb_name("jinaai/jina-clip-v1")
    'jinaai/jina-clip-v1'
    """
    if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not Path(source).exists():
        return source
    return "unimodal/" + re.sub(r"[^\w.]+", "-", source).strip("-.")


def run_mteb(
    embedder: Embedder,
    names: Sequence[str],
    folder: Path,
    *,
    name: str,
    dims: Sequence[int] = (),
    data: Path | None = None,
    cache: EmbeddingCache | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    show_progress: bool | None = False,
) -> list[ScoreRow]:
    """Let mteb score a model and write its JSON files, FOLDER/results/NAME/REVISION/TASK.json.

    names: of tasks, or "benchmark:NAME" for all tasks of a benchmark.
    name: of the model in the results; see `mteb_name`.
    dims: also score the first dimensions alone; their files are in REVISION/experiments/dims_N/.
    data: a folder of data sets laid out as on the hub; see `find_mteb_task`.
    cache: an embedding cache of this embedder; by default a new one.
    should_stop: called before each task and while a new cache encodes; once true, the rows so far
        are returned.

    Returns a row with the main score of each task and subset; its value is None if the model
    lacks a modality. Scores of the same weights on the same data are read from the files. Raises
    ValueError, before anything is encoded, that names all missing data.
    """
    mteb = import_mteb()
    result_cache = mteb.ResultCache(folder)
    cache = cache or EmbeddingCache(
        embedder, should_stop=should_stop, show_progress=show_progress
    )
    models = [
        mteb_model(embedder, name, dims=kept, cache=cache) for kept in (None, *dims)
    ]
    tasks = [find_mteb_task(task, folder=data) for task in _task_names(names)]
    possible = [
        task for task in tasks if set(task.metadata.modalities) <= embedder.modalities
    ]
    _load_all(task for task in possible if _is_missing(result_cache, task, models))
    rows: list[ScoreRow] = []
    for task in tasks:
        if should_stop():
            break
        if task not in possible:
            metadata = task.metadata
            rows.append(ScoreRow(metadata.name, metadata.main_score, None, None, None))
            continue
        try:
            for model in models:
                with progress_bar(f"scoring {task.metadata.name}", None, show_progress):
                    rows += _task_rows(mteb, result_cache, task, model)
        except Stopped:
            break
        for part in parts_of(task):
            if part.data_loaded:
                part.unload_data()
    return rows


def _task_rows(
    mteb: Any, cache: Any, task: MtebTask, model: MtebModel
) -> list[ScoreRow]:
    # "only-missing" alone would keep results on other data
    has_other_data = _is_of_other_data(cache, task, model)
    mteb.evaluate(
        model,
        task,
        cache=cache,
        overwrite_strategy="always" if has_other_data else "only-missing",
        co2_tracker=False,
        show_progress_bar=False,  # ours also works in a log
    )
    result = cache.load_task_result(
        task.metadata.name, model.mteb_model_meta, raise_if_not_found=True
    )
    variant = "" if model.dims is None else f"{model.dims} dims"
    is_one_of_several = len(task.hf_subsets) > 1 or len(result.scores) > 1
    rows = []
    for split, scores in result.scores.items():
        for score in scores:
            name = task.metadata.name
            if is_one_of_several:
                name = f"{name}/{split}/{score['hf_subset']}"
            value = float(score["main_score"])
            is_defined = math.isfinite(value)  # mteb writes NaN for an undefined score
            row = ScoreRow(
                name,
                task.metadata.main_score,
                value if is_defined else None,
                None,
                None,
                variant=variant,
                note="" if is_defined else f"mteb gives {value}",
            )
            rows.append(row)
    return rows


def _is_missing(cache: Any, task: MtebTask, models: Iterable[MtebModel]) -> bool:
    """Whether a result of one of the models on this data is missing."""
    for model in models:
        result = cache.load_task_result(task.metadata.name, model.mteb_model_meta)
        if result is None or result.get_missing_evaluations(task):
            return True
        if _is_of_other_data(cache, task, model):
            return True
    return False


def _is_of_other_data(cache: Any, task: MtebTask, model: MtebModel) -> bool:
    """Whether a result of the model is of another revision of the data."""
    for part in parts_of(task):
        result = cache.load_task_result(part.metadata.name, model.mteb_model_meta)
        revision = part.metadata.dataset["revision"]
        if result is not None and result.dataset_revision != revision:
            return True
    return False


def _load_all(tasks: Iterable[MtebTask]) -> None:
    """Load the data of all tasks; ValueError that names all that is missing."""
    missing = []
    for task in tasks:
        for part in parts_of(task):
            try:
                load_data(part)
            except ValueError as error:
                missing.append(str(error))
    if missing:
        raise ValueError("\n".join(missing))


def _task_names(names: Iterable[str]) -> list[str]:
    """The names of tasks, with those of benchmarks in place of "benchmark:NAME"."""
    tasks: list[str] = []
    for name in names:
        if name.startswith("benchmark:"):
            tasks += list_mteb_tasks(name.removeprefix("benchmark:"))
        else:
            tasks.append(name)
    return list(dict.fromkeys(tasks))
