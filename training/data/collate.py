"""Raw samples -> a piece of a batch (what a worker sends) -> one rank's batch: images as uint8,
token ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from unimodal.model_config import PreprocessConfig
from unimodal.preprocess.tokenizers import Tokenizer
from unimodal.shards.sample import (
    Sample,
    captions_of,
    image_bytes_of,
    label_of,
    text_pair_of,
)

from ..config import TaskConfig
from .mixture import BatchPlace
from .pixels import train_pixels
from .transport import Shared

NUM_IDS = 3  # query, document, label


class Example(NamedTuple):
    """One decoded sample: an image with its caption, or a query with its document and hard
    negatives.
    """

    key: str
    pixels: NDArray[np.uint8] | None  # (3, S, S)
    texts: tuple[str, ...]  # (caption,) or (query, document, negative, ...)
    ids: tuple[
        int, ...
    ]  # of its two contents and its label: pairs that share one are not each other's negatives
    scores: tuple[
        float, ...
    ] = ()  # how close the two are, or a teacher's similarities of document and negatives


class Skipped(NamedTuple):
    """A corrupt sample that a substitute stands in for."""

    shard: str
    key: str
    reason: str


class TokenLists(NamedTuple):
    """Token ids of several texts in one tensor."""

    flat: Tensor  # (sum of lengths,) int32
    lengths: list[int]

    def lists(self) -> list[list[int]]:
        """The ids of each text."""
        return [part.tolist() for part in self.flat.split(self.lengths)]


class Batch(NamedTuple):
    """One rank's part of a global batch. B images or queries, K hard negatives each, A ids a
    pair.
    """

    place: BatchPlace
    keys: list[str]
    pixels: Tensor | None  # (B, 3, S, S) uint8; image-text
    # image-text: B captions; text-text: B queries, B documents, then B x K hard negatives
    texts: TokenLists
    ids: Tensor  # (B, A) int64, of what each pair consists of
    hard_negative_ids: Tensor  # (B, K) int64
    scores: (
        Tensor | None
    )  # (B, 1) how close each pair is, or (B, 1 + K) a teacher's similarities
    skipped: list[Skipped]


def make_example(
    sample: Sample,
    task: TaskConfig,
    preprocess: PreprocessConfig,
    prompts: dict[str, str],
    draw: np.random.Generator,
) -> Example:
    """Decode a sample as its task wants it; `draw` decides crop, flip and caption.

    Raises ValueError for a corrupt sample, one with too few hard negatives, or without the scores
    that the loss wants.
    """
    if sample.fault:
        raise ValueError(sample.fault)
    if task.kind == "image-text":
        captions = captions_of(sample)
        content = image_bytes_of(sample)
        pixels = train_pixels(content, preprocess, task.augment, draw)
        caption = _choose(captions, task.caption, draw)
        return Example(
            sample.key,
            pixels.numpy(),
            (caption,),
            _ids(label_of(sample), content, caption.encode()),
        )
    pair = text_pair_of(sample)
    if len(pair.negatives) < task.num_negatives:
        raise ValueError(
            f"sample {sample.key!r} has {len(pair.negatives)} negatives and "
            f"num_negatives is {task.num_negatives}."
        )
    scores: tuple[float, ...] = ()
    if task.loss == "cosent":
        if pair.score is None:
            raise ValueError(
                f"sample {sample.key!r} has no score and the loss is cosent."
            )
        scores = (pair.score,)
    elif task.loss == "distillation":
        if not pair.teacher:
            raise ValueError(
                f"sample {sample.key!r} has no teacher and the loss is distillation."
            )
        scores = pair.teacher[: 1 + task.num_negatives]
    query = prompts.get("query", "")
    document = prompts.get("document", "")
    others = (pair.document, *pair.negatives[: task.num_negatives])
    texts = (query + pair.query, *(document + other for other in others))
    return Example(
        sample.key,
        None,
        texts,
        _ids(pair.label, *(text.encode() for text in (pair.query, *others))),
        scores,
    )


def _ids(label: str, *contents: bytes) -> tuple[int, ...]:
    """A hash of each content, the label's after the second (of a pair without a label, the first
    content's again).
    """
    hashed = [_hash(content) for content in contents]
    return (
        *hashed[:2],
        _hash(f"label {label}".encode()) if label else hashed[0],
        *hashed[2:],
    )


def _hash(content: bytes) -> int:
    return int(xxhash.xxh3_64_intdigest(content)) - 2**63  # a signed number of 64 bits


def _choose(captions: Sequence[str], rule: str, draw: np.random.Generator) -> str:
    if rule == "first":
        return captions[0]
    if rule == "random":
        return captions[int(draw.integers(len(captions)))]
    return (min if rule == "shortest" else max)(captions, key=len)


class Piece(NamedTuple):
    """A few neighbouring examples of a batch, in arrays. n examples, K hard negatives each."""

    keys: list[str]
    pixels: Shared | None  # (n, 3, S, S) uint8
    texts: list[
        tuple[NDArray[np.int32], list[int]]
    ]  # token ids and lengths: n captions; or n queries, n documents,
    # and n x K hard negatives
    ids: NDArray[np.int64]  # (n, A + K)
    scores: NDArray[np.float64]  # (n, 0), (n, 1) or (n, 1 + K)
    skipped: list[Skipped]


def collate(
    examples: Sequence[Example], skipped: list[Skipped], tokenizer: Tokenizer
) -> Piece:
    """Stack a few examples and tokenise their texts."""
    sides = [[example.texts[0] for example in examples]]
    if len(examples[0].texts) > 1:
        sides += [[example.texts[1] for example in examples]]
        sides += [[text for example in examples for text in example.texts[2:]]]
    tokens = tokenizer([text for side in sides for text in side])
    texts = []
    for side in sides:
        ids = tokens[: len(side)]
        tokens = tokens[len(side) :]
        texts.append((_flat(ids), [len(one) for one in ids]))
    pixels = [example.pixels for example in examples if example.pixels is not None]
    return Piece(
        keys=[example.key for example in examples],
        pixels=Shared(np.stack(pixels)) if pixels else None,
        texts=texts,
        ids=np.array([example.ids for example in examples], dtype=np.int64),
        scores=np.array([example.scores for example in examples], dtype=np.float64),
        skipped=skipped,
    )


def _flat(ids: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    if not ids:
        return np.zeros(0, dtype=np.int32)
    return np.concatenate([np.asarray(one, dtype=np.int32) for one in ids])


def merge(place: BatchPlace, size: int, pieces: Iterable[Piece]) -> Batch:
    """One rank's batch of `size` examples from its pieces, in order; each is let go before the next
    is asked for.
    """
    taken: list[Piece] = []
    pixels: Tensor | None = None
    for piece in pieces:
        if piece.pixels is not None:
            array = piece.pixels.array
            start = sum(len(before.keys) for before in taken)
            if len(array) == size:
                pixels = torch.from_numpy(array)  # all there is: as it came
            else:
                pixels = (
                    torch.empty(size, *array.shape[1:], dtype=torch.uint8)
                    if pixels is None
                    else pixels
                )
                pixels.numpy()[start : start + len(array)] = array
        taken.append(piece._replace(pixels=None))
        del piece
    texts = [
        piece.texts[side] for side in range(len(taken[0].texts)) for piece in taken
    ]
    ids = torch.from_numpy(np.concatenate([piece.ids for piece in taken]))
    scores = torch.from_numpy(np.concatenate([piece.scores for piece in taken]))
    return Batch(
        place=place,
        keys=[key for piece in taken for key in piece.keys],
        pixels=pixels,
        texts=TokenLists(
            torch.from_numpy(np.concatenate([flat for flat, _ in texts])),
            [length for _, lengths in texts for length in lengths],
        ),
        ids=ids[:, :NUM_IDS],
        hard_negative_ids=ids[:, NUM_IDS:],
        scores=scores if scores.shape[1] else None,
        skipped=[one for piece in taken for one in piece.skipped],
    )
