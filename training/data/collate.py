"""Raw samples -> one micro-batch: decoded and augmented pictures as uint8, tokenised texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unimodal.config import PreprocessConfig
from unimodal.preprocess import Tokenizer
from unimodal.shards.read import Sample, captions_of, image_bytes_of, label_of, text_pair_of

from ..config import TaskConfig
from .mixture import BatchPlace
from .pixels import train_pixels

NUM_IDS = 3  # query, document, label


class Example(NamedTuple):
    """One decoded sample: a picture with its caption, or a query with its document and hard negatives."""

    key: str
    pixels: Tensor | None  # (3, S, S) uint8
    texts: tuple[str, ...]  # (caption,) or (query, document, negative, ...)
    ids: tuple[int, ...]  # of its two contents and its label: pairs that share one are not each other's negatives
    scores: tuple[float, ...] = ()  # how close the two are, or a teacher's similarities of document and negatives


class Skipped(NamedTuple):
    """A corrupt sample that a substitute stands in for."""

    shard: str
    key: str
    reason: str


class TokenLists(NamedTuple):
    """Token ids of several texts in one tensor, which travels between processes faster than lists."""

    flat: Tensor  # (sum of lengths,) int32
    lengths: list[int]

    def lists(self) -> list[list[int]]:
        """The ids of each text."""
        return [part.tolist() for part in self.flat.split(self.lengths)]


class Batch(NamedTuple):
    """One rank's part of a global batch. B pictures or queries, K hard negatives each, A ids a pair."""

    place: BatchPlace
    keys: list[str]
    pixels: Tensor | None  # (B, 3, S, S) uint8; image-text
    texts: TokenLists  # image-text: B captions; text-text: B queries, B documents, then B x K hard negatives
    ids: Tensor  # (B, A) int64, of what each pair consists of
    hard_negative_ids: Tensor  # (B, K) int64
    scores: Tensor | None  # (B, 1) how close each pair is, or (B, 1 + K) a teacher's similarities
    skipped: list[Skipped]


def make_example(
    sample: Sample, task: TaskConfig, preprocess: PreprocessConfig, prompts: dict[str, str], draw: np.random.Generator
) -> Example:
    """Decode a sample as its task wants it; `draw` decides crop, flip and caption.

    Raises ValueError for a corrupt sample, one with too few hard negatives, or without the scores that the loss wants.
    """
    if task.kind == "image-text":
        captions, content = captions_of(sample), image_bytes_of(sample)
        pixels = train_pixels(content, preprocess, task.augment, draw)
        caption = _choose(captions, task.caption, draw)
        return Example(sample.key, pixels, (caption,), _ids(label_of(sample), content, caption.encode()))
    pair = text_pair_of(sample)
    if len(pair.negatives) < task.num_negatives:
        raise ValueError(
            f"sample {sample.key!r} has {len(pair.negatives)} negatives and num_negatives is {task.num_negatives}."
        )
    scores: tuple[float, ...] = ()
    if task.loss == "cosent":
        if pair.score is None:
            raise ValueError(f"sample {sample.key!r} has no score and the loss is cosent.")
        scores = (pair.score,)
    elif task.loss == "distillation":
        if not pair.teacher:
            raise ValueError(f"sample {sample.key!r} has no teacher and the loss is distillation.")
        scores = pair.teacher[: 1 + task.num_negatives]
    query, document = prompts.get("query", ""), prompts.get("document", "")
    others = (pair.document, *pair.negatives[: task.num_negatives])
    texts = (query + pair.query, *(document + other for other in others))
    return Example(
        sample.key, None, texts, _ids(pair.label, *(text.encode() for text in (pair.query, *others))), scores
    )


def _ids(label: str, *contents: bytes) -> tuple[int, ...]:
    """A hash of each content, the label's after the second (of a pair without a label, the first content's again)."""
    hashed = [_hash(content) for content in contents]
    return (*hashed[:2], _hash(f"label {label}".encode()) if label else hashed[0], *hashed[2:])


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def _choose(captions: Sequence[str], rule: str, draw: np.random.Generator) -> str:
    if rule == "first":
        return captions[0]
    if rule == "random":
        return captions[int(draw.integers(len(captions)))]
    return (min if rule == "shortest" else max)(captions, key=len)


def collate(place: BatchPlace, examples: Sequence[Example], skipped: list[Skipped], tokenizer: Tokenizer) -> Batch:
    """Stack the examples of a micro-batch. Texts are laid side after side: all queries, all documents, ..."""
    pixels = [example.pixels for example in examples if example.pixels is not None]
    sides = zip(*(example.texts[:2] for example in examples), strict=True)
    texts = [text for side in sides for text in side]
    texts += [text for example in examples for text in example.texts[2:]]
    ids = tokenizer(texts)
    flat = torch.from_numpy(np.concatenate([np.asarray(one, dtype=np.int32) for one in ids]))
    contents = torch.tensor([example.ids for example in examples])  # (B, A + K)
    scores = [example.scores for example in examples]
    return Batch(
        place=place,
        keys=[example.key for example in examples],
        pixels=torch.stack(pixels) if pixels else None,
        texts=TokenLists(flat, [len(one) for one in ids]),
        ids=contents[:, :NUM_IDS],
        hard_negative_ids=contents[:, NUM_IDS:],
        scores=torch.tensor(scores, dtype=torch.float64) if scores[0] else None,
        skipped=skipped,
    )
