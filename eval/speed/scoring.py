"""Time and memory of scoring a task from its vectors, beside mteb.evaluate.

Both get the same vectors and give hit rate, recall, precision, nDCG, MAP and MRR at 1, 3, 5, 10,
20, 100 and 1,000; a time is given only if these are equal. mteb also gives nAUC, which is not
computed here. Vectors are random; a query is a little closer to its document than to the others.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimodal.compare import (
    BenchRow,
    Clock,
    Run,
    Tick,
    cpu_clock,
    in_fresh_process,
    make_row,
    measuring,
    peak_memory,
    timed,
)
from unimodal.vectors import Vectors

from ..data.retrieval import RetrievalData
from ..scoring.metrics import METRICS
from ..scoring.retrieval import vector_values
from ..with_mteb.tasks import import_mteb

NAMES = [
    f"{family}_at_{k}"
    for family, k in itertools.product(METRICS, (1, 3, 5, 10, 20, 100, 1000))
]
TOLERANCE = 2e-5  # mteb rounds to five decimals
SIDES = ("ours", "mteb")


@dataclasses.dataclass(frozen=True)
class Shape:
    """The size of a task, and the goals beside mteb."""

    name: str
    num_queries: int
    num_documents: int
    dim: int
    target: str
    memory_target: str = ""  # empty: memory is not measured
    rounds: int | None = None  # the maximum, where mteb takes minutes


SHAPES = (
    Shape("Flickr-shaped text -> image", 5_000, 1_000, 512, ">= 20"),
    Shape("COCO-shaped text -> image", 24_809, 5_000, 512, ">= 10", "<= 0.2", rounds=1),
    Shape("text retrieval", 1_000, 20_000, 768, ">= 4"),
)


def bench_eval_scoring(
    shapes: Sequence[Shape] = SHAPES, *, rounds: int = 3, threads: int | None = None
) -> list[BenchRow]:
    """Time both in turns and take the medians; measure peak memory in a fresh process for each.

    rounds: after one that warms up and compares the scores. threads: of torch; None: torch's own
        number, and wall time.
    """
    total = sum(_num_ticks(shape, rounds) for shape in shapes)
    rows = []
    with measuring("bench eval", total, threads) as tick:
        for shape in shapes:
            rows.append(_time(shape, rounds, tick, cpu_clock()))
            if shape.memory_target:
                rows.append(_memory(shape, tick))
    return rows


def _num_ticks(shape: Shape, rounds: int) -> int:
    warm_up = 1
    memory = 1 if shape.memory_target else 0
    return len(SIDES) * (warm_up + _num_rounds(shape, rounds) + memory)


def _num_rounds(shape: Shape, rounds: int) -> int:
    return min(rounds, shape.rounds or rounds)


def _memory(shape: Shape, tick: Tick) -> BenchRow:
    peaks = {}
    for name in SIDES:
        tick(f"{name}, memory")
        peaks[name] = in_fresh_process(peak_of, name, shape)
    return make_row(
        f"{_title(shape)}: memory",
        _peer(),
        shape.memory_target,
        peaks["ours"],
        peaks["mteb"],
        "MB",
    )


def peak_of(name: str, shape: Shape) -> float:
    """Peak memory of scoring in MB, without the vectors; name: "ours" or "mteb"."""
    make = {"ours": our_run, "mteb": mteb_run}[name]
    make(Shape("", 20, 30, 8, ""))()  # imports all that the first call imports
    return peak_memory(make(shape))


def our_run(shape: Shape) -> Run:
    """Scores by ranks: one number for each of NAMES."""
    queries, documents, relevant = draw_vectors(shape)
    document_ids = [str(number) for number in range(shape.num_documents)]
    data = RetrievalData(
        [str(number) for number in range(shape.num_queries)],
        list(document_ids),
        [[document] for document in relevant],
        document_ids=document_ids,
    )

    def run() -> list[Tensor]:
        values = vector_values(data.judgements, NAMES, queries, documents)
        return [torch.tensor([float(values[name].mean()) for name in NAMES])]

    return run


def mteb_run(shape: Shape) -> Run:
    """The same by mteb.evaluate, with a model that returns the given vectors."""
    mteb = import_mteb()
    queries, documents, relevant = draw_vectors(shape)
    make_task = _task_maker(len(queries), len(documents), relevant)
    model = _ready_model(queries, documents)

    def run() -> list[Tensor]:
        with _quiet():
            results = mteb.evaluate(
                model,
                [make_task()],
                cache=None,
                co2_tracker=False,
                show_progress_bar=False,
            )
        scores = results.task_results[0].scores["test"][0]
        return [torch.tensor([float(scores[name]) for name in NAMES])]

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars of `datasets`, mteb's log and warnings, inside the block only."""
    from datasets.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("mteb")
    level = logger.level
    had_bars = not are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        if had_bars:
            enable_progress_bars()


def draw_vectors(shape: Shape) -> tuple[Vectors, Vectors, list[int]]:
    """Unit vectors (Q, D) and (N, D), and the document that belongs to each query."""
    random = np.random.default_rng(0)
    documents = random.standard_normal(
        (shape.num_documents, shape.dim), dtype=np.float32
    )
    relevant = random.integers(0, shape.num_documents, shape.num_queries)
    noise = random.standard_normal((shape.num_queries, shape.dim), dtype=np.float32)
    queries = documents[relevant] + 6 * noise
    queries, documents = (
        side / np.linalg.norm(side, axis=1, keepdims=True)
        for side in (queries, documents)
    )
    return queries, documents, relevant.tolist()


def _time(shape: Shape, rounds: int, tick: Tick, clock: Clock) -> BenchRow:
    runs = {"ours": our_run(shape), "mteb": mteb_run(shape)}
    seconds = timed(runs, _num_rounds(shape, rounds), tick, clock, tolerance=TOLERANCE)
    return make_row(
        f"{_title(shape)}: time",
        _peer(),
        shape.target,
        seconds["ours"],
        seconds["mteb"],
        clock.unit,
    )


def _title(shape: Shape) -> str:
    return f"{shape.name}, {shape.num_queries:,} x {shape.num_documents:,}, {shape.dim} dimensions"


def _peer() -> str:
    return f"mteb {version('mteb')} evaluate"


def _task_maker(
    num_queries: int, num_documents: int, relevant: Sequence[int]
) -> Callable[[], Any]:
    """A function that makes the task; mteb empties a task that it has scored."""
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class Ready(AbsTaskRetrieval):  # type: ignore[misc]  # mteb has no types
        metadata = TaskMetadata(
            name="Ready",
            description="Vectors that are ready.",
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            main_score="ndcg_at_10",
            reference=None,
            eval_langs=["eng-Latn"],
            eval_splits=["test"],
            date=("2024-01-01", "2024-01-02"),
            domains=["Web"],
            task_subtypes=[],
            license="mit",
            annotations_creators="derived",
            dialect=[],
            sample_creation="created",
            bibtex_citation="",
            dataset={"path": "ready", "revision": "1"},
        )

        def load_data(self, num_proc: int | None = None, **_: Any) -> None:
            """Do nothing: the data is there already."""

    def rows(count: int) -> Dataset:
        names = [str(number) for number in range(count)]
        return Dataset.from_dict({"id": names, "text": names})

    judged = {str(query): {str(document): 1} for query, document in enumerate(relevant)}
    corpus = rows(num_documents)
    queries = rows(num_queries)

    def make() -> Ready:
        task = Ready()
        parts: Any = {
            "corpus": corpus,
            "queries": queries,
            "relevant_docs": judged,
            "top_ranked": None,
        }
        task.dataset = {"default": {"test": parts}}
        task.data_loaded = True
        return task

    return make


def _ready_model(queries: Vectors, documents: Vectors) -> Any:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.types import PromptType

    class Model(AbsEncoder):  # type: ignore[misc]  # mteb has no types
        def __init__(self) -> None:
            self.mteb_model_meta = ModelMeta(
                loader=None,
                name="unimodal/ready",
                revision="1",
                release_date=None,
                languages=["eng-Latn"],
                n_parameters=None,
                memory_usage_mb=None,
                max_tokens=None,
                embed_dim=queries.shape[1],
                license=None,
                open_weights=True,
                public_training_code=None,
                public_training_data=None,
                framework=["PyTorch"],
                similarity_fn_name=ScoringFunction.COSINE,
                use_instructions=False,
                training_datasets=None,
            )

        def encode(
            self, inputs: Any, *, prompt_type: PromptType | None = None, **_: Any
        ) -> Vectors:
            return queries if prompt_type == PromptType.query else documents

    return Model()
