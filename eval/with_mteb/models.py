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

CHUNK = 1024  # inputs per call of the model, so that it holds few images at a time
BLOCK_BYTES = 1 << 24  # per read of a file
Kind = Literal["text", "image"]


class MtebEncoder:
    """A model of mteb, called as mteb calls it; `load_mteb_model` makes it."""

    def __init__(
        self, model: Any, *, batch_size: int = 32, files: Path | None = None
    ) -> None:
        """model: has mteb's Encoder protocol. batch_size: as in mteb. files: the folder of the
        weights.

        Raises ValueError for a model that does not give one vector per input, or that is not
        compared by the cosine.
        """
        import_mteb()
        from mteb.models import EncoderProtocol

        meta = model.mteb_model_meta
        if not isinstance(model, EncoderProtocol) or "dense" not in meta.model_type:
            raise ValueError(
                f"mteb model {meta.name!r} ({', '.join(meta.model_type)}) does not give one "
                "vector per input; score it with mteb itself."
            )
        similarity = meta.similarity_fn_name or "cosine"
        similarity = str(getattr(similarity, "value", similarity))
        if similarity != "cosine":
            raise ValueError(
                f"mteb model {meta.name!r} is compared by {similarity}, not by the cosine; score "
                "it with mteb itself."
            )
        self.model: Any = model
        self.batch_size = batch_size
        self._files = files

    @property
    def modalities(self) -> frozenset[str]:
        """What the model can embed: "text", "image" or both."""
        return frozenset(self.model.mteb_model_meta.modalities) & {"text", "image"}

    @property
    def prompts(self) -> dict[str, str]:
        """Names of the prompts of queries and documents; the model has the words."""
        return {"query": "query", "document": "document"}

    def fingerprint(self) -> str:
        """32 hexadecimal digits of the name, the revision and the options, and of local files.

        Empty if neither a revision nor files identify the weights.
        """
        meta = self.model.mteb_model_meta
        if meta.revision is None and self._files is None:
            return ""
        options = (meta.name, meta.revision, meta.embed_dim, meta.experiment_kwargs)
        digest = xxhash.xxh3_128(repr(options).encode())
        files = [] if self._files is None else sorted(self._files.rglob("*"))
        for file in files:
            if not file.is_file():
                continue
            digest.update(f"{file.name} {file.stat().st_size}".encode())
            with open(file, "rb") as opened:
                while block := opened.read(BLOCK_BYTES):
                    digest.update(block)
        return digest.hexdigest()

    def encode(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        """(n, D) float32 unit vectors, with the model's prompt for STS, if any."""
        return self._encode(inputs, None, show_progress)

    def encode_query(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        """(n, D) float32 unit vectors, with the model's prompt for queries of retrieval."""
        return self._encode(inputs, "query", show_progress)

    def encode_document(
        self, inputs: Sequence[Plain], *, show_progress: bool | None = None
    ) -> Vectors:
        """(n, D) float32 unit vectors, with the model's prompt for documents of retrieval."""
        return self._encode(inputs, "document", show_progress)

    def _encode(
        self, inputs: Sequence[Plain], prompt: str | None, show_progress: bool | None
    ) -> Vectors:
        rows: dict[Kind, list[int]] = {"text": [], "image": []}
        for number, item in enumerate(inputs):
            rows["text" if isinstance(item, str) else "image"].append(number)
        vectors: Vectors = np.zeros((len(inputs), 0), dtype=np.float32)
        done = 0
        with progress_bar("embedding", len(inputs), show_progress) as advance:
            for kind, numbers in rows.items():
                if numbers:
                    self._check_modality(kind, numbers[0])
                for start in range(0, len(numbers), CHUNK):
                    chunk = numbers[start : start + CHUNK]
                    items = [inputs[number] for number in chunk]
                    encoded = self._encode_chunk(items, kind, prompt)
                    if done == 0:
                        shape = (len(inputs), encoded.shape[1])
                        vectors = np.zeros(shape, dtype=np.float32)
                    vectors[chunk] = encoded
                    done += len(chunk)
                    advance(done)
        return vectors

    def _check_modality(self, kind: Kind, number: int) -> None:
        if kind not in self.modalities:
            name = {"text": "a text", "image": "an image"}[kind]
            raise ValueError(
                f"input {number} is {name}, but mteb model "
                f"{self.model.mteb_model_meta.name!r} embeds only "
                f"{' and '.join(sorted(self.modalities))}."
            )

    def _encode_chunk(
        self, inputs: Sequence[Plain], kind: Kind, prompt: str | None
    ) -> Vectors:
        import torch
        from mteb.types import PromptType
        from torch.utils.data import DataLoader

        if kind == "text":
            rows = _text_rows(list(map(str, inputs)), prompt)
        else:
            rows = _image_rows([item for item in inputs if not isinstance(item, str)])
        vectors = self.model.encode(
            DataLoader(rows, batch_size=self.batch_size, collate_fn=_as_lists),
            task_metadata=_metadata(kind, prompt),
            hf_split="test",
            hf_subset="default",
            prompt_type=None if prompt is None else PromptType(prompt),
            batch_size=self.batch_size,
            show_progress_bar=False,
        )
        return normalize(torch.as_tensor(vectors).detach().cpu().float().numpy())


def load_mteb_model(
    name: str,
    *,
    revision: str | None = None,
    device: str | None = None,
    batch_size: int = 32,
) -> MtebEncoder:
    """A model by its name in mteb or on the hub, or a folder of a sentence-transformers model.

    revision, device: as in mteb.get_model.

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
        message = str(error.args[0] if error.args else error)
        reason = " ".join(message.split())[:300].rstrip(".")
        raise ValueError(
            f"mteb cannot load the model {name!r} ({reason}); give a name in mteb or on the hub, "
            "such as owner/name, or a folder of a sentence-transformers model."
        ) from None
    return MtebEncoder(model, batch_size=batch_size)


def is_mteb_model(name: str) -> bool:
    """Whether mteb has its own implementation of a model of that name."""
    import_mteb()
    from mteb.models.model_implementations import MODEL_REGISTRY

    return name in MODEL_REGISTRY


def _metadata(kind: Kind, prompt: str | None) -> Any:
    """The metadata of a task, by which mteb's wrappers choose prompts and instructions."""
    from mteb.abstasks.task_metadata import TaskMetadata

    is_retrieval = prompt is not None
    task_type = "STS"
    instruction = "Retrieve semantically similar text."
    if is_retrieval:
        task_type = "Retrieval" if kind == "text" else "Any2AnyRetrieval"
        instruction = "Retrieve text based on user query."
    return TaskMetadata(
        name="unimodal",
        description="inputs of a suite",
        type=task_type,
        category="t2t" if kind == "text" else "i2i",
        modalities=[kind],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10" if is_retrieval else "cosine_spearman",
        prompt=instruction,  # that of mteb's own classes of tasks
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


def _image_rows(images: Sequence[Path | bytes]) -> Any:
    """A data set that decodes as our own models do: RGB, turned by EXIF, errors name the image."""
    import datasets

    cells: list[dict[str, Any]] = []
    for image in images:
        if isinstance(image, bytes):
            cells.append({"bytes": image, "path": None})
        else:
            cells.append({"bytes": None, "path": str(image)})
    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = datasets.Dataset.from_dict({"image": cells}, features=features)
    return rows.with_transform(_decode_batch)


def _decode_batch(batch: dict[str, Any]) -> dict[str, list[Image.Image]]:
    return {"image": [_decode(cell) for cell in batch["image"]]}


def _decode(cell: dict[str, Any]) -> Image.Image:
    content = cell["bytes"]
    return decode_image(Path(cell["path"]) if content is None else content)


def _as_lists(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {key: [] for key in rows[0]}
    for row in rows:
        for key, column in columns.items():
            column.append(row[key])
    return columns
