"""Many inputs -> a folder of vectors: vectors.npy, (n, D) float32, and items.jsonl, their names.

An input is read as `unimodal index` reads it. skipped.jsonl lists what cannot be embedded.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .config import apply_overrides, parse_config
from .embedder import Embedder, load
from .embedder import Item as Input
from .files import replace_text, replacing_folder, write_text
from .progress import progress_bar
from .search.index.items import (
    IndexConfig,
    Item,
    ItemsConfig,
    cut_input,
    infer_types,
    items,
)
from .search.index.reading import Partition, RawRow
from .search.index.skipped import Skipped, skip_row
from .tables.files import written_name
from .tables.skipped import describe_limit, is_over_limit, json_lines
from .tables.types import unstorable
from .vectors import Vectors

VECTORS = "vectors.npy"
ITEMS = "items.jsonl"
SKIPPED = "skipped.jsonl"


class Embedded(NamedTuple):
    """What a run did; skipped.jsonl lists the rows that were skipped or have no image, and why."""

    rows: int
    dim: int
    skipped: int
    without_image: int  # embedded by their text alone, because the image cannot be read


def embed_source(
    model: str,
    source: str | Path,
    out: Path,
    overrides: Sequence[str] = (),
    *,
    text: str | Sequence[str] = (),
    image: str = "",
    device: str | None = None,
    overwrite: bool = False,
) -> Embedded:
    """Embed a folder of images, a .txt of one text per line, shards, or a table's fields.

    overrides: `KEY=VALUE` of ItemsConfig, as for `unimodal index`.
    text, image: fields of a table, or templates of them; with both, a row's vector is that of the
        two together.

    Raises ValueError for an input that holds nothing or that the model does not embed, for more bad
    rows than `max_skipped` allows, and for an `out` that exists and is not to be overwritten, or
    holds anything else.
    """
    _refuse_to_destroy(out, overwrite)
    config, partitions = _read_options(str(source), overrides, text, image)
    embedder = load(model, device=device)
    _check_modalities(config, embedder, model)
    vectors: list[Vectors] = []
    records: list[dict[str, str]] = []
    skipped: list[dict[str, Any]] = []
    num_rows = sum(partition.rows for partition in partitions)
    with progress_bar("embedding", num_rows) as advance:
        for partition, rows in _batches(partitions, config):
            block = _embed_rows(rows, embedder, config)
            vectors.append(block.vectors)
            records += block.records
            for fault in block.skipped:
                skipped.append({"file": partition.label, **fault._asdict()})
            _check_skipped(skipped, num_rows, config, out)
            advance(len(records) + sum(not fault["kept"] for fault in skipped))
    if not records:
        first = f"; the first: {skipped[0]['reason'].rstrip('.')}" if skipped else ""
        raise ValueError(
            f"{source}: all {len(skipped):,} rows had to be skipped{first}."
        )
    _write(out, np.concatenate(vectors), records, skipped)
    without_image = sum(fault["kept"] for fault in skipped)
    dim = vectors[0].shape[1]
    return Embedded(len(records), dim, len(skipped) - without_image, without_image)


def _read_options(
    source: str, overrides: Sequence[str], text: str | Sequence[str], image: str
) -> tuple[IndexConfig, list[Partition]]:
    """What of the input is embedded, and its partitions."""
    values: dict[str, Any] = {"input": source}
    if text:
        values["text"] = text
    if image:
        values["image"] = image
    options = apply_overrides(values, overrides)
    items_config = parse_config(ItemsConfig, options, source="options")
    config = IndexConfig(**items_config.model_dump(), words=())
    partitions = cut_input(config)
    config, _ = infer_types(config, partitions, {})
    return config, partitions


def _refuse_to_destroy(out: Path, overwrite: bool) -> None:
    """Raises ValueError where `out` exists and may not be replaced, or holds other files."""
    if not out.exists():
        return
    others = [out.name]
    if out.is_dir():
        ours = (VECTORS, ITEMS, SKIPPED)
        others = sorted(path.name for path in out.iterdir() if path.name not in ours)
    if others:
        raise ValueError(
            f"{out} holds {others[0]!r}, which was not written by embed; choose another folder."
        )
    if not overwrite:
        raise ValueError(
            f"{out} exists already; choose another folder or add --overwrite."
        )


class _Block(NamedTuple):
    """Some rows, embedded."""

    vectors: Vectors
    records: list[dict[str, str]]  # what each vector is of
    skipped: list[Skipped]  # rows without a vector, or without their image


def _check_modalities(config: IndexConfig, embedder: Embedder, model: str) -> None:
    for kind in ("text", "image"):
        if getattr(config, kind) and kind not in embedder.modalities:
            raise ValueError(
                f"{config.input} has {kind}s to embed, and {model} embeds "
                f"{min(embedder.modalities)} alone; choose another model."
            )


def _batches(
    partitions: Sequence[Partition], config: IndexConfig
) -> Iterator[tuple[Partition, list[Item | RawRow]]]:
    """The rows of all partitions, `batch` at a time; a row with the id of an earlier one is bad."""
    first_places: dict[str, str] = {}
    for partition in partitions:
        rows = items(partition, config, {})
        while batch := list(itertools.islice(rows, config.batch)):
            yield (
                partition,
                [_refuse_repeated(row, partition, first_places) for row in batch],
            )


def _refuse_repeated(
    item: Item | RawRow, partition: Partition, first_places: dict[str, str]
) -> Item | RawRow:
    """The item, or a bad row if an earlier one has its id.

    first_places: id -> the row that has it; this item is added.
    """
    if isinstance(item, RawRow):
        return item
    place = f"row {item.number} of {partition.label}"
    first = first_places.setdefault(item.id, place)
    if first == place:
        return item
    fault = f"its id {item.id!r} is that of {first} too"
    return RawRow(item.number, {}, fault, item.id)


def _embed_rows(
    rows: Sequence[Item | RawRow], embedder: Embedder, config: IndexConfig
) -> _Block:
    """Embed the usable rows at once; where that fails, find the bad images one by one."""
    usable: list[Item] = []
    skipped: list[Skipped] = []
    for row in rows:
        if isinstance(row, RawRow):
            skipped.append(skip_row(row, row.fault))
            continue
        fault = unstorable({"text": row.text}, None, None)
        if fault:
            skipped.append(skip_row(row, fault))
            continue
        usable.append(row)
        if row.fault:
            skipped.append(skip_row(row, row.fault, kept=True))
    try:
        records = [_record(item) for item in usable]
        return _Block(_encode(usable, embedder), records, skipped)
    except Exception:
        faults = [_fault_of(item, embedder) for item in usable]
        if not any(faults):
            raise
    kept: list[Item] = []
    for item, fault in zip(usable, faults, strict=True):
        if not fault:
            kept.append(item)
            continue
        has_text = bool(item.text) and config.missing_image == "keep"
        skipped.append(skip_row(item, fault, kept=has_text))
        if has_text:
            kept.append(replace(item, image=None))
    skipped.sort()
    records = [_record(item) for item in kept]
    return _Block(_encode(kept, embedder), records, skipped)


def _fault_of(item: Item, embedder: Embedder) -> str:
    """Why an item's image cannot be read; empty if it can."""
    if item.image is None:
        return ""
    try:
        embedder.prepare(item.image)
    # Pillow's readers raise whatever a broken file leads them into.
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _encode(usable: Sequence[Item], embedder: Embedder) -> Vectors:
    inputs: list[Input] = []
    for item in usable:
        parts: dict[str, Any] = {}
        if item.text:
            parts["text"] = item.text
        if item.image is not None:
            parts["image"] = item.image
        inputs.append(parts)
    return embedder.encode_document(inputs, show_progress=False)


def _record(item: Item) -> dict[str, str]:
    """The line of an item; an image inside the table or shard has no path."""
    record = {"id": item.id}
    if item.text:
        record["text"] = item.text
    if isinstance(item.image, Path):
        record["image"] = written_name(str(item.image))
    return record


def _check_skipped(
    skipped: Sequence[dict[str, Any]], num_rows: int, config: IndexConfig, out: Path
) -> None:
    if not is_over_limit(len(skipped), num_rows, config.max_skipped):
        return
    file = out.with_name(f"{out.name}.{SKIPPED}")
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_text(file, json_lines(skipped))
    first = f"the first, row {skipped[0]['row']}: {skipped[0]['reason'].rstrip('.')}"
    raise ValueError(
        f"{len(skipped):,} of {num_rows:,} rows of {config.input} cannot be embedded ({first}), "
        f"{describe_limit(config.max_skipped)}; repair the rows that {file} lists, or raise "
        "max_skipped."
    )


def _write(
    out: Path, vectors: Vectors, records: Sequence[Any], skipped: Sequence[Any]
) -> None:
    with replacing_folder(out) as part:
        np.save(part / VECTORS, vectors)
        write_text(part / ITEMS, json_lines(records))
        if skipped:
            write_text(part / SKIPPED, json_lines(skipped))
