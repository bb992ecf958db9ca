"""Vectors of inputs: each distinct text and image is encoded once, whatever the tasks, directions
and metrics.

A vector is known by what was encoded (the bytes of a text or of an image's file) and the prompt
before it; on the disk there is a folder for each model, by its fingerprint, which preprocessing is
part of. So an evaluation that was killed goes on where it was, and the next one with the same model
encodes only what it has not seen.

n inputs, D embedding dimension.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import xxhash

from unimodal.encoder import Encoder
from unimodal.inputs import Plain
from unimodal.preprocess.images import decode_image
from unimodal.progress import Advance, progress_bar
from unimodal.vectors import Vectors, fuse

from .cache_file import Key, Memory, Precision, Stopped, Storage, VectorFile
from .data.datasets import Deferred, Fused, Input
from .data.inputs import bytes_of, name_of, parts_of

__all__ = ["Asked", "EmbeddingStore", "Part", "Prompt", "Stopped", "cost_of"]

Prompt = Literal[
    "", "query", "document"
]  # which of the model's prompts stands before a text
Asked: TypeAlias = tuple[Sequence[Input], Prompt]

MEMORY = 4 << 30  # bytes of vectors that are held where there is no folder
_SECONDS = 2.0  # of a block: what a kill loses, and how long a stop waits
_FIRST = {
    "text": 4096,
    "image": 8,
}  # characters, images: a block before the speed is known
_MOST = {
    "text": 1 << 24,
    "image": 512,
}  # a block of images from tars is held in memory as bytes
_OF_A_TEXT = 16  # characters that a text costs besides its own
_NAMED = 8  # broken images in a message


class Part(NamedTuple):
    """A text or an image that has one vector."""

    key: Key
    content: Plain | Deferred
    prompt: Prompt  # empty for images

    @property
    def kind(self) -> Literal["text", "image"]:
        """What it is."""
        return "text" if isinstance(self.content, str) else "image"


class EmbeddingStore:
    """An encoder that remembers, in memory or in a folder."""

    def __init__(
        self,
        encoder: Encoder,
        folder: Path | None = None,
        *,
        dtype: Precision = "float32",
        should_stop: Callable[[], bool] = lambda: False,
        show_progress: bool | None = False,
    ) -> None:
        """folder: where vectors are kept for the next time; None: in memory, up to 4 GiB of those
        used last.

        dtype: what is kept. float16 halves the room; a cosine of stored vectors is then off by
            about 1e-5.
        should_stop: asked before each block of about two seconds.

        Raises ValueError for another dtype, and if what the folder holds is broken.
        """
        if dtype not in get_args(Precision):
            raise ValueError(
                f"vectors are kept in {' or '.join(get_args(Precision))}, not in {dtype!r}."
            )
        self.encoder = encoder
        self.should_stop = should_stop
        self.show_progress = show_progress
        fingerprint = encoder.fingerprint() if folder is not None else ""
        if folder is not None and not fingerprint:
            warnings.warn(
                f"the model does not say which one it is, so nothing is kept in {folder}.",
                stacklevel=2,
            )
        self._vectors: Storage = (
            VectorFile(folder / f"{fingerprint}-{dtype}", dtype)
            if folder and fingerprint
            else Memory(dtype, MEMORY)
        )
        self._rounds = dtype != "float32"
        self._digests: dict[
            Path | Deferred, bytes
        ] = {}  # of images that were read once

    @property
    def modalities(self) -> frozenset[str]:
        """What the encoder can embed."""
        return self.encoder.modalities

    def encode(self, inputs: Sequence[Input], prompt: Prompt = "") -> Vectors:
        """(n, D) float32 unit vectors of the inputs, in their order; what is not known is encoded,
        as by `fill`.
        """
        if not len(inputs):
            return np.zeros((0, 0), dtype=np.float32)
        self.fill([(inputs, prompt)])
        first = self._rows([self._key(parts_of(one)[0], prompt) for one in inputs])
        fused = [row for row, one in enumerate(inputs) if isinstance(one, Fused)]
        if fused:
            second = self._rows(
                [self._key(parts_of(inputs[row])[1], prompt) for row in fused]
            )
            first[fused] = fuse(first[fused], second, 0.5)
        self._vectors.trim()
        return first

    def fill(self, asked: Iterable[Asked]) -> None:
        """Encode what is not known of all that is asked, texts by length, under one progress bar.

        What is done is kept block by block. Raises Stopped once asked to stop; ValueError, when all
        others are done, that names the images that cannot be decoded.
        """
        missing = self.missing(asked)
        if not missing:
            return
        with self._vectors.writing(self.should_stop):
            missing = [
                one for one in missing if not self.knows(one)
            ]  # another process may have added some
            texts = sorted(
                (one for one in missing if one.kind == "text"),
                key=lambda one: (one.prompt, -cost_of(one)),
            )
            pictures = [one for one in missing if one.kind == "image"]
            broken: list[str] = []
            with progress_bar("encoding", len(missing), self.show_progress) as advance:
                done = self._encode_all(texts, 0, broken, advance)
                self._encode_all(pictures, done, broken, advance)
        if broken:
            raise ValueError(
                _broken_text(broken, len(pictures), "all others are encoded")
            )

    def check_images(self, parts: Iterable[Part]) -> None:
        """Decode every image that has no vector yet; ValueError that names those that cannot be
        decoded.
        """
        images = [
            part for part in parts if part.kind == "image" and not self.knows(part)
        ]
        with ThreadPoolExecutor() as pool:
            broken = [
                fault
                for fault in pool.map(lambda part: _fault(part.content), images)
                if fault
            ]
        if broken:
            raise ValueError(
                _broken_text(broken, len(images), "the others are still to be encoded")
            )

    def missing(self, asked: Iterable[Asked]) -> list[Part]:
        """Those of its `parts` that have no vector yet."""
        return [part for part in self.parts(asked) if not self.knows(part)]

    def knows(self, part: Part) -> bool:
        """Whether it has a vector already."""
        return part.key in self._vectors

    def parts(self, asked: Iterable[Asked]) -> list[Part]:
        """Each distinct text and image of all that is asked; images are read, not decoded.

        Raises ValueError for an empty text and for an image that cannot be read.
        """
        found: dict[Key, Part] = {}
        for inputs, prompt in asked:
            for row, one in enumerate(inputs):
                for content in parts_of(one):
                    if isinstance(content, str) and not content.strip():
                        raise ValueError(
                            f"input {row} of {len(inputs):,} is {content!r}; take it out "
                            "of the data."
                        )
                    key = self._key(content, prompt)
                    found.setdefault(
                        key,
                        Part(key, content, prompt if isinstance(content, str) else ""),
                    )
        return list(found.values())

    def _rows(self, keys: Sequence[Key]) -> Vectors:
        rows = self._vectors.rows(keys)
        if (
            self._rounds
        ):  # undo what rounding did to the length of unit vectors, and to no others'
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            rows /= np.where(np.abs(norms - 1) < 1e-3, norms, np.float32(1))
        return rows

    def _key(self, content: Plain | Deferred, prompt: Prompt) -> Key:
        if isinstance(content, str):
            before = self.encoder.prompts.get(prompt or "default", "")
            return xxhash.xxh3_128_digest(
                b"text\0%d\0%s%s" % (len(before), before.encode(), content.encode())
            )
        if isinstance(content, bytes):
            return xxhash.xxh3_128_digest(b"image\0" + content)
        if content not in self._digests:
            self._digests[content] = xxhash.xxh3_128_digest(b"image\0" + _read(content))
        return self._digests[content]

    def _encode_all(
        self, missing: Sequence[Part], done: int, broken: list[str], advance: Advance
    ) -> int:
        """Encode in blocks of about two seconds, each kept before the next begins; how many are
        done, with `done`.
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
                self._vectors.append([one.key for one in good], vectors)
            start += len(block)
            advance(done + start)
            cost = sum(map(cost_of, block))
            seconds = time.perf_counter() - began
            budget = min(
                4 * budget, cost * _SECONDS / max(seconds, 1e-6), _MOST[block[0].kind]
            )
        return done + len(missing)

    def _encode_block(
        self, block: list[Part], broken: list[str]
    ) -> tuple[list[Part], Vectors]:
        try:
            return block, self._encode_plain(block)
        except (ValueError, OSError):
            faults = {
                one.key: fault
                for one in block
                if one.kind == "image" and (fault := _fault(one.content))
            }
            if not faults:
                raise
        broken += faults.values()
        good = [one for one in block if one.key not in faults]
        return good, self._encode_plain(good) if good else np.zeros(
            (0, 0), dtype=np.float32
        )

    def _encode_plain(self, block: list[Part]) -> Vectors:
        encoder = self.encoder
        methods = {
            "": encoder.encode,
            "query": encoder.encode_query,
            "document": encoder.encode_document,
        }
        plain = [
            one.content.read() if isinstance(one.content, Deferred) else one.content
            for one in block
        ]
        return np.asarray(
            methods[block[0].prompt](plain, show_progress=False), dtype=np.float32
        )


def _block(missing: Sequence[Part], start: int, budget: float) -> list[Part]:
    """From `start` on, with one prompt, as many as cost no more than the budget (at least one)."""
    block: list[Part] = []
    for one in itertools.islice(missing, start, None):
        budget -= cost_of(one)
        if block and (budget < 0 or one.prompt != block[0].prompt):
            break
        block.append(one)
    return block


def cost_of(one: Part) -> int:
    """What it takes to encode a part, in characters of a text or in images."""
    return len(one.content) + _OF_A_TEXT if isinstance(one.content, str) else 1


def _broken_text(broken: Sequence[str], count: int, otherwise: str) -> str:
    more = f" and {len(broken) - _NAMED:,} more" if len(broken) > _NAMED else ""
    return (
        f"{len(broken):,} of {count:,} images cannot be decoded: "
        f"{'; '.join(broken[:_NAMED])}{more}; mend them or take them out of the data "
        f"({otherwise})."
    )


def _read(image: Path | Deferred) -> bytes:
    try:
        return bytes_of(image)
    except OSError as error:
        raise ValueError(
            f"{name_of(image)} cannot be read ({error}); put it there or leave it out."
        ) from None


def _fault(image: Plain | Deferred) -> str:
    """What is wrong with an image; empty if it can be decoded."""
    assert not isinstance(image, str)
    try:
        decode_image(
            image.read() if isinstance(image, Deferred) else image
        )  # a Path gives the error its name
    except ValueError as error:
        return str(error) if isinstance(image, Path) else f"{name_of(image)}: {error}"
    return ""
