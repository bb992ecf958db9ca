"""Tables of mteb (Hugging Face data sets) as our inputs: texts joined as in mteb, images as their
bytes.
"""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from unimodal.preprocess.images import load_image, to_png

from ..data.inputs import NO_TEXT, Deferred, Fused, Input, Prompt

Table = Any  # datasets.Dataset


def table_inputs(
    rows: Table, where: str, modalities: Iterable[str], prompt: Prompt
) -> list[Input]:
    """The queries or documents of a table of mteb.

    rows: columns id, and some of text, title, instruction, image.
    where: what the rows are, for the names of images.
    modalities: those to read; a row with a text and an image gives both, fused.
    prompt: "document": the text follows its title; "query": the instruction follows the text, as
        in mteb.
    """
    columns = [
        name
        for name in ("text", "image")
        if name in modalities and name in rows.column_names
    ]
    if not columns:
        raise ValueError(
            f"{where} has the columns {rows.column_names}, none of them for "
            f"{' and '.join(modalities)}."
        )
    if "image" not in columns:
        return list(texts_or_dots(_table_texts(rows, prompt), where))
    images = table_images(rows, "image", where)
    if "text" not in columns:
        return [given_image(image, where) for image in images]
    return _join(_table_texts(rows, prompt), images, where)


def _join(
    texts: Sequence[str], images: Sequence[Deferred | None], where: str
) -> list[Input]:
    """Rows with an image, a text, or both, which are fused."""
    alone = [text for text, image in zip(texts, images, strict=True) if image is None]
    rest = iter(texts_or_dots(alone, where))
    inputs: list[Input] = []
    for text, image in zip(texts, images, strict=True):
        if image is None:
            inputs.append(next(rest))
        elif text.strip():
            inputs.append(Fused(text, image))
        else:
            inputs.append(image)
    return inputs


def loader_inputs(loader: Any, where: str, modalities: Iterable[str]) -> list[Input]:
    """The rows of a DataLoader of mteb, in its order.

    If the loader reads a table in order, its table is read instead, so that no image is decoded
    only to be encoded again.
    """
    import datasets
    from torch.utils.data import SequentialSampler

    rows = loader.dataset
    if (
        isinstance(rows, datasets.Dataset)
        and rows.format["type"] is None
        and type(loader.sampler) is SequentialSampler
    ):
        # with the fingerprint of the table: the sides of a pair have no ids and the same name
        return table_inputs(rows, f"{where} {rows._fingerprint}", modalities, "")
    inputs: list[Input] = []
    for batch in loader:
        texts: list[str] = []
        images: list[Deferred] = []
        if "text" in modalities and "text" in batch:
            texts = texts_or_dots(batch["text"], where)
        if "image" in modalities and "image" in batch:
            images = [_encode_image(image) for image in batch["image"]]
        if not texts and not images:
            raise ValueError(
                f"{where} gives {', '.join(batch)} and nothing for {' and '.join(modalities)}."
            )
        if texts and images:
            pairs = zip(texts, images, strict=True)
            inputs += [Fused(text, image) for text, image in pairs]
        else:
            inputs += texts or images
    return inputs


def table_images(rows: Table, column: str, where: str) -> list[Deferred | None]:
    """The images of a column, as the bytes in its cells; None for a row without an image."""
    import datasets

    table = rows.select_columns([column])
    if isinstance(table.features[column], datasets.Image):
        table = table.cast_column(column, datasets.Image(decode=False))
    ids = rows["id"] if "id" in rows.column_names else range(len(rows))
    names = [f"{where} {row_id}" for row_id in ids]
    is_absent: list[bool] = []
    for batch in table.with_format("arrow").iter(batch_size=256):
        is_absent += batch[column].is_null().to_pylist()

    def read(row: int) -> bytes:
        return _bytes_of(table[row][column], names[row])

    images: list[Deferred | None] = []
    for row, name in enumerate(names):
        if is_absent[row]:
            images.append(None)
        else:
            images.append(Deferred(name, functools.partial(read, row)))
    return images


def texts_or_dots(texts: Sequence[str | None], where: str) -> list[str]:
    """The texts, empty ones replaced by "." (NO_TEXT) with a warning that counts them."""
    empty = sum(1 for text in texts if not (text or "").strip())
    if empty:
        warnings.warn(
            f"{where}: {empty} of {len(texts)} texts are empty and are read as {NO_TEXT!r}.",
            stacklevel=2,
        )
    return [text if text and text.strip() else NO_TEXT for text in texts]


def _encode_image(source: Any) -> Deferred:
    """A PIL image as a lossless file, named by its pixels so that equal images are encoded once."""
    image = load_image(source)
    if image.mode == "RGB" and not image.has_transparency_data:
        file = io.BytesIO()
        image.save(file, "BMP")  # no compression: twenty times faster than PNG
        content = file.getvalue()
    else:
        content = to_png(image, compress_level=1)
    return Deferred(f"pixels {xxhash.xxh3_128_hexdigest(content)}", lambda: content)


def _table_texts(rows: Table, prompt: Prompt) -> list[str]:
    """The texts as mteb joins them with titles, instructions and the turns of a conversation."""
    columns = rows.column_names
    texts = list(rows["text"])
    if texts and isinstance(texts[0], list):
        texts = ["; ".join(map(_format_turn, turns)) for turns in texts]
        if "instruction" not in columns:
            return texts
        pairs = zip(rows["instruction"], texts, strict=True)
        return [f"{instruction} {text}" for instruction, text in pairs]
    texts = [text or "" for text in texts]
    if prompt == "document":
        titles = list(rows["title"]) if "title" in columns else [""] * len(texts)
        pairs = zip(titles, texts, strict=True)
        return [
            f"{title} {text}".strip() if title else text.strip()
            for title, text in pairs
        ]
    if prompt == "query" and "instruction" in columns:
        pairs = zip(texts, rows["instruction"], strict=True)
        return [
            text if instruction is None else f"{text} {instruction}"
            for text, instruction in pairs
        ]
    return texts


def _format_turn(turn: Any) -> str:
    """A turn of a conversation: a text, or a role with its content."""
    return turn if isinstance(turn, str) else f"{turn['role']}: {turn['content']}"


def given_image(image: Deferred | None, where: str) -> Input:
    """The image; ValueError without one."""
    if image is None:
        raise ValueError(f"{where} has a row without an image; remove it.")
    return image


def _bytes_of(cell: Any, name: str) -> bytes:
    if cell.get("bytes"):
        return bytes(cell["bytes"])
    if cell.get("path") and Path(cell["path"]).is_file():
        return Path(cell["path"]).read_bytes()
    raise ValueError(
        f"the image {name} has no bytes and no file; fetch the data set again."
    )
