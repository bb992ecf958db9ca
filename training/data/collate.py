"""Raw samples -> one micro-batch: decoded and augmented pictures as uint8, tokenised texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unimodal.config import PreprocessConfig
from unimodal.preprocess import Tokenizer, decode_image, pixels_of
from unimodal.shards.read import Sample, captions_of, image_bytes_of, text_pair_of

from ..config import AugmentConfig, TaskConfig
from .mixture import BatchPlace


class Example(NamedTuple):
    """One decoded sample: a picture with its caption, or a query with its document and hard negatives."""

    key: str
    pixels: Tensor | None  # (3, S, S) uint8
    texts: tuple[str, ...]  # (caption,) or (query, document, negative, ...)


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
    """One rank's part of a global batch. B pictures or queries, K hard negatives each."""

    place: BatchPlace
    keys: list[str]
    pixels: Tensor | None  # (B, 3, S, S) uint8; image-text
    texts: TokenLists  # image-text: B captions; text-text: B queries, B documents, then B x K hard negatives
    skipped: list[Skipped]


def make_example(
    sample: Sample, task: TaskConfig, preprocess: PreprocessConfig, prompts: dict[str, str], draw: np.random.Generator
) -> Example:
    """Decode a sample as its task wants it; `draw` decides crop, flip and caption.

    Raises ValueError for a corrupt sample or one with too few hard negatives.
    """
    if task.kind == "image-text":
        captions = captions_of(sample)
        image = decode_image(image_bytes_of(sample))
        pixels = pixels_of(augment(image, preprocess, task.augment, draw))
        return Example(sample.key, pixels, (_choose(captions, task.caption, draw),))
    pair = text_pair_of(sample)
    if len(pair.negatives) < task.num_negatives:
        raise ValueError(
            f"sample {sample.key!r} has {len(pair.negatives)} negatives and num_negatives is {task.num_negatives}."
        )
    query, document = prompts.get("query", ""), prompts.get("document", "")
    others = (pair.document, *pair.negatives[: task.num_negatives])
    return Example(sample.key, None, (query + pair.query, *(document + other for other in others)))


def augment(
    image: Image.Image, preprocess: PreprocessConfig, config: AugmentConfig, draw: np.random.Generator
) -> Image.Image:
    """A random crop (Szegedy et al., 2015, as torchvision's RandomResizedCrop), resized, perhaps mirrored.

    Where ten draws do not fit into the picture (it is too long for the share asked), the largest centred crop of the
    nearest allowed ratio is taken.
    """
    width, height = image.size
    size = preprocess.image_size
    ratio = min(max(width / height, config.crop_ratio[0]), config.crop_ratio[1])
    crop_width, crop_height = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    for _ in range(10):
        area = width * height * draw.uniform(*config.crop_scale)
        ratio = np.exp(draw.uniform(*np.log(config.crop_ratio)))
        drawn_width, drawn_height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < drawn_width <= width and 0 < drawn_height <= height:
            crop_width, crop_height = drawn_width, drawn_height
            left, top = int(draw.integers(width - crop_width + 1)), int(draw.integers(height - crop_height + 1))
            break
    box = (left, top, left + crop_width, top + crop_height)
    method = Image.Resampling.BILINEAR if preprocess.interpolation == "bilinear" else Image.Resampling.BICUBIC
    image = image.resize((size, size), method, box=box)
    if config.flip and draw.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


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
    return Batch(
        place=place,
        keys=[example.key for example in examples],
        pixels=torch.stack(pixels) if pixels else None,
        texts=TokenLists(flat, [len(one) for one in ids]),
        skipped=skipped,
    )
