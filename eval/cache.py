"""The embedding cache: each distinct text and image is encoded once, for all tasks and metrics.

A vector is known by what was encoded (the bytes of a text or of an image's file) and the prompt
before it. On disk each model has a folder, by its fingerprint, which preprocessing is part of. So
an evaluation that was killed resumes where it was, and the next one with the same model encodes
only what it has not seen.

n inputs, D embedding dimension.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import xxhash

from unimodal.encoder import Encoder
from unimodal.preprocess.images import decode_image
from unimodal.progress import Advance, progress_bar
from unimodal.vectors import Vectors, fuse

from .cache_file import Key, Memory, Precision, Stopped, Storage, VectorFile
from .data.inputs import (
    Deferred,
    Fused,
    Input,
    Prompt,
    Side,
    SingleInput,
    bytes_of,
    name_of,
    split_input,
)

__all__ = ["CacheItem", "EmbeddingCache", "Stopped", "cost_of"]

MEMORY = 4 << 30  # bytes of vectors that are held without a folder
_SECONDS = 2.0  # of a block: what a kill loses, and how long a stop waits
_FIRST = {
    "text": 4096,
    "image": 8,
}  # characters, images: a block before the speed is known
_MOST = {
    "text": 1 << 24,
    "image": 512,
}  # a block of images from tars is in memory as bytes
_TEXT_OVERHEAD = 16  # characters that a text costs besides its own
_NUM_NAMED = 8  # broken images in a message


class CacheItem(NamedTuple):
    """A text or an image that has one vector."""

    key: Key
    content: SingleInput
    prompt: Prompt  # empty for images

    @property
    def kind(self) -> Literal["text", "image"]:
        """Whether it is a text or an image."""
        return "text" if isinstance(self.content, str) else "image"


class EmbeddingCache:
    """An encoder that remembers its vectors, in memory or in a folder."""

    def __init__(
        self,
        encoder: Encoder,
        folder: Path | None = None,
        *,
        dtype: Precision = "float32",
        should_stop: Callable[[], bool] = lambda: False,
        show_progress: bool | None = False,
    ) -> None:
        """Open the cache of a model.

        folder: where vectors are kept for the next time; None: in memory, up to 4 GiB of those used
            last.
        dtype: of the vectors that are kept. float16 takes half the space; a cosine of such vectors
            is off by about 1e-5.
        should_stop: called before each block of about two seconds.

        Raises ValueError for another dtype, and if the files of the folder are broken.
        """
        if dtype not in get_args(Precision):
            raise ValueError(
                f"vectors are kept in {' or '.join(get_args(Precision))}, not in {dtype!r}."
            )
        self.encoder = encoder
        self.should_stop = should_stop
        self.show_progress = show_progress
        self._vectors = _storage(encoder, folder, dtype)
        self._rounds = dtype != "float32"
        self._digests: dict[
            Path | Deferred, bytes
        ] = {}  # of images that were read once

    @property
    def modalities(self) -> frozenset[str]:
        """What the encoder can embed."""
        return self.encoder.modalities

    def encode(self, inputs: Sequence[Input], prompt: Prompt = "") -> Vectors:
        """(n, D) float32 unit vectors of the inputs, in their order; unknown ones are encoded."""
        if not len(inputs):
            return np.zeros((0, 0), dtype=np.float32)
        self.fill([Side(inputs, prompt)])
        vectors = self._rows(
            [self._key(split_input(item)[0], prompt) for item in inputs]
        )
        fused = [row for row, item in enumerate(inputs) if isinstance(item, Fused)]
        if fused:
            images = [split_input(inputs[row])[1] for row in fused]
            image_vectors = self._rows([self._key(image, prompt) for image in images])
            vectors[fused] = fuse(vectors[fused], image_vectors, 0.5)
        self._vectors.trim()
        return vectors

    def fill(self, sides: Iterable[Side]) -> None:
        """Encode all inputs of the sides that have no vector yet, under one progress bar.

        Texts are encoded by length. What is done is kept block by block. Raises Stopped as soon as
        `should_stop` is true; and ValueError, when all others are done, that names the images that
        cannot be decoded.
        """
        missing = self.missing(sides)
        if not missing:
            return
        with self._vectors.writing(self.should_stop):
            # another process may have added some
            missing = [item for item in missing if not self.knows(item)]
            texts = [item for item in missing if item.kind == "text"]
            texts.sort(key=lambda item: (item.prompt, -cost_of(item)))
            images = [item for item in missing if item.kind == "image"]
            broken: list[str] = []
            with progress_bar("encoding", len(missing), self.show_progress) as advance:
                done = self._encode_all(texts, 0, broken, advance)
                self._encode_all(images, done, broken, advance)
        if broken:
            raise ValueError(
                _broken_text(broken, len(images), "all others are encoded")
            )

    def check_images(self, items: Iterable[CacheItem]) -> None:
        """Decode every image without a vector; ValueError names those that cannot be decoded."""
        images = [
            item for item in items if item.kind == "image" and not self.knows(item)
        ]
        with ThreadPoolExecutor() as pool:
            faults = list(pool.map(_fault, [item.content for item in images]))
        broken = [fault for fault in faults if fault]
        if broken:
            raise ValueError(
                _broken_text(broken, len(images), "the others are still to be encoded")
            )

    def missing(self, sides: Iterable[Side]) -> list[CacheItem]:
        """The `items` that have no vector yet."""
        return [item for item in self.items(sides) if not self.knows(item)]

    def knows(self, item: CacheItem) -> bool:
        """Whether the item has a vector already."""
        return item.key in self._vectors

    def items(self, sides: Iterable[Side]) -> list[CacheItem]:
        """Each distinct text and image of the sides; images are read, not decoded.

        Raises ValueError for an empty text and for an image that cannot be read.
        """
        items: dict[Key, CacheItem] = {}
        for side in sides:
            for row, value in enumerate(side.inputs):
                for content in split_input(value):
                    is_text = isinstance(content, str)
                    if isinstance(content, str) and not content.strip():
                        raise ValueError(
                            f"input {row} of {len(side.inputs):,} is {content!r}; take it out "
                            "of the data."
                        )
                    key = self._key(content, side.prompt)
                    prompt: Prompt = side.prompt if is_text else ""
                    items.setdefault(key, CacheItem(key, content, prompt))
        return list(items.values())

    def _rows(self, keys: Sequence[Key]) -> Vectors:
        rows = self._vectors.rows(keys)
        if self._rounds:
            # undo what rounding did to the length of unit vectors, and of no others
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            rows /= np.where(np.abs(norms - 1) < 1e-3, norms, np.float32(1))
        return rows

    def _key(self, content: SingleInput, prompt: Prompt) -> Key:
        if isinstance(content, str):
            prefix = self.encoder.prompts.get(prompt or "default", "")
            return xxhash.xxh3_128_digest(
                b"text\0%d\0%s%s" % (len(prefix), prefix.encode(), content.encode())
            )
        if isinstance(content, bytes):
            return xxhash.xxh3_128_digest(b"image\0" + content)
        if content not in self._digests:
            self._digests[content] = xxhash.xxh3_128_digest(b"image\0" + _read(content))
        return self._digests[content]

    def _encode_all(
        self,
        missing: Sequence[CacheItem],
        done: int,
        broken: list[str],
        advance: Advance,
    ) -> int:
        """Encode in blocks of about two seconds, each kept before the next begins.

        done: items that were encoded before. Returns how many there are now.
        """
        start = 0
        budget = float(_FIRST[missing[0].kind]) if missing else 0.0
        while start < len(missing):
            if self.should_stop():
                raise Stopped(
                    f"stopped with {len(missing) - start:,} still to encode; the others are kept."
                )
            began = time.perf_counter()
            block = _block(missing, start, budget)
            good, vectors = self._encode_block(block, broken)
            if good:
                self._vectors.append([item.key for item in good], vectors)
            start += len(block)
            advance(done + start)
            seconds = time.perf_counter() - began
            affordable = sum(map(cost_of, block)) * _SECONDS / max(seconds, 1e-6)
            budget = min(4 * budget, affordable, _MOST[block[0].kind])
        return done + len(missing)

    def _encode_block(
        self, block: list[CacheItem], broken: list[str]
    ) -> tuple[list[CacheItem], Vectors]:
        """The items of a block that can be encoded, and their vectors; faults go to `broken`."""
        try:
            return block, self._encode_plain(block)
        except (ValueError, OSError):
            images = [item for item in block if item.kind == "image"]
            faults = {item.key: _fault(item.content) for item in images}
            faults = {key: fault for key, fault in faults.items() if fault}
            if not faults:
                raise
        broken += faults.values()
        good = [item for item in block if item.key not in faults]
        if not good:
            return [], np.zeros((0, 0), dtype=np.float32)
        return good, self._encode_plain(good)

    def _encode_plain(self, block: list[CacheItem]) -> Vectors:
        methods = {
            "": self.encoder.encode,
            "query": self.encoder.encode_query,
            "document": self.encoder.encode_document,
        }
        encode = methods[block[0].prompt]
        plain = [
            item.content.read() if isinstance(item.content, Deferred) else item.content
            for item in block
        ]
        return np.asarray(encode(plain, show_progress=False), dtype=np.float32)


def _storage(encoder: Encoder, folder: Path | None, dtype: Precision) -> Storage:
    if folder is None:
        return Memory(dtype, MEMORY)
    fingerprint = encoder.fingerprint()
    if not fingerprint:
        warnings.warn(
            f"the model does not have a fingerprint, so nothing is kept in {folder}.",
            stacklevel=3,
        )
        return Memory(dtype, MEMORY)
    return VectorFile(folder / f"{fingerprint}-{dtype}", dtype)


def _block(missing: Sequence[CacheItem], start: int, budget: float) -> list[CacheItem]:
    """Items from `start` on, of one prompt, that cost no more than the budget; at least one."""
    block: list[CacheItem] = []
    for item in itertools.islice(missing, start, None):
        budget -= cost_of(item)
        if block and (budget < 0 or item.prompt != block[0].prompt):
            break
        block.append(item)
    return block


def cost_of(item: CacheItem) -> int:
    """The cost of encoding an item, in characters of a text or in images."""
    if isinstance(item.content, str):
        return len(item.content) + _TEXT_OVERHEAD
    return 1


def _broken_text(broken: Sequence[str], count: int, rest: str) -> str:
    more = f" and {len(broken) - _NUM_NAMED:,} more" if len(broken) > _NUM_NAMED else ""
    return (
        f"{len(broken):,} of {count:,} images cannot be decoded: "
        f"{'; '.join(broken[:_NUM_NAMED])}{more}; repair them or remove them from the data "
        f"({rest})."
    )


def _read(image: Path | Deferred) -> bytes:
    try:
        return bytes_of(image)
    except OSError as error:
        raise ValueError(
            f"{name_of(image)} cannot be read ({error}); put it there or leave it out."
        ) from None


def _fault(image: SingleInput) -> str:
    """What is wrong with an image; empty if it can be decoded."""
    assert not isinstance(image, str)
    try:
        decode_image(image.read() if isinstance(image, Deferred) else image)
    except ValueError as error:
        # the error of a Path names it already
        return str(error) if isinstance(image, Path) else f"{name_of(image)}: {error}"
    return ""
