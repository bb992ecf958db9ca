"""Official results, in mteb's layout, of a model that mteb does not know: each task is scored by
mteb itself.
"""

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
    """The name of a model in mteb's results: a hub id as it is, else "unimodal/" and what it was
    loaded from.

    >>> mteb_name("runs/demo/model"), mteb_name("open_clip:ViT-B-32/openai"), mteb_name("jinaai/jina-clip-v1")
    ('unimodal/runs-demo-model', 'unimodal/open_clip-ViT-B-32-openai', 'jinaai/jina-clip-v1')
    """
    is_hub_id = (
        re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None
        and not Path(source).exists()
    )
    return (
        source
        if is_hub_id
        else "unimodal/" + re.sub(r"[^\w.]+", "-", source).strip("-.")
    )


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

    names: of tasks, or "benchmark:NAME" for all of a benchmark.
    name: of the model in the results; see `mteb_name`.
    dims: also score the first dimensions alone; these lie in REVISION/experiments/dims_N/.
    data: a folder of data sets laid out as on the hub; see `find_mteb_task`.
    cache: an embedding cache of this embedder; a new one if left out.
    should_stop: asked before each task and while a new cache encodes; once true, the rows so far
        are returned.

    Returns a row with the main score of each task and subset; its value is None where the model
    lacks a modality. What has been scored before, with the same weights and the same data, is read
    from the files. Raises ValueError, before anything is encoded, that names all missing data.
    """
    mteb = import_mteb()
    result_cache = mteb.ResultCache(folder)
    cache = cache or EmbeddingCache(
        embedder, should_stop=should_stop, show_progress=show_progress
    )
    models = [
        mteb_model(embedder, name, dims=kept, cache=cache) for kept in (None, *dims)
    ]
    tasks = [find_mteb_task(one, folder=data) for one in _task_names(names)]
    able = [
        task for task in tasks if set(task.metadata.modalities) <= embedder.modalities
    ]
    _load_all(
        [
            task
            for task in able
            if any(_is_missing(result_cache, task, model) for model in models)
        ]
    )
    rows: list[ScoreRow] = []
    for task in tasks:
        if should_stop():
            break
        if task not in able:
            rows.append(
                ScoreRow(task.metadata.name, task.metadata.main_score, None, None, None)
            )
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
    mteb.evaluate(
        model,
        task,
        cache=cache,
        # "only-missing" alone would keep results on other data
        overwrite_strategy="always"
        if _is_of_other_data(cache, task, model)
        else "only-missing",
        co2_tracker=False,
        show_progress_bar=False,  # ours is shown, which works in a log too
    )
    result = cache.load_task_result(
        task.metadata.name, model.mteb_model_meta, raise_if_not_found=True
    )
    variant = "" if model.dims is None else f"{model.dims} dims"
    several = len(task.hf_subsets) > 1 or len(result.scores) > 1
    rows = []
    for split, scores in result.scores.items():
        for score in scores:
            where = [split, score["hf_subset"]] if several else []
            name = "/".join([task.metadata.name, *where])
            metric = task.metadata.main_score
            value = float(score["main_score"])
            is_defined = math.isfinite(
                value
            )  # mteb files NaN where a score is undefined
            note = "" if is_defined else f"mteb gives {value}"
            rows.append(
                ScoreRow(
                    name,
                    metric,
                    value if is_defined else None,
                    None,
                    None,
                    variant=variant,
                    note=note,
                )
            )
    return rows


def _is_missing(cache: Any, task: MtebTask, model: MtebModel) -> bool:
    """Whether anything of a task has no result yet, of this model on this data."""
    found = cache.load_task_result(task.metadata.name, model.mteb_model_meta)
    return (
        found is None
        or bool(found.get_missing_evaluations(task))
        or _is_of_other_data(cache, task, model)
    )


def _is_of_other_data(cache: Any, task: MtebTask, model: MtebModel) -> bool:
    results = [
        (part, cache.load_task_result(part.metadata.name, model.mteb_model_meta))
        for part in parts_of(task)
    ]
    return any(
        result is not None
        and result.dataset_revision != part.metadata.dataset["revision"]
        for part, result in results
    )


def _load_all(tasks: Iterable[MtebTask]) -> None:
    missing = []
    for part in (part for task in tasks for part in parts_of(task)):
        try:
            load_data(part)
        except ValueError as error:
            missing.append(str(error))
    if missing:
        raise ValueError("\n".join(missing))


def _task_names(names: Iterable[str]) -> list[str]:
    found: list[str] = []
    for one in names:
        kind, colon, benchmark = one.partition(":")
        found += list_mteb_tasks(benchmark) if colon and kind == "benchmark" else [one]
    return list(dict.fromkeys(found))
