"""From a row of a table to the parts of its samples.

A ValueError says why a row cannot be packed.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unimodal.preprocess.image_formats import FORMATS, SHARD_EXTENSIONS
from unimodal.preprocess.images import load_image, to_png
from unimodal.tables.fields import (
    Row,
    UnreadableImageError,
    image_of,
    names_in,
    texts_of,
    value_of,
)
from unimodal.tables.readers import read_rows

from .config import PackConfig

Parts = dict[str, bytes]  # extension -> content

# With its extension a name must fit the 100 bytes of a plain tar header.
_MAX_KEY_BYTES = 80


class Siblings:
    """The (query, document) pairs of each group of rows, for hard negatives."""

    def __init__(self, config: PackConfig, root: Path) -> None:
        self._groups: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        if config.negatives_from:
            # `pack` lists the rows that are skipped here.
            for row in read_rows(config, root, skip=lambda number, reason: None):
                groups = texts_of(row, config.negatives_from)
                queries = texts_of(row, config.query)
                documents = texts_of(row, config.document)
                if groups and queries and documents:
                    self._groups[groups[0]].append((queries[0], documents[0]))

    def negatives(
        self, row: Row, config: PackConfig, query: str, document: str, key: str
    ) -> list[str]:
        """Up to `num_negatives` documents of siblings' other queries, chosen by seed and key."""
        groups = texts_of(row, config.negatives_from)
        pairs = self._groups[groups[0]] if groups else []
        answers = {document}
        for other_query, other_document in pairs:
            if other_query == query:
                answers.add(other_document)
        others = [other for _, other in pairs if other not in answers]
        candidates = list(dict.fromkeys(others))
        if len(candidates) <= config.num_negatives:
            return candidates
        seed = f"{config.seed} {key}".encode()
        digest = hashlib.blake2b(seed, digest_size=16).digest()
        philox = np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64))
        generator = np.random.Generator(philox)
        chosen = generator.choice(len(candidates), config.num_negatives, replace=False)
        return [candidates[number] for number in chosen]


def image_sample(row: Row, config: PackConfig, image_root: Path) -> Parts:
    """An image with its captions."""
    texts: list[str] = []
    for field in config.captions:
        texts += texts_of(row, field)
    captions = list(dict.fromkeys(texts))
    if not captions:
        raise ValueError(f"no text in {', '.join(config.captions)}")
    extension, content = _image(row, config.image, image_root)
    return {
        extension: content,
        "json": _json({"captions": captions, **_label(row, config)}),
    }


def pair_sample(row: Row, config: PackConfig, siblings: Siblings, key: str) -> Parts:
    """A query and its document."""
    query = _text(row, config.query)
    document = _text(row, config.document)
    record: dict[str, Any] = {"query": query, "document": document}
    negatives: list[str] = []
    if config.negatives:
        texts = texts_of(row, config.negatives)
        negatives = [text for text in texts if text != document]
    if config.negatives_from:
        negatives += siblings.negatives(row, config, query, document, key)
    if negatives:
        record["negatives"] = list(dict.fromkeys(negatives))
    if config.score:
        try:
            record["score"] = _finite(_text(row, config.score))
        except ValueError as error:
            raise ValueError(f"{config.score} is not a number ({error})") from None
    if config.teacher:
        record["teacher"] = _teacher(row, config, 1 + len(record.get("negatives", ())))
    return {"json": _json({**record, **_label(row, config)})}


def _teacher(row: Row, config: PackConfig, count: int) -> list[float]:
    """One number per candidate of the sample.

    Raises ValueError for another count: a negative that was left out would shift those after it.
    """
    values = value_of(row, config.teacher)
    try:
        numbers = [_finite(value) for value in values]
    except (TypeError, ValueError):
        raise ValueError(f"{config.teacher} is not a list of finite numbers") from None
    if len(numbers) != count:
        raise ValueError(
            f"{config.teacher} has {len(numbers)} numbers for the document and "
            f"{count - 1} other negatives; give one for each"
        )
    return numbers


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not finite")
    return number


def _label(row: Row, config: PackConfig) -> dict[str, str]:
    return {"label": _text(row, config.label)} if config.label else {}


def paraphrase_samples(row: Row, config: PackConfig) -> list[Parts]:
    """Texts 0 and 1 as a pair, 2 and 3, and so on: each text is seen once per epoch."""
    texts = list(dict.fromkeys(texts_of(row, config.pairs_of)))
    if len(texts) < 2:
        raise ValueError(
            f"{len(texts)} distinct texts in {config.pairs_of}, and a pair needs 2"
        )
    pairs = zip(texts[::2], texts[1::2], strict=False)
    return [
        {"json": _json({"query": query, "document": document})}
        for query, document in pairs
    ]


def key_of(row: Row, field: str) -> str:
    """The row's key for webdataset: a dot would end it, a slash would make a folder."""
    key = re.sub(r"[^\w-]+", "_", _text(row, field))
    if len(key.encode()) <= _MAX_KEY_BYTES:
        return key
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def fields_of(config: PackConfig) -> list[str]:
    """The names of all fields that a configuration reads from a row, also within templates."""
    specs = (
        config.image,
        *config.captions,
        config.query,
        config.document,
        config.negatives,
        config.score,
        config.teacher,
        config.label,
        config.negatives_from,
        config.pairs_of,
        config.key,
    )
    names: list[str] = []
    for spec in specs:
        if spec:
            names += names_in(spec)
    return names


def _text(row: Row, field: str) -> str:
    texts = texts_of(row, field)
    if not texts:
        raise ValueError(f"no text in {field}")
    return texts[0]


def _image(row: Row, field: str, image_root: Path) -> tuple[str, bytes]:
    """(extension, bytes) of an image that was decoded whole and whose size is under the cap.

    An image of a format that shards do not hold becomes a PNG with its transparency: the model that
    decides about it is not known yet.
    """
    source = image_of(row, field, image_root)
    if source is None:
        raise ValueError(f"no image in {field}")
    try:
        image = load_image(source)
        content = source.read_bytes() if isinstance(source, Path) else source
    except OSError as error:
        raise UnreadableImageError(
            f"image {source!s:.200} cannot be read ({error.strerror})"
        ) from None
    except ValueError as error:
        raise UnreadableImageError(str(error)) from None
    extension = (
        SHARD_EXTENSIONS.get(_format_of(content))
        if isinstance(content, bytes)
        else None
    )
    if extension:
        assert isinstance(content, bytes)
        return extension, content
    return "png", to_png(image)


def _format_of(content: bytes) -> str:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return str(image.format)


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()
