"""Raw samples -> a piece of a batch, which a worker sends -> one rank's batch.

Images are uint8, texts token ids.
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
    """One decoded sample: image and caption, or query, document and hard negatives."""

    key: str
    pixels: NDArray[np.uint8] | None  # (3, S, S)
    texts: tuple[str, ...]  # (caption,) or (query, document, negative, ...)
    # Of its two contents and its label: pairs that share an id are not each other's negatives.
    ids: tuple[int, ...]
    # How close the pair is, or a teacher's similarities of the document and the negatives.
    scores: tuple[float, ...] = ()


class Skipped(NamedTuple):
    """A corrupt sample that a substitute replaces."""

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
    """One rank's part of a global batch.

    B images or queries, K hard negatives of each, A ids per pair.
    """

    place: BatchPlace
    keys: list[str]
    pixels: Tensor | None  # (B, 3, S, S) uint8; image-text
    # image-text: B captions; text-text: B queries, B documents, then B x K hard negatives
    texts: TokenLists
    ids: Tensor  # (B, A) int64, of what each pair consists of
    hard_negative_ids: Tensor  # (B, K) int64
    # (B, 1) how close each pair is, or (B, 1 + K) a teacher's similarities
    scores: Tensor | None
    skipped: list[Skipped]


def make_example(
    sample: Sample,
    task: TaskConfig,
    preprocess: PreprocessConfig,
    prompts: dict[str, str],
    draw: np.random.Generator,
) -> Example:
    """Decode a sample for its task; `draw` decides crop, flip and caption.

    Raises ValueError for a corrupt sample, one with too few hard negatives, or without the scores
    that the loss needs.
    """
    if sample.fault:
        raise ValueError(sample.fault)
    if task.kind == "image-text":
        return _make_image_text(sample, task, preprocess, draw)
    return _make_text_pair(sample, task, prompts)


def _make_image_text(
    sample: Sample,
    task: TaskConfig,
    preprocess: PreprocessConfig,
    draw: np.random.Generator,
) -> Example:
    captions = captions_of(sample)
    content = image_bytes_of(sample)
    pixels = train_pixels(content, preprocess, task.augment, draw)
    caption = _choose(captions, task.caption, draw)
    return Example(
        key=sample.key,
        pixels=pixels.numpy(),
        texts=(caption,),
        ids=_ids(label_of(sample), content, caption.encode()),
    )


def _make_text_pair(
    sample: Sample, task: TaskConfig, prompts: dict[str, str]
) -> Example:
    pair = text_pair_of(sample)
    if len(pair.negatives) < task.num_negatives:
        raise ValueError(
            f"sample {sample.key!r} has {len(pair.negatives)} negatives, but num_negatives is "
            f"{task.num_negatives}."
        )
    scores: tuple[float, ...] = ()
    if task.loss == "cosent":
        if pair.score is None:
            raise ValueError(
                f"sample {sample.key!r} has no score, but the loss is cosent."
            )
        scores = (pair.score,)
    elif task.loss == "distillation":
        if not pair.teacher:
            raise ValueError(
                f"sample {sample.key!r} has no teacher, but the loss is distillation."
            )
        scores = pair.teacher[: 1 + task.num_negatives]
    query_prompt = prompts.get("query", "")
    document_prompt = prompts.get("document", "")
    documents = (pair.document, *pair.negatives[: task.num_negatives])
    prompted = [document_prompt + document for document in documents]
    contents = [text.encode() for text in (pair.query, *documents)]
    return Example(
        key=sample.key,
        pixels=None,
        texts=(query_prompt + pair.query, *prompted),
        ids=_ids(pair.label, *contents),
        scores=scores,
    )


def _ids(label: str, *contents: bytes) -> tuple[int, ...]:
    """A hash of each content, with that of the label in third place.

    Without a label, the third place repeats the first hash.
    """
    hashes = [_hash(content) for content in contents]
    label_hash = _hash(f"label {label}".encode()) if label else hashes[0]
    return (*hashes[:2], label_hash, *hashes[2:])


def _hash(content: bytes) -> int:
    return int(xxhash.xxh3_64_intdigest(content)) - 2**63  # a signed number of 64 bits


def _choose(captions: Sequence[str], rule: str, draw: np.random.Generator) -> str:
    if rule == "first":
        return captions[0]
    if rule == "random":
        return captions[int(draw.integers(len(captions)))]
    if rule == "shortest":
        return min(captions, key=len)
    return max(captions, key=len)


class Piece(NamedTuple):
    """A few neighbouring examples of a batch, in arrays; n examples, K hard negatives of each."""

    keys: list[str]
    pixels: Shared | None  # (n, 3, S, S) uint8
    # Token ids and lengths of each side: n captions; or n queries, n documents, n x K negatives.
    texts: list[tuple[NDArray[np.int32], list[int]]]
    ids: NDArray[np.int64]  # (n, A + K)
    scores: NDArray[np.float64]  # (n, 0), (n, 1) or (n, 1 + K)
    skipped: list[Skipped]


def collate(
    examples: Sequence[Example], skipped: list[Skipped], tokenizer: Tokenizer
) -> Piece:
    """Stack a few examples and tokenize their texts."""
    sides = [[example.texts[0] for example in examples]]
    if len(examples[0].texts) > 1:
        sides.append([example.texts[1] for example in examples])
        sides.append([text for example in examples for text in example.texts[2:]])
    tokens = tokenizer([text for side in sides for text in side])
    texts = []
    for side in sides:
        side_tokens = tokens[: len(side)]
        tokens = tokens[len(side) :]
        lengths = [len(token_ids) for token_ids in side_tokens]
        texts.append((_concatenate(side_tokens), lengths))
    pixels = [example.pixels for example in examples if example.pixels is not None]
    return Piece(
        keys=[example.key for example in examples],
        pixels=Shared(np.stack(pixels)) if pixels else None,
        texts=texts,
        ids=np.array([example.ids for example in examples], dtype=np.int64),
        scores=np.array([example.scores for example in examples], dtype=np.float64),
        skipped=skipped,
    )


def _concatenate(texts: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    if not texts:
        return np.zeros(0, dtype=np.int32)
    return np.concatenate([np.asarray(ids, dtype=np.int32) for ids in texts])


def merge(place: BatchPlace, size: int, pieces: Iterable[Piece]) -> Batch:
    """Build one rank's batch of `size` examples from its pieces, in order.

    Each piece is freed before the next one is requested.
    """
    taken: list[Piece] = []
    pixels: Tensor | None = None
    start = 0
    for piece in pieces:
        if piece.pixels is not None:
            array = piece.pixels.array
            if len(array) == size:
                pixels = torch.from_numpy(array)  # the whole batch: no copy
            else:
                if pixels is None:
                    pixels = torch.empty(size, *array.shape[1:], dtype=torch.uint8)
                pixels.numpy()[start : start + len(array)] = array
            del array
        start += len(piece.keys)
        taken.append(piece._replace(pixels=None))
        del piece

    flat = []
    lengths: list[int] = []
    for side in range(len(taken[0].texts)):
        for piece in taken:
            side_flat, side_lengths = piece.texts[side]
            flat.append(side_flat)
            lengths += side_lengths
    ids = torch.from_numpy(np.concatenate([piece.ids for piece in taken]))
    scores = torch.from_numpy(np.concatenate([piece.scores for piece in taken]))
    return Batch(
        place=place,
        keys=[key for piece in taken for key in piece.keys],
        pixels=pixels,
        texts=TokenLists(torch.from_numpy(np.concatenate(flat)), lengths),
        ids=ids[:, :NUM_IDS],
        hard_negative_ids=ids[:, NUM_IDS:],
        scores=scores if scores.shape[1] else None,
        skipped=[skipped for piece in taken for skipped in piece.skipped],
    )
