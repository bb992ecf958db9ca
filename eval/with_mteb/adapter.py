"""A model of ours for mteb: official results, in mteb's layout, of a model that mteb does not know.

mteb asks an Encoder for vectors and then searches by itself, with a heap for each query. The object made here is its
Encoder and its Search at once (mteb.models.models_protocols), so that mteb hands over whole tables: pictures are not
decoded on the way, each distinct input is encoded once across tasks, and the search is one product and one top-k.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimodal.embedder import Embedder

from ..analysis.compress import truncated
from ..metrics import check_vectors
from ..results import Row, Vectors
from ..store import EmbeddingStore, Prompt, Stopped
from .search import top_documents
from .tables import Table, loader_inputs, table_inputs
from .tasks import MtebTask, find_mteb_task, import_mteb, list_mteb_tasks, load_data, parts_of

if TYPE_CHECKING:
    from torch import Tensor

Found = dict[str, dict[str, float]]  # query id -> document id -> score


class MtebModel:
    """What mteb.evaluate takes for a model; made by `mteb_model`."""

    def __init__(self, store: EmbeddingStore, meta: Any, dims: int | None = None) -> None:
        """store: encodes. meta: mteb's ModelMeta. dims: keep the first dimensions only, normalised again."""
        self.store = store
        self.mteb_model_meta = meta
        self.dims = dims
        self._ids: list[str] = []
        self._documents: Vectors | None = None

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        precision: str | None = None,
        **options: Any,
    ) -> Vectors:
        """(n, D) float32 unit vectors of what a DataLoader of mteb's gives, in its order.

        A row with a text and a picture becomes the normalised sum of both. The model's query and document prompts
        stand before texts of that prompt_type, and none where mteb names none (STS, zero-shot).

        Raises ValueError for another precision than float32, and for rows without a modality of the model.
        """
        if precision not in (None, "float32"):
            raise ValueError(f"precision {precision!r} is not given here; vectors are float32.")
        where = "/".join((task_metadata.name, hf_split, hf_subset))
        prompt: Prompt = "" if prompt_type is None else prompt_type.value
        where = f"{where} {prompt}".strip()
        return self._vectors(loader_inputs(inputs, where, self.store.modalities), prompt, where)

    def index(self, corpus: Table, *, task_metadata: Any, hf_split: str, hf_subset: str, **options: Any) -> None:
        """Encode the documents that the next `search` looks through."""
        self._documents = None  # those of the task before make room first
        self._documents = self._encoded(corpus, "document", task_metadata, hf_split, hf_subset)
        self._ids = [str(one) for one in corpus["id"]]

    def search(
        self,
        queries: Table,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **options: Any,
    ) -> Found:
        """The top_k documents of each query, or of the candidates that top_ranked gives it, with their cosines."""
        assert self._documents is not None, "mteb indexes before it searches"
        asked = self._encoded(queries, "query", task_metadata, hf_split, hf_subset)
        ids = [str(one) for one in queries["id"]]
        if top_ranked:
            return dict(zip(ids, self._ranked_again(ids, asked, top_ranked, top_k), strict=True))
        return dict(zip(ids, top_documents(asked, self._documents, self._ids, top_k), strict=True))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of unit vectors, (n, D) and (m, D) -> (n, m)."""
        import torch

        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of pairs of unit vectors, (n, D) and (n, D) -> (n,)."""
        import torch

        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(dim=-1)

    def _encoded(self, rows: Table, prompt: Prompt, metadata: Any, split: str, subset: str) -> Vectors:
        from mteb.types import PromptType

        where = f"{'/'.join((metadata.name, split, subset))} {prompt}"
        wanted = [one for one in metadata.get_modalities(PromptType(prompt)) if one in self.store.modalities]
        return self._vectors(table_inputs(rows, where, wanted, prompt), prompt, where)

    def _vectors(self, inputs: list[Any], prompt: Prompt, where: str) -> Vectors:
        vectors = self.store.encode(inputs, prompt)
        check_vectors(vectors, where)
        return vectors if self.dims is None else truncated(vectors, self.dims)

    def _ranked_again(
        self, ids: Sequence[str], asked: Vectors, top_ranked: Mapping[str, Sequence[str]], top_k: int
    ) -> Iterator[dict[str, float]]:
        assert self._documents is not None
        position = {name: number for number, name in enumerate(self._ids)}
        for name, vector in zip(ids, asked, strict=True):
            candidates = list(dict.fromkeys(top_ranked.get(name, ())))
            rows = self._documents[[position[one] for one in candidates]]
            yield from top_documents(vector[None], rows, candidates, top_k) if candidates else iter([{}])


def mteb_model(
    embedder: Embedder, name: str, *, dims: int | None = None, store: EmbeddingStore | None = None
) -> MtebModel:
    """A model of ours as one of mteb's.

    name: of the model in the results, "owner/name"; see `mteb_name`.
    dims: keep the first dimensions only (matryoshka); results lie apart, as an experiment of the same model.
    store: an embedding store of this embedder, shared by several dims; a new one if left out.

    The revision is the fingerprint of weights, preprocessing and prompts: mteb returns old scores for a model whose
    name and revision it has seen before. Raises ValueError for dims that the model has not.
    """
    import_mteb()
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from torch import nn

    config, model = embedder.config, embedder.models[0]
    width = embedder.truncate_dim or config.embed_dim
    if dims is not None and not 0 < dims <= width:
        raise ValueError(f"dims {dims} is not between 1 and the model's {width}.")
    kept = dims or width
    parameters = list(model.parameters())
    tables = {id(module.weight): module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    meta = ModelMeta(
        loader=None,
        name=name,
        revision=embedder.fingerprint(),
        release_date=None,
        languages=None,
        n_parameters=sum(one.numel() for one in parameters),
        n_embedding_parameters=sum(one.numel() for one in tables.values()),
        memory_usage_mb=round(sum(one.numel() * one.element_size() for one in parameters) / 2**20, 1),
        max_tokens=None if config.text is None else config.text.max_length,
        embed_dim=kept,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=any(config.prompts.values()),
        training_datasets=None,  # unknown; an empty set would say: none of mteb's
        modalities=sorted(embedder.modalities, reverse=True),
        experiment_kwargs=None if kept == config.embed_dim else {"dims": kept},
    )
    return MtebModel(store or EmbeddingStore(embedder), meta, dims)


def mteb_name(source: str) -> str:
    """The name of a model in mteb's results: a hub id as it is, else "unimodal/" and what it was loaded from.

    >>> mteb_name("runs/demo/model"), mteb_name("open_clip:ViT-B-32/openai"), mteb_name("jinaai/jina-clip-v1")
    ('unimodal/runs-demo-model', 'unimodal/open_clip-ViT-B-32-openai', 'jinaai/jina-clip-v1')
    """
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", source) is not None and not Path(source).exists()
    return source if is_hub_id else "unimodal/" + re.sub(r"[^\w.]+", "-", source).strip("-.")


def run_mteb(
    embedder: Embedder,
    names: Sequence[str],
    folder: Path,
    *,
    name: str,
    dims: Sequence[int] = (),
    data: Path | None = None,
    store: EmbeddingStore | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    show_progress: bool = False,
) -> list[Row]:
    """Let mteb score a model and write its JSON files, FOLDER/results/NAME/REVISION/TASK.json.

    names: of tasks, or "benchmark:NAME" for all of a benchmark.
    name: of the model in the results; see `mteb_name`.
    dims: also score the first dimensions alone; these lie in REVISION/experiments/dims_N/.
    data: a folder of data sets laid out as on the hub; see `find_mteb_task`.
    store: an embedding store of this embedder; a new one if left out.
    should_stop: asked before each task and while a new store encodes; once true, the rows so far are returned.

    Returns a row with the main score of each task and subset; its value is None where the model lacks a modality.
    What has been scored before, with the same weights and the same data, is read from the files.
    Raises ValueError, before anything is encoded, that names all missing data.
    """
    mteb = import_mteb()
    cache = mteb.ResultCache(folder)
    store = store or EmbeddingStore(embedder, should_stop=should_stop, show_progress=show_progress)
    models = [mteb_model(embedder, name, dims=kept, store=store) for kept in (None, *dims)]
    tasks = [find_mteb_task(one, folder=data) for one in _task_names(names)]
    able = [task for task in tasks if set(task.metadata.modalities) <= embedder.modalities]
    _load_all([task for task in able if any(_is_missing(cache, task, model) for model in models)])
    rows: list[Row] = []
    for task in tasks:
        if should_stop():
            break
        if task not in able:
            rows.append(Row(task.metadata.name, task.metadata.main_score, None, None, None))
            continue
        try:
            for model in models:
                rows += _task_rows(mteb, cache, task, model, show_progress)
        except Stopped:
            break
        for part in parts_of(task):
            if part.data_loaded:
                part.unload_data()
    return rows


def _task_rows(mteb: Any, cache: Any, task: MtebTask, model: MtebModel, show_progress: bool) -> list[Row]:
    mteb.evaluate(
        model,
        task,
        cache=cache,
        # "only-missing" alone would keep results on other data
        overwrite_strategy="always" if _is_of_other_data(cache, task, model) else "only-missing",
        co2_tracker=False,
        show_progress_bar=show_progress,
    )
    result = cache.load_task_result(task.metadata.name, model.mteb_model_meta, raise_if_not_found=True)
    variant = "" if model.dims is None else f"{model.dims} dims"
    several = len(task.hf_subsets) > 1 or len(result.scores) > 1
    return [
        Row(
            "/".join([task.metadata.name, *([split, score["hf_subset"]] if several else [])]),
            task.metadata.main_score, float(score["main_score"]), None, None, variant=variant,
        )
        for split, scores in result.scores.items()
        for score in scores
    ]  # fmt: skip


def _is_missing(cache: Any, task: MtebTask, model: MtebModel) -> bool:
    """Whether anything of a task has no result yet, of this model on this data."""
    found = cache.load_task_result(task.metadata.name, model.mteb_model_meta)
    return found is None or bool(found.get_missing_evaluations(task)) or _is_of_other_data(cache, task, model)


def _is_of_other_data(cache: Any, task: MtebTask, model: MtebModel) -> bool:
    results = [(part, cache.load_task_result(part.metadata.name, model.mteb_model_meta)) for part in parts_of(task)]
    return any(
        result is not None and result.dataset_revision != part.metadata.dataset["revision"] for part, result in results
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
