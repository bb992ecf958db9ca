"""A model of ours as one of mteb's.

mteb asks an Encoder for vectors and then searches by itself, with a heap for each query. The object
made here is its Encoder and its Search at once (mteb.models.models_protocols), so that mteb hands
over whole tables: images are not decoded on the way, each distinct input is encoded once across
tasks, and the search is one product and one top-k.
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

MTEB_BATCH_SIZE = 32  # what mteb passes where nobody says another
Found = dict[str, dict[str, float]]  # query id -> document id -> score


class MtebModel:
    """What mteb.evaluate takes for a model; made by `mteb_model`."""

    def __init__(
        self, cache: EmbeddingCache, meta: Any, dims: int | None = None
    ) -> None:
        """cache: encodes. meta: mteb's ModelMeta. dims: keep the first dimensions only, normalised
        again.
        """
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
        """(n, D) float32 unit vectors of what a DataLoader of mteb's gives, in its order.

        A row with a text and an image becomes the normalised sum of both. The model's query and
        document prompts stand before texts of that prompt_type, and none where mteb names none
        (STS, zero-shot).

        Raises ValueError for encode_kwargs that would have no effect (`check_encode_kwargs`), and
        for rows without a modality of the model.
        """
        self._obey(encode_kwargs)
        where = "/".join((task_metadata.name, hf_split, hf_subset))
        prompt: Prompt = "" if prompt_type is None else prompt_type.value
        where = f"{where} {prompt}".strip()
        return self._vectors(
            loader_inputs(inputs, where, self.cache.modalities), prompt, where
        )

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
        """Encode the documents that the next `search` looks through.

        num_proc: not needed, as images are not decoded on the way.

        Raises ValueError as `encode` does.
        """
        self._obey(encode_kwargs or {})
        self._documents = None  # those of the task before make room first
        self._documents = self._encoded(
            corpus, "document", task_metadata, hf_split, hf_subset
        )
        self._ids = [str(one) for one in corpus["id"]]

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
    ) -> Found:
        """The top_k documents of each query, or of the candidates that top_ranked gives it, with
        their cosines.

        Raises ValueError as `encode` does.
        """
        self._obey(encode_kwargs or {})
        assert self._documents is not None, "mteb indexes before it searches"
        asked = self._encoded(queries, "query", task_metadata, hf_split, hf_subset)
        ids = [str(one) for one in queries["id"]]
        if top_ranked:
            return dict(
                zip(ids, self._ranked_again(ids, asked, top_ranked, top_k), strict=True)
            )
        return dict(
            zip(
                ids,
                top_documents(asked, self._documents, self._ids, top_k),
                strict=True,
            )
        )

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines, (n, D) and (m, D) -> (n, m), of vectors of any length and type: mteb may
        compress ours.
        """
        from mteb.similarity_functions import cos_sim

        return cos_sim(*_in_float32(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines of pairs, (n, D) and (n, D) -> (n,), of vectors of any length and type."""
        from mteb.similarity_functions import pairwise_cos_sim

        return cast("Tensor", pairwise_cos_sim(*_in_float32(embeddings1, embeddings2)))

    def _obey(self, encode_kwargs: Mapping[str, Any]) -> None:
        check_encode_kwargs(encode_kwargs)
        if "show_progress_bar" in encode_kwargs:
            self.cache.show_progress = bool(encode_kwargs["show_progress_bar"])

    def _encoded(
        self, rows: Table, prompt: Prompt, metadata: Any, split: str, subset: str
    ) -> Vectors:
        from mteb.types import PromptType

        where = f"{'/'.join((metadata.name, split, subset))} {prompt}"
        wanted = [
            one
            for one in metadata.get_modalities(PromptType(prompt))
            if one in self.cache.modalities
        ]
        return self._vectors(table_inputs(rows, where, wanted, prompt), prompt, where)

    def _vectors(self, inputs: list[Any], prompt: Prompt, where: str) -> Vectors:
        vectors = self.cache.encode(inputs, prompt)
        check_vectors(vectors, where)
        return vectors if self.dims is None else truncate(vectors, self.dims)

    def _ranked_again(
        self,
        ids: Sequence[str],
        asked: Vectors,
        top_ranked: Mapping[str, Sequence[str]],
        top_k: int,
    ) -> Iterator[dict[str, float]]:
        assert self._documents is not None
        position = {name: number for number, name in enumerate(self._ids)}
        for name, vector in zip(ids, asked, strict=True):
            candidates = list(dict.fromkeys(top_ranked.get(name, ())))
            rows = self._documents[[position[one] for one in candidates]]
            yield from (
                top_documents(vector[None], rows, candidates, top_k)
                if candidates
                else iter([{}])
            )


def check_encode_kwargs(encode_kwargs: Mapping[str, Any]) -> None:
    """Refuse what mteb hands to every encoder and this one does not do, so that no result is filed
    as if it had.

    `show_progress_bar` is obeyed. `batch_size` changes no vector, as an embedder packs its batches
    by tokens; another one than mteb's own 32 gets a warning.

    Raises ValueError for a `precision` other than float32, and for any other name.
    """
    precision = encode_kwargs.get("precision")
    if precision not in (None, "float32"):
        raise ValueError(
            f"encode_kwargs: precision {precision!r} is not made here, where vectors are "
            "float32; let mteb compress them: mteb.models.CompressionWrapper(model, "
            "mteb.types.OutputDType.UINT8)."
        )
    unknown = sorted(
        set(encode_kwargs) - {"precision", "batch_size", "show_progress_bar"}
    )
    if unknown:
        raise ValueError(
            f"encode_kwargs: {', '.join(map(repr, unknown))} would have no effect; leave it out "
            "(known are batch_size, precision and show_progress_bar)."
        )
    if encode_kwargs.get("batch_size", MTEB_BATCH_SIZE) != MTEB_BATCH_SIZE:
        warnings.warn(
            f"encode_kwargs: batch_size {encode_kwargs['batch_size']} is not used; the embedder "
            "packs batches by tokens_per_batch and images_per_batch, and no vector depends on "
            "them.",
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
    """A model of ours as one of mteb's.

    name: of the model in the results, "owner/name"; see `run.mteb_name`.
    dims: keep the first dimensions only (matryoshka); results lie apart, as an experiment of the
        same model.
    cache: an embedding cache of this embedder, shared by several dims; a new one if left out.

    The revision is the fingerprint of weights, preprocessing and prompts: mteb returns old scores
    for a model whose name and revision it has seen before. Raises ValueError for dims that the
    model has not.
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
        n_parameters=sum(one.numel() for one in parameters),
        n_embedding_parameters=sum(one.numel() for one in tables.values()),
        memory_usage_mb=round(
            sum(one.numel() * one.element_size() for one in parameters) / 2**20, 1
        ),
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
    return MtebModel(cache or EmbeddingCache(embedder), meta, dims)
