"""Tables of mteb's (Hugging Face data sets) as inputs of ours: texts as mteb joins them, images
as they lie there.
"""

from __future__ import annotations

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
    """The queries or documents of a table of mteb's.

    rows: columns id, and text, title, instruction, image as there are.
    where: what the rows are, for the names of images.
    modalities: what of a row counts; a row that has a text and an image gives both, fused.
    prompt: "document": the text follows its title; "query": the instruction follows it; as mteb
        joins them.
    """
    columns = [
        name
        for name in ("text", "image")
        if name in modalities and name in rows.column_names
    ]
    if not columns:
        raise ValueError(
            f"{where} has the columns {rows.column_names} and none for {' and '.join(modalities)}."
        )
    pictures = (
        table_images(rows, "image", where) if "image" in columns else [None] * len(rows)
    )
    if "text" not in columns:
        return [given_image(picture, where) for picture in pictures]
    texts = _table_texts(rows, prompt)
    if "image" not in columns:
        return list(texts_or_dots(texts, where))
    alone = texts_or_dots(
        [
            text
            for text, picture in zip(texts, pictures, strict=True)
            if picture is None
        ],
        where,
    )
    rest = iter(alone)
    return [
        next(rest)
        if picture is None
        else Fused(text, picture)
        if text.strip()
        else picture
        for text, picture in zip(texts, pictures, strict=True)
    ]


def loader_inputs(loader: Any, where: str, modalities: Iterable[str]) -> list[Input]:
    """What a DataLoader of mteb's gives, in its order.

    A loader that goes straight through a table is not asked, so that no image is decoded only to
    be written again.
    """
    import datasets
    from torch.utils.data import SequentialSampler

    rows = loader.dataset
    if (
        isinstance(rows, datasets.Dataset)
        and rows.format["type"] is None
        and type(loader.sampler) is SequentialSampler
    ):
        # with the fingerprint of the table, as both sides of a pair come without ids and under one
        # name
        return table_inputs(rows, f"{where} {rows._fingerprint}", modalities, "")
    inputs: list[Input] = []
    for batch in loader:
        texts = (
            texts_or_dots(batch["text"], where)
            if "text" in modalities and "text" in batch
            else []
        )
        pictures = (
            [_kept(one) for one in batch["image"]]
            if "image" in modalities and "image" in batch
            else []
        )
        if not texts and not pictures:
            raise ValueError(
                f"{where} gives {', '.join(batch)} and nothing for {' and '.join(modalities)}."
            )
        both = texts and pictures
        inputs += (
            [Fused(*one) for one in zip(texts, pictures, strict=True)]
            if both
            else texts or pictures
        )
    return inputs


def table_images(rows: Table, column: str, where: str) -> list[Deferred | None]:
    """The images of a column as the bytes that lie in it; None where a row has none."""
    import datasets

    table = rows.select_columns([column])
    if isinstance(table.features[column], datasets.Image):
        table = table.cast_column(column, datasets.Image(decode=False))
    ids = (
        [str(one) for one in rows["id"]]
        if "id" in rows.column_names
        else [str(n) for n in range(len(rows))]
    )
    absent = [
        flag
        for batch in table.with_format("arrow").iter(batch_size=256)
        for flag in batch[column].is_null().to_pylist()
    ]

    def reader(row: int) -> Any:
        return lambda: _bytes_of(table[row][column], f"{where} {ids[row]}")

    return [
        None if absent[row] else Deferred(f"{where} {ids[row]}", reader(row))
        for row in range(len(rows))
    ]


def texts_or_dots(texts: Sequence[str | None], where: str) -> list[str]:
    """The texts, empty ones replaced by "." (NO_TEXT) with a warning that counts them."""
    empty = sum(1 for text in texts if not (text or "").strip())
    if empty:
        warnings.warn(
            f"{where}: {empty} of {len(texts)} texts are empty and stand as {NO_TEXT!r}.",
            stacklevel=2,
        )
    return [text if text and text.strip() else NO_TEXT for text in texts]


def _kept(picture: Any) -> Deferred:
    """A PIL image as a file without loss, named after its pixels so that equal ones are encoded
    once.
    """
    image = load_image(picture)
    if image.mode == "RGB" and not image.has_transparency_data:
        file = io.BytesIO()
        image.save(file, "BMP")  # no compression: twenty times faster than PNG
        content = file.getvalue()
    else:
        content = to_png(image, compress_level=1)
    return Deferred(f"pixels {xxhash.xxh3_128_hexdigest(content)}", lambda: content)


def _table_texts(rows: Table, prompt: Prompt) -> list[str]:
    texts = list(rows["text"])
    if texts and isinstance(texts[0], list):
        texts = [
            "; ".join(
                t if isinstance(t, str) else f"{t['role']}: {t['content']}"
                for t in turns
            )
            for turns in texts
        ]
        if "instruction" in rows.column_names:
            texts = [
                f"{instruction} {text}"
                for instruction, text in zip(rows["instruction"], texts, strict=True)
            ]
        return texts
    texts = [text or "" for text in texts]
    if prompt == "document":
        titles = (
            list(rows["title"]) if "title" in rows.column_names else [""] * len(texts)
        )
        return [
            f"{title} {text}".strip() if title else text.strip()
            for title, text in zip(titles, texts, strict=True)
        ]
    if prompt == "query" and "instruction" in rows.column_names:
        asked = zip(texts, rows["instruction"], strict=True)
        return [
            text if instruction is None else f"{text} {instruction}"
            for text, instruction in asked
        ]
    return texts


def given_image(picture: Deferred | None, where: str) -> Input:
    """The image; ValueError where there is none."""
    if picture is None:
        raise ValueError(f"{where} has a row without an image; leave it out.")
    return picture


def _bytes_of(cell: Any, name: str) -> bytes:
    if cell.get("bytes"):
        return bytes(cell["bytes"])
    if cell.get("path") and Path(cell["path"]).is_file():
        return Path(cell["path"]).read_bytes()
    raise ValueError(
        f"the image {name} has no bytes and no file; fetch the data set again."
    )
