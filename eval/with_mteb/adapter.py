"""A model of ours as a model of mteb.

mteb gets vectors from an Encoder and then searches on its own, with a heap for each query. Our
object is both Encoder and Search (mteb.models.models_protocols), so that mteb passes whole tables:
images are not decoded on the way, each distinct input is encoded once for all tasks, and the search
is one product and one top-k.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from unimodal.embedder import Embedder
from unimodal.vectors import Vectors, truncate

from ..cache import EmbeddingCache
from ..data.inputs import Prompt
from ..scoring.metrics import check_vectors
from .search import top_documents
from .tables import Table, loader_inputs, table_inputs
from .tasks import import_mteb

if TYPE_CHECKING:
    from torch import Tensor

MTEB_BATCH_SIZE = 32  # mteb's default
# These are used; any other key would have no effect.
ENCODE_KWARGS = ("batch_size", "precision", "show_progress_bar")
DocumentScores = dict[str, dict[str, float]]  # query id -> document id -> score


class MtebModel:
    """A model for mteb.evaluate; `mteb_model` makes it."""

    def __init__(
        self, cache: EmbeddingCache, meta: Any, dims: int | None = None
    ) -> None:
        """cache: encodes. meta: mteb's ModelMeta. dims: keep only the first, normalised again."""
        self.cache = cache
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
        **encode_kwargs: Any,
    ) -> Vectors:
        """(n, D) float32 unit vectors of the rows of a DataLoader, in its order.

        A row with a text and an image becomes the normalised sum of both. The model's prompt for
        the prompt_type stands before texts; without a prompt_type (STS, zero-shot) there is none.

        Raises ValueError for encode_kwargs that would have no effect (`check_encode_kwargs`), and
        for rows without a modality of the model.
        """
        self._apply(encode_kwargs)
        where = "/".join((task_metadata.name, hf_split, hf_subset))
        prompt: Prompt = "" if prompt_type is None else prompt_type.value
        where = f"{where} {prompt}".strip()
        rows = loader_inputs(inputs, where, self.cache.modalities)
        return self._vectors(rows, prompt, where)

    def index(
        self,
        corpus: Table,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Mapping[str, Any] | None = None,
        num_proc: int | None = None,
        **options: Any,
    ) -> None:
        """Encode the documents for the next `search`.

        num_proc: not used, since images are not decoded on the way.

        Raises ValueError as `encode` does.
        """
        self._apply(encode_kwargs or {})
        self._documents = None  # frees those of the previous task first
        self._documents = self._encode_table(
            corpus, "document", task_metadata, hf_split, hf_subset
        )
        self._ids = list(map(str, corpus["id"]))

    def search(
        self,
        queries: Table,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Mapping[str, Any] | None = None,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        num_proc: int | None = None,
        **options: Any,
    ) -> DocumentScores:
        """The top_k documents of each query with their cosines.

        top_ranked: query id -> the only documents to rank.

        Raises ValueError as `encode` does.
        """
        self._apply(encode_kwargs or {})
        assert self._documents is not None, "mteb indexes before it searches"
        vectors = self._encode_table(
            queries, "query", task_metadata, hf_split, hf_subset
        )
        ids = list(map(str, queries["id"]))
        if top_ranked:
            best = self._rerank(ids, vectors, top_ranked, top_k)
        else:
            best = top_documents(vectors, self._documents, self._ids, top_k)
        return dict(zip(ids, best, strict=True))

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines, (n, D) and (m, D) -> (n, m), of vectors of any length and type.

        mteb may compress our vectors.
        """
        from mteb.similarity_functions import cos_sim

        return cos_sim(*_in_float32(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of pairs, (n, D) and (n, D) -> (n,), of vectors of any length and type."""
        from mteb.similarity_functions import pairwise_cos_sim

        return cast("Tensor", pairwise_cos_sim(*_in_float32(embeddings1, embeddings2)))

    def _apply(self, encode_kwargs: Mapping[str, Any]) -> None:
        check_encode_kwargs(encode_kwargs)
        if "show_progress_bar" in encode_kwargs:
            self.cache.show_progress = bool(encode_kwargs["show_progress_bar"])

    def _encode_table(
        self, rows: Table, prompt: Prompt, metadata: Any, split: str, subset: str
    ) -> Vectors:
        from mteb.types import PromptType

        where = f"{'/'.join((metadata.name, split, subset))} {prompt}"
        modalities = [
            modality
            for modality in metadata.get_modalities(PromptType(prompt))
            if modality in self.cache.modalities
        ]
        inputs = table_inputs(rows, where, modalities, prompt)
        return self._vectors(inputs, prompt, where)

    def _vectors(self, inputs: list[Any], prompt: Prompt, where: str) -> Vectors:
        vectors = self.cache.encode(inputs, prompt)
        check_vectors(vectors, where)
        return vectors if self.dims is None else truncate(vectors, self.dims)

    def _rerank(
        self,
        ids: Sequence[str],
        queries: Vectors,
        top_ranked: Mapping[str, Sequence[str]],
        top_k: int,
    ) -> Iterator[dict[str, float]]:
        """The best of each query's own candidates."""
        assert self._documents is not None
        position = {name: number for number, name in enumerate(self._ids)}
        for query, vector in zip(ids, queries, strict=True):
            candidates = list(dict.fromkeys(top_ranked.get(query, ())))
            if not candidates:
                yield {}
                continue
            rows = self._documents[[position[name] for name in candidates]]
            yield from top_documents(vector[None], rows, candidates, top_k)


def check_encode_kwargs(encode_kwargs: Mapping[str, Any]) -> None:
    """Refuse options that have no effect here, so that no result is recorded under a wrong option.

    `show_progress_bar` is used. `batch_size` changes no vector, since an embedder packs its
    batches by tokens; a value other than mteb's default of 32 gets a warning.

    Raises ValueError for a `precision` other than float32, and for any other name.
    """
    precision = encode_kwargs.get("precision")
    if precision not in (None, "float32"):
        raise ValueError(
            f"encode_kwargs: precision is {precision!r}, but our vectors are float32; let mteb "
            "compress them: mteb.models.CompressionWrapper(model, mteb.types.OutputDType.UINT8)."
        )
    unknown = sorted(set(encode_kwargs) - set(ENCODE_KWARGS))
    if unknown:
        raise ValueError(
            f"encode_kwargs: {', '.join(map(repr, unknown))} would have no effect; remove it "
            f"(known: {', '.join(ENCODE_KWARGS)})."
        )
    if encode_kwargs.get("batch_size", MTEB_BATCH_SIZE) != MTEB_BATCH_SIZE:
        warnings.warn(
            f"encode_kwargs: batch_size {encode_kwargs['batch_size']} is not used; the embedder "
            "packs batches by tokens_per_batch and images_per_batch, and no vector changes.",
            stacklevel=4,
        )


def _in_float32(*sides: Any) -> tuple[Tensor, ...]:
    import torch

    return tuple(torch.as_tensor(side).float() for side in sides)


def mteb_model(
    embedder: Embedder,
    name: str,
    *,
    dims: int | None = None,
    cache: EmbeddingCache | None = None,
) -> MtebModel:
    """A model of ours as a model of mteb.

    name: of the model in the results, "owner/name"; see `run.mteb_name`.
    dims: keep only the first dimensions (matryoshka); mteb files the results apart, as an
        experiment of the same model.
    cache: an embedding cache of this embedder, shared by several dims; by default a new one.

    The revision is the fingerprint of weights, preprocessing and prompts, since mteb returns old
    scores for a known name and revision. Raises ValueError for dims that the model does not have.
    """
    import_mteb()
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from torch import nn

    config = embedder.config
    model = embedder.models[0]
    width = embedder.truncate_dim or config.embed_dim
    if dims is not None and not 0 < dims <= width:
        raise ValueError(f"dims {dims} is not between 1 and the model's {width}.")
    kept = dims or width
    parameters = list(model.parameters())
    num_bytes = sum(weight.numel() * weight.element_size() for weight in parameters)
    tables = {
        id(module.weight): module.weight
        for module in model.modules()
        if isinstance(module, nn.Embedding)
    }
    meta = ModelMeta(
        loader=None,
        name=name,
        revision=embedder.fingerprint(),
        release_date=None,
        languages=None,
        n_parameters=sum(weight.numel() for weight in parameters),
        n_embedding_parameters=sum(table.numel() for table in tables.values()),
        memory_usage_mb=round(num_bytes / 2**20, 1),
        max_tokens=None if config.text is None else config.text.max_length,
        embed_dim=kept,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=any(config.prompts.values()),
        training_datasets=None,  # unknown; an empty set would mean none of mteb's
        modalities=sorted(embedder.modalities, reverse=True),
        experiment_kwargs=None if kept == config.embed_dim else {"dims": kept},
    )
    return MtebModel(cache or EmbeddingCache(embedder), meta, dims)
