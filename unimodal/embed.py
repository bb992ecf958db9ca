"""Many inputs -> a folder of vectors: vectors.npy (n, D) float32, and items.jsonl with what each
row is.

An input is read as `unimodal index` reads it. What cannot be embedded is listed in skipped.jsonl.
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
from .search.index.skipped import Skipped
from .tables.files import written_name
from .tables.skipped import describe_limit, is_over_limit, json_lines
from .tables.types import unstorable
from .vectors import Vectors

VECTORS = "vectors.npy"
ITEMS = "items.jsonl"
SKIPPED = "skipped.jsonl"


class Embedded(NamedTuple):
    """What came of embedding; rows that were skipped or have no image are listed in skipped.jsonl
    with the reasons.
    """

    rows: int
    dim: int
    skipped: int
    without_image: int  # embedded by their text alone, for their image cannot be read


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
    given = {
        "input": str(source),
        **({"text": text} if text else {}),
        **({"image": image} if image else {}),
    }
    config = parse_config(
        ItemsConfig, apply_overrides(given, overrides), source="options"
    )
    whole = IndexConfig(**config.model_dump(), words=())
    cut = cut_input(whole)
    whole, _ = infer_types(whole, cut, {})
    embedder = load(model, device=device)
    _check_kinds(whole, embedder, model)
    vectors: list[Vectors] = []
    records: list[dict[str, str]] = []
    skipped: list[dict[str, Any]] = []
    with progress_bar(
        "embedding", num_rows := sum(partition.rows for partition in cut)
    ) as advance:
        for partition, block in _blocks(cut, whole):
            embedded = _embed_block(block, embedder, whole)
            vectors.append(embedded.vectors)
            records += embedded.records
            skipped += [
                {"file": partition.label, **one._asdict()} for one in embedded.skipped
            ]
            _check_skipped(skipped, num_rows, whole, out)
            advance(len(records) + sum(not one["kept"] for one in skipped))
    if not records:
        first = f"; the first: {skipped[0]['reason'].rstrip('.')}" if skipped else ""
        raise ValueError(
            f"{source}: all {len(skipped):,} rows had to be skipped{first}."
        )
    _write(out, np.concatenate(vectors), records, skipped)
    without_image = sum(one["kept"] for one in skipped)
    return Embedded(
        len(records), vectors[0].shape[1], len(skipped) - without_image, without_image
    )


def _refuse_to_destroy(out: Path, overwrite: bool) -> None:
    """Raises ValueError where something is that is not to be replaced, or that was not written
    here.
    """
    if not out.exists():
        return
    others = [out.name]
    if out.is_dir():
        others = sorted(
            path.name
            for path in out.iterdir()
            if path.name not in (VECTORS, ITEMS, SKIPPED)
        )
    if others:
        raise ValueError(
            f"{out} holds {others[0]!r}, which was not written by embed; choose another folder."
        )
    if not overwrite:
        raise ValueError(
            f"{out} exists already; choose another folder or add --overwrite."
        )


class _Block(NamedTuple):
    """Vectors of some rows, what each is, and the rows that are not among them, or there without
    their image.
    """

    vectors: Vectors
    records: list[dict[str, str]]
    skipped: list[Skipped]


def _check_kinds(config: IndexConfig, embedder: Embedder, model: str) -> None:
    for kind in ("text", "image"):
        if getattr(config, kind) and kind not in embedder.modalities:
            raise ValueError(
                f"{config.input} has {kind}s to embed, and {model} embeds "
                f"{min(embedder.modalities)} alone."
            )


def _blocks(
    cut: Sequence[Partition], config: IndexConfig
) -> Iterator[tuple[Partition, list[Item | RawRow]]]:
    """The rows of all partitions, `batch` at a time; a row whose id was there before is one that cannot
    be embedded.
    """
    seen: dict[str, str] = {}
    for partition in cut:
        found = items(partition, config, {})
        while block := list(itertools.islice(found, config.batch)):
            yield partition, [_once(item, partition, seen) for item in block]


def _once(
    item: Item | RawRow, partition: Partition, seen: dict[str, str]
) -> Item | RawRow:
    if isinstance(item, RawRow):
        return item
    place = f"row {item.number} of {partition.label}"
    first = seen.setdefault(item.id, place)
    if first == place:
        return item
    return RawRow(
        item.number, {}, f"its id {item.id!r} is that of {first} too", item.id
    )


def _embed_block(
    block: Sequence[Item | RawRow], embedder: Embedder, config: IndexConfig
) -> _Block:
    """The usable items of a block embedded at once; where that fails, those with a bad image are
    found one by one.
    """
    usable: list[Item] = []
    skipped: list[Skipped] = []
    for item in block:
        fault = (
            item.fault
            if isinstance(item, RawRow)
            else unstorable({"text": item.text}, None, None)
        )
        if isinstance(item, RawRow) or fault:
            skipped.append(
                Skipped(item.number, item.id.encode(errors="replace").decode(), fault)
            )
            continue
        usable.append(item)
        if item.fault:
            skipped.append(Skipped(item.number, item.id, item.fault, kept=True))
    try:
        return _Block(
            _encode(usable, embedder), [_record(item) for item in usable], skipped
        )
    except Exception:
        faults = {
            number: fault
            for number, item in enumerate(usable)
            if (fault := _fault_of(item, embedder))
        }
        if not faults:
            raise
    kept: list[Item] = []
    for number, item in enumerate(usable):
        is_kept = number not in faults or (
            bool(item.text) and config.missing_image == "keep"
        )
        if number in faults:
            skipped.append(Skipped(item.number, item.id, faults[number], kept=is_kept))
        if is_kept:
            kept.append(replace(item, image=None) if number in faults else item)
    skipped.sort()
    return _Block(_encode(kept, embedder), [_record(item) for item in kept], skipped)


def _fault_of(item: Item, embedder: Embedder) -> str:
    """Why an item's image cannot be read; empty if it can."""
    if item.image is None:
        return ""
    try:
        embedder.prepare(item.image)
    except (
        Exception
    ) as error:  # Pillow's readers raise whatever a broken file leads them into
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _encode(usable: Sequence[Item], embedder: Embedder) -> Vectors:
    inputs: list[Input] = []
    for item in usable:
        parts = {**({"text": item.text} if item.text else {})}
        inputs.append(
            {**parts, **({"image": item.image} if item.image is not None else {})}
        )
    return embedder.encode_document(inputs, show_progress=False)


def _record(item: Item) -> dict[str, str]:
    """The line of an item; an image that is inside the table or shard has no path."""
    record = {"id": item.id, **({"text": item.text} if item.text else {})}
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
        f"{describe_limit(config.max_skipped)}; repair what is listed in {file}, or raise max_skipped."
    )


def _write(
    out: Path, vectors: Vectors, records: Sequence[Any], skipped: Sequence[Any]
) -> None:
    with replacing_folder(out) as part:
        np.save(part / VECTORS, vectors)
        write_text(part / ITEMS, json_lines(records))
        if skipped:
            write_text(part / SKIPPED, json_lines(skipped))
