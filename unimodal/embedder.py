"""Anything -> a unit vector in the shared space.

n inputs, D embedding dimension.
"""

from __future__ import annotations

import copy
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from .inputs import check_unicode, parts_of
from .model import DualEncoder, length_sorted_chunks
from .model_config import ModelConfig, check_truncation
from .preprocess.images import image_to_pixels, load_image
from .preprocess.tokenizers import Tokenizer, pad_ids
from .progress import progress_bar
from .vectors import Vectors, cosines, truncate

Prepared: TypeAlias = (
    list[int] | Tensor
)  # the token ids of a text | (3, S, S) uint8 pixels of an image

# on a CPU 4 % faster than 2,048 and 10 % than 4,096: a feed-forward layer's stay in the cache
TOKENS_PER_BATCH = 1024
IMAGES_PER_BATCH = 32
ON_A_GPU = 32, 16  # times as many tokens, and images
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


class Embedder:
    """A model ready to use: text, images and both at once -> (n, D) float32 unit vectors.

    Made by `unimodal.load`. A str is always text; an image is a PIL image, a Path or bytes.
    """

    def __init__(
        self,
        model: DualEncoder,
        tokenizer: Tokenizer | None,
        *,
        device: str | torch.device | Sequence[str | torch.device] | None = None,
        dtype: str = "float32",
        truncate_dim: int | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """device: one name or several (a copy of the model on each); None takes a GPU where there
        is one.

        dtype: float32, bfloat16, float16 or float64: the precision of the towers; vectors come out
            as float32.
        truncate_dim: keep the first dimensions only, normalised again; of a model that was trained
            for it (`matryoshka_dims`).
        calibration: take the mean of its modality from every text and image, before they are
            summed or cut.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
        names = _devices(device)
        if tokenizer is not None and model.text is not None:
            tokenizer.fit_to(model.text.num_tokens)
        self.config: ModelConfig = model.config
        self.tokenizer = tokenizer
        self.calibration = calibration
        self.truncate_dim = self._checked(truncate_dim)
        first, *others = names
        self.models = [
            model.to(first, DTYPES[dtype]),
            *(copy.deepcopy(model).to(name, DTYPES[dtype]) for name in others),
        ]
        on_gpu = self.models[0].device.type != "cpu"
        more_tokens, more_images = ON_A_GPU if on_gpu else (1, 1)
        self.tokens_per_batch = TOKENS_PER_BATCH * more_tokens
        self.images_per_batch = IMAGES_PER_BATCH * more_images

    @property
    def modalities(self) -> frozenset[str]:
        """What it can embed: "text", "image" or both."""
        return frozenset(
            kind for kind in ("text", "image") if getattr(self.config, kind) is not None
        )

    @property
    def prompts(self) -> Mapping[str, str]:
        """What `encode_query` ("query"), `encode_document` ("document") and `encode` ("default")
        put before a text.
        """
        return self.config.prompts

    def fingerprint(self) -> str:
        """32 hexadecimal digits for exactly the vectors that this gives: the model's
        (`unimodal.fingerprint`), and another where they are calibrated or cut."""
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
        """Embed texts, images or mixtures -> (n, D) float32 unit vectors, in the order of the
        inputs.

        inputs: one item or a sequence of: a str (text); a PIL image, Path or bytes (image); a
            mapping {"text": ..., "image": ..., "weight": w}, whose vector is the normalised sum of
            (1 - w) x text and w x image (w is the image's share, 0.5 unless given; either part
            may be missing).
        prompt: put before every text; None: the model's default prompt, if it has one.
        truncate_dim: keep the first dimensions only, normalised again.
        show_progress: on stderr, as by `progress_bar`; False: nothing.

        Raises ValueError for an empty text, what is no image, or an item of another kind, with
        its position.
        """
        kept = (
            self.truncate_dim if truncate_dim is None else self._checked(truncate_dim)
        )
        prompt = (
            self.config.prompts.get("default", "")
            if prompt is None
            else check_unicode(prompt, "prompt")
        )
        items = _items(inputs)
        texts, pictures = _parts(items, self.modalities)
        vectors = np.zeros((len(items), self.config.embed_dim), dtype=np.float32)
        finished: list[int] = []
        with progress_bar(
            "embedding", len(texts) + len(pictures), show_progress
        ) as advance:

            def done(count: int) -> None:
                finished.append(count)
                advance(sum(finished))

            for parts, encoded in (
                (
                    texts,
                    self._encode_texts([prompt + text for _, text, _ in texts], done),
                ),
                (
                    pictures,
                    self._encode_images(
                        [(row, image) for row, image, _ in pictures], done
                    ),
                ),
            ):
                for (row, _, share), vector in zip(parts, encoded, strict=True):
                    vectors[row] += share * vector
        return truncate(vectors, kept)

    def encode_query(self, inputs: Item | Sequence[Item], **options: Any) -> Vectors:
        """`encode` with the model's query prompt."""
        return self.encode(
            inputs, prompt=self.config.prompts.get("query", ""), **options
        )

    def encode_document(self, inputs: Item | Sequence[Item], **options: Any) -> Vectors:
        """`encode` with the model's document prompt."""
        return self.encode(
            inputs, prompt=self.config.prompts.get("document", ""), **options
        )

    def similarity(self, left: Any, right: Any) -> Vectors:
        """Cosines of vectors of any length and type of number: (n, D), (m, D) -> (n, m).

        Raises ValueError for vectors of two lengths, and for one that is zero or not finite, with
        its position.
        """
        return cosines(left, right)

    def prepare(self, part: str | ImageInput) -> Prepared:
        """What can be done for one text (its prompt included) or image on any thread before a
        model is free.
        """
        if isinstance(part, str):
            assert self.tokenizer is not None
            return self.tokenizer([part])[0]
        return image_to_pixels(load_image(part), self.config.preprocess)

    def encode_prepared(self, batch: Sequence[Prepared], copy: int = 0) -> Vectors:
        """One forward pass over texts alone or images alone -> (B, D) float32 unit vectors of
        full length.

        copy: which of `models` to use; each may work on one batch at a time, in evaluation mode.
        """
        model = self.models[copy]
        with torch.inference_mode():
            if isinstance(batch[0], Tensor):
                mean = None if self.calibration is None else self.calibration.image_mean
                encoded = model.encode_image(
                    torch.stack(cast("list[Tensor]", batch)).to(model.device)
                )
            else:
                mean = None if self.calibration is None else self.calibration.text_mean
                token_ids = cast("list[list[int]]", batch)
                text = self.config.text
                assert text is not None
                ids, mask = pad_ids(
                    token_ids, text.pad_id, self.padded_length(max(token_ids, key=len))
                )
                encoded = model.encode_text(ids.to(model.device), mask.to(model.device))
            vectors: Vectors = encoded.float().cpu().numpy()
        return vectors if mean is None else centre(vectors, mean)

    def padded_length(self, token_ids: list[int]) -> int:
        """How many tokens a text costs alone, padding included."""
        text = self.config.text
        return (
            text.max_length
            if text is not None and text.pad_to_max_length
            else len(token_ids)
        )

    def _checked(self, truncate_dim: int | None) -> int | None:
        return (
            None
            if truncate_dim is None
            else check_truncation(self.config, truncate_dim)
        )

    def _encode_texts(self, texts: list[str], done: Callable[[int], None]) -> Vectors:
        if not texts:
            return np.zeros((0, self.config.embed_dim), dtype=np.float32)
        assert self.tokenizer is not None
        token_ids = self.tokenizer(texts)
        chunks = length_sorted_chunks(
            [self.padded_length(ids) for ids in token_ids], self.tokens_per_batch
        )
        return self._run_batches(
            len(texts), chunks, lambda chunk: [token_ids[row] for row in chunk], done
        )

    def _encode_images(
        self, pictures: list[tuple[int, ImageInput]], done: Callable[[int], None]
    ) -> Vectors:
        size = self.images_per_batch
        batches = [
            list(range(start, min(start + size, len(pictures))))
            for start in range(0, len(pictures), size)
        ]

        def pixels_of(numbered: tuple[int, ImageInput]) -> Tensor:
            try:
                return cast(Tensor, self.prepare(numbered[1]))
            except ValueError as error:
                raise ValueError(f"input {numbered[0]}: {error}") from None

        with ThreadPoolExecutor(
            max_workers=4
        ) as decoders:  # Pillow lets other threads run while it decodes
            ahead = iter(batches)
            decoding: dict[int, list[Future[Tensor]]] = {}
            lock = threading.Lock()

            def decode_next() -> None:
                with lock:
                    for batch in itertools.islice(ahead, 1):
                        decoding[batch[0]] = [
                            decoders.submit(pixels_of, pictures[row]) for row in batch
                        ]

            def prepared(batch: list[int]) -> list[Tensor]:
                decode_next()  # while the model runs
                return [one.result() for one in decoding.pop(batch[0])]

            for _ in self.models:
                decode_next()
            try:
                return self._run_batches(len(pictures), batches, prepared, done)
            finally:
                decoders.shutdown(cancel_futures=True)

    def _run_batches(
        self,
        count: int,
        batches: list[list[int]],
        prepared: Callable[[list[int]], Sequence[Prepared]],
        done: Callable[[int], None],
    ) -> Vectors:
        """Hand each batch of row numbers to whichever copy of the model is free; gather the rows in
        order.
        """
        vectors = np.zeros((count, self.config.embed_dim), dtype=np.float32)
        free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(len(self.models)):
            free.put(number)

        def work(batch: list[int]) -> None:
            number = free.get()
            try:
                vectors[batch] = self.encode_prepared(prepared(batch), number)
            finally:
                free.put(number)
            done(len(batch))

        # Module by module: a tower that is frozen in training stays in evaluation mode afterwards.
        modes = [
            (module, module.training)
            for model in self.models
            for module in model.modules()
        ]
        for model in self.models:
            model.eval()
        try:
            if len(self.models) == 1:
                for batch in batches:
                    work(batch)
            else:
                with ThreadPoolExecutor(max_workers=len(self.models)) as workers:
                    futures: list[Future[None]] = [
                        workers.submit(work, batch) for batch in batches
                    ]
                    for future in futures:
                        future.result()
        finally:
            for module, training in modes:
                module.training = training
        return vectors


def load(
    source: str | Path,
    *,
    device: str | torch.device | Sequence[str | torch.device] | None = None,
    dtype: str = "float32",
    truncate_dim: int | None = None,
    calibrated: bool = False,
) -> Embedder:
    """Load a model as an Embedder.

    source: a model directory, the hub id of one, "open_clip:NAME" or "open_clip:NAME/TAG", or
        "hf:NAME" (a transformers or sentence-transformers text model: a folder or a hub id).
    device, dtype, truncate_dim: as for `Embedder`.
    calibrated: centre texts and images by the means in the model directory (`unimodal calibrate`
        makes them).

    Raises ValueError if there is no such model, if its files do not fit together, or if it is to be
    calibrated and has no means.
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


def _devices(
    device: str | torch.device | Sequence[str | torch.device] | None,
) -> list[torch.device]:
    """The devices of the model's copies; refuses what is not one, and one that this machine does
    not have.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    given = (
        [device]
        if isinstance(device, (str, torch.device)) or not isinstance(device, Iterable)
        else list(device)
    )

    found: list[torch.device] = []
    for one in given:
        try:
            if not isinstance(
                one, (str, torch.device)
            ):  # torch takes 0 for the first GPU
                raise TypeError(f"it is of type {type(one).__name__}")
            place = torch.device(one)
            torch.empty(0, device=place)
        except (TypeError, RuntimeError, AssertionError, NotImplementedError) as error:
            why = shorten(str(error), 100, placeholder=" …")
            raise ValueError(
                f"device {one!r} cannot be used ({why}); give cpu, cuda, cuda:1 or mps."
            ) from None
        found.append(place)

    if not found:
        raise ValueError("device is an empty list; name one, or leave it out.")
    return found


def _items(inputs: Item | Sequence[Item]) -> list[Item]:
    """The inputs as a list; what is neither an item nor a sequence becomes the one item that is
    then refused.
    """
    if isinstance(inputs, (str, bytes, Path, Image.Image, Mapping)):
        return [inputs]
    if isinstance(inputs, (set, frozenset)):
        raise ValueError(
            "a set has no order, so its vectors could not be told apart; give a list."
        )
    if hasattr(inputs, "columns"):  # pandas' gives the names of its columns, one by one
        raise ValueError(
            f"a {type(inputs).__name__} is a table; give one column of it "
            "(list(table['title'])), or a list of mappings."
        )
    is_numbers = isinstance(inputs, (Tensor, bytearray, memoryview)) or (
        isinstance(inputs, np.ndarray)
        and (inputs.dtype.kind not in "OSU" or inputs.ndim == 0)
    )
    is_one = is_numbers or isinstance(inputs, IOBase)  # an open file gives its lines
    if is_one or not isinstance(inputs, Iterable):
        return [cast(Item, inputs)]
    return list(inputs)


def _parts(
    items: Sequence[Item], modalities: frozenset[str]
) -> tuple[list[tuple[int, str, float]], list[tuple[int, ImageInput, float]]]:
    """(row, text, share) and (row, image, share) of all items; refuses what cannot be embedded,
    with its row.
    """
    found: dict[str, list[tuple[int, Any, float]]] = {"text": [], "image": []}
    for row, item in enumerate(items):
        try:
            for kind, content, share in parts_of(item, modalities):
                found[kind].append((row, content, share))
        except ValueError as error:
            raise ValueError(f"input {row}: {error}") from None
    return found["text"], found["image"]
