"""Any model that mteb can load, as an encoder that our suites score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xxhash
from PIL import Image

from unimodal.inputs import Plain
from unimodal.preprocess.images import decode_image
from unimodal.progress import progress_bar
from unimodal.vectors import Vectors, normalize

from .tasks import import_mteb

CHUNK = 1024  # inputs of one call of the model: what it holds of images at a time
Kind = Literal["text", "image"]


class MtebEncoder:
    """A model of mteb's, asked as mteb asks it; made by `load_mteb_model`."""

    def __init__(
        self, model: Any, *, batch_size: int = 32, files: Path | None = None
    ) -> None:
        """model: has mteb's Encoder protocol. batch_size: as mteb's. files: the folder that the
        weights were read from.

        Raises ValueError for a model that gives no single vector for an input, or is not compared
        by the cosine.
        """
        import_mteb()
        from mteb.models import EncoderProtocol

        meta = model.mteb_model_meta
        if not isinstance(model, EncoderProtocol) or "dense" not in meta.model_type:
            raise ValueError(
                f"mteb model {meta.name!r} ({', '.join(meta.model_type)}) gives no single vector "
                "for an input; mteb itself scores it."
            )
        similarity = str(
            getattr(
                meta.similarity_fn_name, "value", meta.similarity_fn_name or "cosine"
            )
        )
        if similarity != "cosine":
            raise ValueError(
                f"mteb model {meta.name!r} is compared by {similarity} and scores here are "
                "cosines; mteb itself scores it."
            )
        self.model: Any = model
        self.batch_size = batch_size
        self._files = files

    @property
    def modalities(self) -> frozenset[str]:
        """What it can embed: "text", "image" or both."""
        return frozenset(self.model.mteb_model_meta.modalities) & {"text", "image"}

    @property
    def prompts(self) -> dict[str, str]:
        """What tells its queries and documents apart; the words themselves are the model's own
        affair.
        """
        return {"query": "query", "document": "document"}

    def fingerprint(self) -> str:
        """32 hexadecimal digits of its name, revision and options, and of its files where it is a
        folder.

        Empty where neither a revision nor files say which weights they are.
        """
        meta = self.model.mteb_model_meta
        if meta.revision is None and self._files is None:
            return ""
        digest = xxhash.xxh3_128(
            repr(
                (meta.name, meta.revision, meta.embed_dim, meta.experiment_kwargs)
            ).encode()
        )
        for file in sorted(self._files.rglob("*")) if self._files is not None else []:
            if file.is_file():
                digest.update(f"{file.name} {file.stat().st_size}".encode())
                with open(file, "rb") as opened:
                    while block := opened.read(1 << 24):
                        digest.update(block)
        return digest.hexdigest()

    def encode(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        """(n, D) float32 unit vectors, with the prompt that the model has for STS, if any."""
        return self._encode(inputs, None, show_progress)

    def encode_query(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        """(n, D) float32 unit vectors, with the model's prompt for queries of a retrieval task."""
        return self._encode(inputs, "query", show_progress)

    def encode_document(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        """(n, D) float32 unit vectors, with the model's prompt for documents of a
        retrieval task.
        """
        return self._encode(inputs, "document", show_progress)

    def _encode(
        self, inputs: Sequence[Plain], prompt: str | None, show_progress: bool | None
    ) -> Vectors:
        rows: dict[Kind, list[int]] = {"text": [], "image": []}
        for number, one in enumerate(inputs):
            rows["text" if isinstance(one, str) else "image"].append(number)
        vectors: Vectors | None = None
        done = 0
        with progress_bar("embedding", len(inputs), show_progress) as advance:
            for kind, numbers in rows.items():
                if numbers and kind not in self.modalities:
                    raise ValueError(
                        f"input {numbers[0]} is {'a text' if kind == 'text' else 'an image'}, "
                        f"and mteb model {self.model.mteb_model_meta.name!r} embeds "
                        f"{' and '.join(sorted(self.modalities))} only."
                    )
                for start in range(0, len(numbers), CHUNK):
                    chunk = numbers[start : start + CHUNK]
                    found = self._encode_chunk(
                        [inputs[number] for number in chunk], kind, prompt
                    )
                    if vectors is None:
                        vectors = np.zeros(
                            (len(inputs), found.shape[1]), dtype=np.float32
                        )
                    vectors[chunk] = found
                    done += len(chunk)
                    advance(done)
        return np.zeros((0, 0), dtype=np.float32) if vectors is None else vectors

    def _encode_chunk(
        self, inputs: Sequence[Plain], kind: Kind, prompt: str | None
    ) -> Vectors:
        import torch
        from mteb.types import PromptType
        from torch.utils.data import DataLoader

        if kind == "text":
            rows = _text_rows([str(one) for one in inputs], prompt)
        else:
            rows = _image_rows([one for one in inputs if not isinstance(one, str)])
        found = self.model.encode(
            DataLoader(rows, batch_size=self.batch_size, collate_fn=_as_lists),
            task_metadata=_metadata(kind, prompt),
            hf_split="test",
            hf_subset="default",
            prompt_type=None if prompt is None else PromptType(prompt),
            batch_size=self.batch_size,
            show_progress_bar=False,
        )
        return normalize(torch.as_tensor(found).detach().cpu().float().numpy())


def load_mteb_model(
    name: str,
    *,
    revision: str | None = None,
    device: str | None = None,
    batch_size: int = 32,
) -> MtebEncoder:
    """A model by the name that mteb, or the hub, knows it by; or a folder of a
    sentence-transformers model.

    revision, device: as mteb.get_model's.

    Raises ValueError for a model that mteb cannot load or that `MtebEncoder` refuses.
    """
    mteb = import_mteb()
    if Path(name).is_dir():
        from mteb.models import SentenceTransformerEncoderWrapper
        from sentence_transformers import SentenceTransformer

        wrapper = SentenceTransformerEncoderWrapper(
            SentenceTransformer(name, device=device)
        )
        return MtebEncoder(wrapper, batch_size=batch_size, files=Path(name))
    try:
        model = mteb.get_model(name, revision=revision, device=device)
    except (OSError, ValueError, KeyError, NotImplementedError, ImportError) as error:
        reason = " ".join(str(error.args[0] if error.args else error).split())[
            :300
        ].rstrip(".")
        raise ValueError(
            f"mteb cannot load the model {name!r} ({reason}); give a name that mteb or the hub "
            "has, as owner/name, or a folder of a sentence-transformers model."
        ) from None
    return MtebEncoder(model, batch_size=batch_size)


def is_mteb_model(name: str) -> bool:
    """Whether mteb has an implementation of its own for a model of that name."""
    import_mteb()
    from mteb.models.model_implementations import MODEL_REGISTRY

    return name in MODEL_REGISTRY


def _metadata(kind: Kind, prompt: str | None) -> Any:
    """What mteb's wrappers choose prompts and instructions by, for inputs that belong to no task of
    mteb's.
    """
    from mteb.abstasks.task_metadata import TaskMetadata

    retrieval = prompt is not None
    return TaskMetadata(
        name="unimodal",
        description="inputs of a suite",
        type="STS"
        if not retrieval
        else "Retrieval"
        if kind == "text"
        else "Any2AnyRetrieval",
        category="t2t" if kind == "text" else "i2i",
        modalities=[kind],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10" if retrieval else "cosine_spearman",
        # those of mteb's own task classes, which it looks up by the name of a task it knows
        prompt="Retrieve text based on user query."
        if retrieval
        else "Retrieve semantically similar text.",
        dataset={"path": "unimodal", "revision": "none"},
    )


def _text_rows(texts: list[str], prompt: str | None) -> Any:
    from datasets import Dataset

    ids = [str(number) for number in range(len(texts))]
    columns: dict[str, list[str]] = {"text": texts}
    if prompt == "query":
        columns = {"id": ids, "text": texts, "query": texts}
    elif prompt == "document":
        columns = {"id": ids, "text": texts, "body": texts}
    return Dataset.from_dict(columns)


def _image_rows(pictures: Sequence[Path | bytes]) -> Any:
    """A data set that decodes as our own models do: RGB, turned as the EXIF says, a broken image
    named.
    """
    import datasets

    cells = [
        {"bytes": one, "path": None}
        if isinstance(one, bytes)
        else {"bytes": None, "path": str(one)}
        for one in pictures
    ]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = datasets.Dataset.from_dict({"image": cells}, features=features)
    return rows.with_transform(
        lambda batch: {"image": [_decoded(cell) for cell in batch["image"]]}
    )


def _decoded(cell: dict[str, Any]) -> Image.Image:
    return decode_image(
        cell["bytes"] if cell["bytes"] is not None else Path(cell["path"])
    )


def _as_lists(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [row[key] for row in rows] for key in rows[0]}
