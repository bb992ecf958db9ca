"""Score a model on a suite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from .datasets import PairData, RetrievalData, swap_sides
from .results import Encoder, Row, TaskResult
from .retrieval import IMAGE_TEXT_METRICS, TEXT_METRICS, bm25_ranks, retrieval_rows, vector_ranks
from .store import EmbeddingStore
from .sts import bm25_similarities, cosine_similarities, sts_rows
from .suites import Suite, TaskData, load_tasks


def evaluate(
    encoder: Encoder,
    suite: Suite,
    data_root: Path,
    *,
    split: str = "test",
    should_stop: Callable[[], bool] = lambda: False,
    show_progress: bool = False,
) -> list[TaskResult]:
    """Score the model on every task of the suite, in its order.

    data_root: the folder that the inputs of the suite are relative to.
    split: `val` for choosing a model, `test` for reporting it.
    should_stop: asked before each task; once true, the results so far are returned.

    A task with a modality that the model has not is left unscored: its rows have the value None.
    Raises ValueError, before anything is encoded, for missing data.
    """
    loaded = load_tasks(suite, data_root, split, with_pictures="image" in encoder.modalities)
    store = EmbeddingStore(encoder, show_progress=show_progress)
    results: list[TaskResult] = []
    for name, data in loaded.items():
        if should_stop():
            break
        results += _task_results(store, name, data, is_image_text=suite.tasks[name].kind == "image-text")
    return results


def rows_of(results: Iterable[TaskResult]) -> list[Row]:
    """All their rows."""
    return [row for result in results for row in result.rows]


def _task_results(store: EmbeddingStore, name: str, data: TaskData, *, is_image_text: bool) -> list[TaskResult]:
    if isinstance(data, PairData):
        return [_sts(store, name, data)]
    if is_image_text:
        return _image_text(store, name, data)
    return [_text_retrieval(store, name, data)]


def _image_text(store: EmbeddingStore, name: str, data: RetrievalData) -> list[TaskResult]:
    swapped, forward, back = swap_sides(data), f"{name}/text->image", f"{name}/image->text"
    texts = pictures = found = found_back = None
    if store.modalities >= {"text", "image"}:
        texts, pictures = store.encode(data.queries), store.encode(data.documents)
        found = vector_ranks(forward, data, texts, pictures)
        found_back = vector_ranks(back, swapped, pictures, texts)
    rows = retrieval_rows(forward, data, IMAGE_TEXT_METRICS, found, None)
    rows_back = retrieval_rows(back, swapped, IMAGE_TEXT_METRICS, found_back, None)
    return [
        TaskResult(forward, "cross-modal", data, rows, queries=texts, documents=pictures),
        TaskResult(back, "cross-modal", swapped, rows_back, queries=pictures, documents=texts),
    ]


def _text_retrieval(store: EmbeddingStore, name: str, data: RetrievalData) -> TaskResult:
    queries = documents = found = None
    if "text" in store.modalities:
        queries, documents = store.encode(data.queries, "query"), store.encode(data.documents, "document")
        found = vector_ranks(name, data, queries, documents)
    rows = retrieval_rows(name, data, TEXT_METRICS, found, bm25_ranks(data))
    return TaskResult(name, "text", data, rows, queries=queries, documents=documents)


def _sts(store: EmbeddingStore, name: str, pairs: PairData) -> TaskResult:
    left = right = found = None
    if "text" in store.modalities:
        left, right = store.encode(pairs.left), store.encode(pairs.right)
        found = cosine_similarities(name, left, right)
    return TaskResult(
        name, "text", pairs, sts_rows(name, pairs, found, bm25_similarities(pairs)), queries=left, documents=right
    )
