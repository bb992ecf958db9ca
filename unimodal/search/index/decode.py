"""A partition read and decoded, a block of items at a time: all of embedding that needs no model.

S pixels a side.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

from unimodal.preprocess.images import image_to_pixels, load_image, to_rgb
from unimodal.tables.types import unstorable

from ..stores.columns import arrow_schema
from ..stores.schema import vector_column
from .items import Item, items
from .plan import Plan
from .reading import Partition, RawRow
from .skipped import Skipped, skip_row

_JPEG_QUALITY = 85


@dataclass(frozen=True)
class Block:
    """Some items of a partition, decoded, as an Arrow table."""

    # of _text, _pixels (S x S x 3 bytes) and the columns of the store that are not vectors
    table: Any
    rows: int  # of the input, with those that were skipped or filtered out
    skipped: tuple[Skipped, ...]


def decode_partition(plan: Plan, partition: Partition) -> Iterator[Block]:
    """A partition, `batch` items at a time; the last block is empty and has the filtered rows."""
    remaining = items(partition, plan.config, plan.schema.fields)
    num_read = 0
    # Pillow lets other threads run while it decodes.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as decoders:
        while batch := list(itertools.islice(remaining, plan.config.batch)):
            decoded = list(decoders.map(lambda item: _decode(item, plan), batch))
            rows = [row for row, _ in decoded if row is not None]
            skipped = tuple(fault for _, fault in decoded if fault is not None)
            num_read += len(batch)
            yield Block(_as_table(rows, plan), len(batch), skipped)
    yield Block(_as_table([], plan), partition.rows - num_read, ())


def _decode(
    item: Item | RawRow, plan: Plan
) -> tuple[dict[str, Any] | None, Skipped | None]:
    """The row of an item, and what is wrong with it; no row where it is skipped.

    Names that begin with an underscore are not those of fields of a store.
    """
    if isinstance(item, RawRow):
        return None, skip_row(item, item.fault)
    row: dict[str, Any] = {
        "id": item.id,
        "words": item.full_text or None,
        **item.fields,
    }
    fault = unstorable(row, plan.max_text_bytes, plan.max_strings)
    fault = fault or unstorable({"text": item.text}, None, None)
    if fault:
        return None, skip_row(item, fault)

    row["_text"] = item.text or None
    has_text = bool(item.text) and "text" in plan.parts
    has_image = item.image is not None and "image" in plan.parts
    if not has_text and not has_image:
        missing = f"it has no {' and no '.join(sorted(plan.parts))}"
        return None, skip_row(item, item.fault or missing)
    if item.image is None:
        without_image = skip_row(item, item.fault, kept=True) if item.fault else None
        return row, without_image

    try:
        return {**row, **_decode_image(item.image, plan)}, None
    # Pillow's readers raise whatever a broken file leads them into.
    except Exception as error:
        fault = " ".join(str(error).split()) or type(error).__name__
    if not has_text or plan.config.missing_image == "skip":
        return None, skip_row(item, fault)
    return row, skip_row(item, fault, kept=True)


def _decode_image(source: Any, plan: Plan) -> dict[str, bytes]:
    """The pixels for the model, and the thumbnail, of those that the plan wants."""
    image = load_image(source)
    parts: dict[str, bytes] = {}
    if "image" in plan.parts:
        pixels = image_to_pixels(image, plan.preprocess).permute(1, 2, 0)  # (S, S, 3)
        parts["_pixels"] = pixels.contiguous().numpy().tobytes()
    if plan.config.thumbnail:
        parts["thumbnail"] = _thumbnail(image, plan.config.thumbnail)
    return parts


def _thumbnail(image: Image.Image, size: int) -> bytes:
    # Over white, as pages are, whatever the model makes of transparent pixels.
    small = to_rgb(image).copy()
    small.thumbnail((size, size))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def _as_table(rows: Sequence[dict[str, Any]], plan: Plan) -> Any:
    """Rows as a table of _text, _pixels and the columns of the store that are not vectors."""
    import pyarrow as pa

    vectors = {vector_column(name) for name in plan.schema.vectors}
    columns = [pa.field("_text", pa.string()), pa.field("_pixels", pa.binary())]
    for column in arrow_schema(plan.schema, copies=False):
        if column.name not in vectors:
            columns.append(column)
    arrays = []
    for column in columns:
        values = [row.get(column.name) for row in rows]
        arrays.append(pa.array(values, column.type))
    return pa.table(arrays, pa.schema(columns))
