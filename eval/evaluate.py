"""Score a model on a suite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .datasets import Input, PairData, RetrievalData, swap_sides
from .report import Row
from .retrieval import IMAGE_TEXT_METRICS, TEXT_METRICS, bm25_ranks, retrieval_rows, vector_ranks
from .sts import bm25_similarities, cosine_similarities, sts_rows
from .suites import Suite, TaskData, load_tasks


class Encoder(Protocol):
    """What is asked of a model; `unimodal.embedder.Embedder` is one."""

    @property
    def modalities(self) -> frozenset[str]:
        """What it can embed: "text", "image" or both."""
        ...

    def encode(self, inputs: Sequence[Input], *, show_progress: bool | None = None) -> npt.NDArray[np.float32]:
        """(n, D) unit vectors."""
        ...

    def encode_query(self, inputs: Sequence[Input], *, show_progress: bool | None = None) -> npt.NDArray[np.float32]:
        """(n, D) unit vectors of what is searched for."""
        ...

    def encode_document(self, inputs: Sequence[Input], *, show_progress: bool | None = None) -> npt.NDArray[np.float32]:
        """(n, D) unit vectors of what is found."""
        ...


def evaluate(
    embedder: Encoder,
    suite: Suite,
    data_root: Path,
    *,
    split: str = "test",
    should_stop: Callable[[], bool] = lambda: False,
    show_progress: bool = False,
) -> list[Row]:
    """Score the model on every task of the suite, in its order.

    data_root: the folder that the inputs of the suite are relative to.
    split: `val` for choosing a model, `test` for reporting it.
    should_stop: asked before each task; once true, the rows so far are returned.

    A task with a modality that the model has not is left unscored: its rows have the value None.
    Raises ValueError, before anything is encoded, for missing data.
    """
    loaded = load_tasks(suite, data_root, split, with_pictures="image" in embedder.modalities)
    rows: list[Row] = []
    for name, data in loaded.items():
        if should_stop():
            break
        rows += _task_rows(
            embedder, name, data, is_image_text=suite.tasks[name].kind == "image-text", show=show_progress
        )
    return rows


def _task_rows(embedder: Encoder, name: str, data: TaskData, *, is_image_text: bool, show: bool) -> list[Row]:
    if isinstance(data, PairData):
        return _sts(embedder, name, data, show)
    if is_image_text:
        return _image_text(embedder, name, data, show)
    return _text_retrieval(embedder, name, data, show)


def _image_text(embedder: Encoder, name: str, data: RetrievalData, show: bool) -> list[Row]:
    swapped, forward, back = swap_sides(data), f"{name}/text->image", f"{name}/image->text"
    found, found_back = None, None
    if embedder.modalities >= {"text", "image"}:
        texts = embedder.encode(data.queries, show_progress=show)
        pictures = embedder.encode(data.documents, show_progress=show)
        found = vector_ranks(forward, data, texts, pictures)
        found_back = vector_ranks(back, swapped, pictures, texts)
    return retrieval_rows(forward, data, IMAGE_TEXT_METRICS, found, None) + retrieval_rows(
        back, swapped, IMAGE_TEXT_METRICS, found_back, None
    )


def _text_retrieval(embedder: Encoder, name: str, data: RetrievalData, show: bool) -> list[Row]:
    found, baseline = None, bm25_ranks(data)
    if "text" in embedder.modalities:
        queries = embedder.encode_query(data.queries, show_progress=show)
        documents = embedder.encode_document(data.documents, show_progress=show)
        found = vector_ranks(name, data, queries, documents)
    return retrieval_rows(name, data, TEXT_METRICS, found, baseline)


def _sts(embedder: Encoder, name: str, pairs: PairData, show: bool) -> list[Row]:
    found, baseline = None, bm25_similarities(pairs)
    if "text" in embedder.modalities:
        found = cosine_similarities(name, pairs, lambda texts: embedder.encode(texts, show_progress=show))
    return sts_rows(name, pairs, found, baseline)
