"""Anything -> a unit vector in the shared space.

n inputs, D embedding dimension.
"""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import IOBase
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeAlias, cast

import numpy as np
import torch
import xxhash
from PIL import Image
from torch import Tensor

from .calibration import Calibration, centre, load_calibration
from .fingerprint import model_fingerprint
from .formats import load_model, native
from .hub import local_folder
from .inputs import ImageInput as ImageInput
from .inputs import Item as Item
from .inputs import Part, check_unicode, parts_of
from .model import DualEncoder, length_sorted_chunks
from .model_config import ModelConfig, check_truncation
from .preprocess.images import image_to_pixels, load_image
from .preprocess.tokenizers import Tokenizer, pad_ids
from .progress import progress_bar
from .vectors import Vectors, cosines, truncate, weighted_sum

# The token ids of a text, or the (3, S, S) uint8 pixels of an image.
Prepared: TypeAlias = list[int] | Tensor
Device: TypeAlias = str | torch.device

# On a CPU 4 % faster than 2,048 and 10 % than 4,096: the activations of a layer fit the cache.
TOKENS_PER_BATCH = 1024
IMAGES_PER_BATCH = 32
GPU_TOKENS_PER_BATCH = 32 * TOKENS_PER_BATCH
GPU_IMAGES_PER_BATCH = 16 * IMAGES_PER_BATCH
NUM_DECODERS = 4  # threads; Pillow lets others run while it decodes
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


class Embedder:
    """A loaded model: texts, images, or both at once -> (n, D) float32 unit vectors.

    Made by `unimodal.load`. A str is always a text; an image is a PIL image, a Path or bytes.
    """

    def __init__(
        self,
        model: DualEncoder,
        tokenizer: Tokenizer | None,
        *,
        device: Device | Sequence[Device] | None = None,
        dtype: str = "float32",
        truncate_dim: int | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """Move a model to its devices and check that the tokenizer fits it.

        device: one device, or several with a copy of the model on each; None: a GPU if there is
            one.
        dtype: float32, bfloat16, float16 or float64, the precision of the towers; vectors are
            float32 in any case.
        truncate_dim: keep the first dimensions only, normalised again; for a model that was
            trained for it (`matryoshka_dims`).
        calibration: subtract the mean of its modality from the vector of every text and image.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
        first, *others = _devices(device)
        if tokenizer is not None and model.text is not None:
            tokenizer.fit_to(model.text.num_tokens)
        self.config: ModelConfig = model.config
        self.tokenizer = tokenizer
        self.calibration = calibration
        self.truncate_dim = truncate_dim
        if truncate_dim is not None:
            self.truncate_dim = check_truncation(model.config, truncate_dim)
        self.models = [
            model.to(first, DTYPES[dtype]),
            *(copy.deepcopy(model).to(name, DTYPES[dtype]) for name in others),
        ]
        self.tokens_per_batch = TOKENS_PER_BATCH
        self.images_per_batch = IMAGES_PER_BATCH
        if self.models[0].device.type != "cpu":
            self.tokens_per_batch = GPU_TOKENS_PER_BATCH
            self.images_per_batch = GPU_IMAGES_PER_BATCH

    @property
    def modalities(self) -> frozenset[str]:
        """What it can embed: "text", "image" or both."""
        return frozenset(
            kind for kind in ("text", "image") if getattr(self.config, kind) is not None
        )

    @property
    def prompts(self) -> Mapping[str, str]:
        """Prefixes of a text: "query", "document" and "default", that of `encode`."""
        return self.config.prompts

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that name exactly the vectors of this embedder.

        They are those of the model (`unimodal.fingerprint`), and others where vectors are
        calibrated or truncated.
        """
        digest = model_fingerprint(self.models[0], self.tokenizer)
        means = self.calibration
        if means is not None:
            digest = xxhash.xxh3_128_hexdigest(
                digest.encode() + means.text_mean.tobytes() + means.image_mean.tobytes()
            )
        if self.truncate_dim not in (None, self.config.embed_dim):
            digest = xxhash.xxh3_128_hexdigest(f"{digest} {self.truncate_dim}".encode())
        return digest

    def encode(
        self,
        inputs: Item | Sequence[Item],
        *,
        prompt: str | None = None,
        truncate_dim: int | None = None,
        show_progress: bool | None = None,
    ) -> Vectors:
        """Embed texts, images or both -> (n, D) float32 unit vectors, in the order of the inputs.

        inputs: one item or a sequence of items: a str (text); a PIL image, Path or bytes (image); a
            mapping {"text": ..., "image": ..., "weight": w}, whose vector is the normalised sum of
            (1 - w) x text and w x image (w is the image's share, by default 0.5; either part may
            be missing).
        prompt: prefix of every text; None: the model's default prompt, if it has one.
        truncate_dim: keep the first dimensions only, normalised again.
        show_progress: show a bar on stderr, as `progress_bar` does; False: show nothing.

        Raises ValueError for an empty text, a broken image or an item of another type, with its
        position.
        """
        dim = self.truncate_dim
        if truncate_dim is not None:
            dim = check_truncation(self.config, truncate_dim)
        if prompt is None:
            prompt = self.config.prompts.get("default", "")
        prompt = check_unicode(prompt, "prompt")

        items = _items(inputs)
        texts, images = _parts(items, self.modalities)
        contents = [prompt + part.content for _, part in texts]
        sources = [(row, part.content) for row, part in images]
        num_parts = len(texts) + len(images)
        with progress_bar("embedding", num_parts, show_progress) as advance:
            done = _counter(advance)
            text_vectors = self._encode_texts(contents, done)
            image_vectors = self._encode_images(sources, done)

        if not images:
            return truncate(text_vectors, dim)
        if not texts:
            return truncate(image_vectors, dim)
        weights = np.zeros((len(items), 1))
        for row, part in images:
            weights[row] = part.share
        fused = weighted_sum(
            self._spread(text_vectors, [row for row, _ in texts], len(items)),
            self._spread(image_vectors, [row for row, _ in images], len(items)),
            weights,
        )
        return truncate(fused, dim)

    def encode_query(self, inputs: Item | Sequence[Item], **options: Any) -> Vectors:
        """Embed with the model's query prompt; see `encode`."""
        prompt = self.config.prompts.get("query", "")
        return self.encode(inputs, prompt=prompt, **options)

    def encode_document(self, inputs: Item | Sequence[Item], **options: Any) -> Vectors:
        """Embed with the model's document prompt; see `encode`."""
        prompt = self.config.prompts.get("document", "")
        return self.encode(inputs, prompt=prompt, **options)

    def similarity(self, left: Any, right: Any) -> Vectors:
        """Cosines of all pairs: (n, D) and (m, D) vectors of any length and dtype -> (n, m).

        Raises ValueError for vectors of different dimensions, and for one that is zero or not
        finite, with its position.
        """
        return cosines(left, right)

    def prepare(self, part: str | ImageInput) -> Prepared:
        """Tokenize a text (with its prompt) or decode an image; safe on any thread."""
        if isinstance(part, str):
            assert self.tokenizer is not None
            return self.tokenizer([part])[0]
        return image_to_pixels(load_image(part), self.config.preprocess)

    def encode_prepared(self, batch: Sequence[Prepared], copy: int = 0) -> Vectors:
        """Run the model once on texts only or images only -> (B, D) float32 unit vectors.

        The vectors are not truncated.

        copy: the index in `models` of the copy to use. A copy works on one batch at a time, in
            evaluation mode.
        """
        model = self.models[copy]
        is_image = isinstance(batch[0], Tensor)
        with torch.inference_mode():
            if is_image:
                pixels = torch.stack(cast("list[Tensor]", batch))
                encoded = model.encode_image(pixels.to(model.device))
            else:
                ids, mask = self._pad(cast("list[list[int]]", batch))
                encoded = model.encode_text(ids.to(model.device), mask.to(model.device))
            vectors: Vectors = encoded.float().cpu().numpy()
        if self.calibration is None:
            return vectors
        means = self.calibration
        return centre(vectors, means.image_mean if is_image else means.text_mean)

    def padded_length(self, token_ids: list[int]) -> int:
        """The number of tokens that a text costs alone, padding included."""
        text = self.config.text
        if text is not None and text.pad_to_max_length:
            return text.max_length
        return len(token_ids)

    def _pad(self, token_ids: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids of a batch -> ids (B, L) and mask (B, L)."""
        text = self.config.text
        assert text is not None
        longest = max(token_ids, key=len)
        return pad_ids(token_ids, text.pad_id, self.padded_length(longest))

    def _spread(self, vectors: Vectors, rows: list[int], num_rows: int) -> Vectors:
        """Vectors at their rows among all items, zeros elsewhere."""
        spread = np.zeros((num_rows, self.config.embed_dim), dtype=np.float32)
        spread[rows] = vectors
        return spread

    def _encode_texts(self, texts: list[str], done: Callable[[int], None]) -> Vectors:
        if not texts:
            return np.zeros((0, self.config.embed_dim), dtype=np.float32)
        assert self.tokenizer is not None
        token_ids = self.tokenizer(texts)
        lengths = [self.padded_length(ids) for ids in token_ids]
        chunks = length_sorted_chunks(lengths, self.tokens_per_batch)

        def take(chunk: list[int]) -> list[list[int]]:
            return [token_ids[row] for row in chunk]

        return self._run_batches(len(texts), chunks, take, done)

    def _encode_images(
        self, images: list[tuple[int, ImageInput]], done: Callable[[int], None]
    ) -> Vectors:
        """images: (position among the inputs, image)."""
        size = self.images_per_batch
        rows = list(range(len(images)))
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]

        with ThreadPoolExecutor(max_workers=NUM_DECODERS) as decoders:
            waiting = iter(batches)
            decoding: dict[int, list[Future[Tensor]]] = {}
            lock = threading.Lock()

            def decode_next() -> None:
                with lock:
                    batch = next(waiting, None)
                    if batch is not None:
                        decoding[batch[0]] = [
                            decoders.submit(self._pixels_of, *images[row])
                            for row in batch
                        ]

            def take(batch: list[int]) -> list[Tensor]:
                decode_next()  # while the model runs
                return [future.result() for future in decoding.pop(batch[0])]

            for _ in self.models:
                decode_next()
            try:
                return self._run_batches(len(images), batches, take, done)
            finally:
                decoders.shutdown(cancel_futures=True)

    def _pixels_of(self, position: int, image: ImageInput) -> Tensor:
        try:
            return cast(Tensor, self.prepare(image))
        except ValueError as error:
            raise ValueError(f"input {position}: {error}") from None

    def _run_batches(
        self,
        count: int,
        batches: list[list[int]],
        take: Callable[[list[int]], Sequence[Prepared]],
        done: Callable[[int], None],
    ) -> Vectors:
        """Give each batch of row numbers to a free copy of the model; gather the rows in order.

        take: returns the prepared inputs of a batch.
        done: is called with the size of each finished batch.
        """
        vectors = np.zeros((count, self.config.embed_dim), dtype=np.float32)
        free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(self.models)):
            free.put(number)

        def work(batch: list[int]) -> None:
            number = free.get()
            try:
                vectors[batch] = self.encode_prepared(take(batch), number)
            finally:
                free.put(number)
            done(len(batch))

        with _evaluation_mode(self.models):
            if len(self.models) == 1:
                for batch in batches:
                    work(batch)
            else:
                with ThreadPoolExecutor(max_workers=len(self.models)) as workers:
                    futures = [workers.submit(work, batch) for batch in batches]
                    for future in futures:
                        future.result()
        return vectors


@contextmanager
def _evaluation_mode(models: Sequence[DualEncoder]) -> Iterator[None]:
    """Put models into evaluation mode, and each module back into its own mode afterwards.

    A tower that is frozen in training stays in evaluation mode.
    """
    modules = [module for model in models for module in model.modules()]
    modes = [module.training for module in modules]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, is_training in zip(modules, modes, strict=True):
            module.training = is_training


def _counter(advance: Callable[[int], None]) -> Callable[[int], None]:
    """Return what adds up the counts it is called with, from any thread, and advances a bar."""
    finished: list[int] = []

    def done(count: int) -> None:
        finished.append(count)
        advance(sum(finished))

    return done


def load(
    source: str | Path,
    *,
    device: Device | Sequence[Device] | None = None,
    dtype: str = "float32",
    truncate_dim: int | None = None,
    calibrated: bool = False,
) -> Embedder:
    """Load a model as an Embedder.

    source: a model directory, the hub id of one, "open_clip:NAME" or "open_clip:NAME/TAG", or
        "hf:NAME" (a transformers or sentence-transformers text model: a folder or a hub id).
    device, dtype, truncate_dim: as for `Embedder`.
    calibrated: centre texts and images by the means in the model directory, which
        `unimodal calibrate` writes.

    Raises ValueError if there is no such model, if its files do not fit together, or if
    `calibrated` is set and it has no means.
    """
    name = str(source)
    model, tokenizer = load_model(name)
    calibration = None
    if calibrated:
        if not native.detect(name):
            raise ValueError(
                f"{source} is not a model directory, so it has no calibration; load it without "
                "calibrated=True."
            )
        calibration = load_calibration(local_folder(name, name), model.config.embed_dim)
    return Embedder(
        model.eval(),
        tokenizer,
        device=device,
        dtype=dtype,
        truncate_dim=truncate_dim,
        calibration=calibration,
    )


def _devices(device: Device | Sequence[Device] | None) -> list[torch.device]:
    """The devices of the model's copies; refuses a device that this machine does not have."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    is_one = isinstance(device, (str, torch.device)) or not isinstance(device, Iterable)
    names: list[Any] = [device] if is_one else list(cast(Iterable[Any], device))
    if not names:
        raise ValueError("device is an empty list; name one, or leave it out.")
    return [_usable_device(name) for name in names]


def _usable_device(name: Any) -> torch.device:
    try:
        if not isinstance(name, (str, torch.device)):  # torch takes 0 for the first GPU
            raise TypeError(f"it is of type {type(name).__name__}")
        device = torch.device(name)
        torch.empty(0, device=device)
    except (TypeError, RuntimeError, AssertionError, NotImplementedError) as error:
        why = shorten(str(error), 100, placeholder=" …")
        raise ValueError(
            f"device {name!r} cannot be used ({why}); give cpu, cuda, cuda:1 or mps."
        ) from None
    return device


def _items(inputs: Item | Sequence[Item]) -> list[Item]:
    """The inputs as a list.

    What is neither an item nor a sequence of items becomes one item, which is refused later.
    """
    if isinstance(inputs, (str, bytes, Path, Image.Image, Mapping)):
        return [inputs]
    if isinstance(inputs, (set, frozenset)):
        raise ValueError(
            "a set has no order, so its vectors could not be assigned to it; give a list."
        )
    if hasattr(inputs, "columns"):  # iterating pandas' gives the names of its columns
        raise ValueError(
            f"a {type(inputs).__name__} is a table; give one column of it "
            "(list(table['title'])), or a list of mappings."
        )
    # An open file would give its lines, and an array of numbers its rows.
    if isinstance(inputs, IOBase) or _is_numbers(inputs):
        return [cast(Item, inputs)]
    if not isinstance(inputs, Iterable):
        return [cast(Item, inputs)]
    return list(inputs)


def _is_numbers(inputs: Any) -> bool:
    if isinstance(inputs, np.ndarray):
        return inputs.dtype.kind not in "OSU" or inputs.ndim == 0
    return isinstance(inputs, (Tensor, bytearray, memoryview))


def _parts(
    items: Sequence[Item], modalities: frozenset[str]
) -> tuple[list[tuple[int, Part]], list[tuple[int, Part]]]:
    """(row, part) of all texts, and of all images; what cannot be embedded is refused."""
    texts: list[tuple[int, Part]] = []
    images: list[tuple[int, Part]] = []
    for row, item in enumerate(items):
        try:
            parts = parts_of(item, modalities)
        except ValueError as error:
            raise ValueError(f"input {row}: {error}") from None
        for part in parts:
            kept = texts if part.kind == "text" else images
            kept.append((row, part))
    return texts, images
