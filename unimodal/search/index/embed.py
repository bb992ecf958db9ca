"""Bulk embedding: a unit of the input in, a Parquet file of its items' vectors out, whole or not at
all.

The file has the columns of a store's rows, and in its name and its metadata what it was made of: a
run that was killed skips the files that are finished and redoes the others; an input, a model or an
option that changed makes other files.

n items, D dimensions, S pixels a side.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from unimodal.files import replacing_file
from unimodal.model_config import PreprocessConfig
from unimodal.preprocess.images import image_to_pixels, load_image, to_rgb
from unimodal.tables.fields import RULES
from unimodal.tables.readers import pyarrow_parquet, table_paths
from unimodal.vectors import fuse

from ...tables.types import unstorable
from ..stores.columns import arrow_schema, fixed_size_list
from ..stores.schema import Schema, vector_column
from .folder import FORMAT_VERSION, HEAD, find_file, read_head, read_inputs, staged
from .items import IndexConfig, Item, image_identity, items
from .reading import RawRow, Unit
from .reuse import CONTENT, Before, content_of
from .skipped import Skipped, listed, refusal, too_many, write_skipped

if TYPE_CHECKING:
    from unimodal.embedder import Embedder

_JPEG_QUALITY = 85
# What has no part in a unit's vectors and rows.
_ASIDE = {
    "input",
    "per_unit",
    "batch",
    "max_skipped",
    "max_removed",
    "prefix_dims",
    "binary",
    "calibrated",
    "weight",
}


@dataclass(frozen=True)
class Plan:
    """All that is decided before the first item is read; the same in every process of a run."""

    config: IndexConfig
    schema: Schema
    folder: Path  # of the Parquet files
    preprocess: PreprocessConfig
    modalities: frozenset[str]  # what the model embeds
    max_text_bytes: int | None = None  # what the store keeps
    max_strings: int | None = None

    @property
    def parts(self) -> frozenset[str]:
        """Which of an item's parts go through the model."""
        fused = self.modalities if "fused" in self.schema.vectors else frozenset()
        return frozenset(self.schema.vectors) & self.modalities | fused

    @property
    def model(self) -> str:
        """What vectors depend on besides texts and images; the image's share only where both
        are summed.
        """
        weight = self.config.weight if "fused" in self.schema.vectors else ""
        return f"{self.schema.fingerprint} {weight}"

    def digest(self, unit: Unit) -> str:
        """Of all that the file of a unit depends on, and of the input: each has its own, of a file
        that two name.
        """
        values = self.config.model_dump(mode="json", exclude=_ASIDE)
        made_of = [
            self.config.input,
            *(
                FORMAT_VERSION,
                RULES,
                self.model,
                list(self.schema.vectors),
                dict(self.schema.fields),
                values,
            ),
            *(self.max_text_bytes, self.max_strings),
            *(
                unit.identity,
                unit.rows,
                image_identity(unit, self.config),
                _states_of_tables(self.config),
            ),
        ]
        return xxhash.xxh3_128_hexdigest(json.dumps(made_of, sort_keys=True).encode())


@dataclass(frozen=True)
class Chunk:
    """Some items of a unit, decoded, as Arrow has them."""

    # of _text, _pixels (S x S x 3 bytes) and the columns of the store that are no vectors
    table: Any
    rows: int  # of the input, skipped ones and filtered ones among them
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class Job:
    """A unit that is to be embedded, and what its file will be made of as things stand."""

    unit: Unit
    digest: str

    @property
    def file(self) -> str:
        """The name of its Parquet file: content that changes makes another file."""
        return f"{self.unit.name}.{self.digest}.parquet"


def jobs_of(plan: Plan, units: Sequence[Unit]) -> list[Job]:
    """The units, each with what its file is made of."""
    return [Job(unit, plan.digest(unit)) for unit in units]


def unfinished(plan: Plan, jobs: Sequence[Job]) -> list[Job]:
    """Those whose file is missing or broken."""
    return [
        job
        for job in jobs
        if read_head(find_file(plan.folder, job.file)).get("digest") != job.digest
    ]


def embed_jobs(
    plan: Plan,
    jobs: Sequence[Job],
    embedder: Embedder,
    advance: Callable[[int], None] = lambda rows: None,
) -> None:
    """Make the files of units, one after the other; the next items are decoded while the model
    runs.

    advance: called with the number of rows that are done. Raises ValueError when too many items are
        skipped.
    """
    if not jobs:
        return
    before = known_before(plan)
    done = 0
    tables = list[Any]()
    skipped = list[Skipped]()
    chunks = (
        (job, chunk)
        for job in jobs
        for chunk in itertools.chain(prepare(plan, job.unit), [None])
    )
    for job, chunk in _ahead(chunks):
        if chunk is None:
            write_unit(plan, job, tables, skipped)
            tables = []
            skipped = []
            continue
        tables.append(embed(plan, chunk.table, embedder, before))
        skipped += chunk.skipped
        check_skipped(plan, jobs, job, skipped)
        done += chunk.rows
        advance(done)


def prepare(plan: Plan, unit: Unit) -> Iterator[Chunk]:
    """A unit read and decoded, `batch` items at a time: what needs no model."""
    found = items(unit, plan.config, plan.schema.fields)
    done = 0
    with ThreadPoolExecutor(
        max_workers=os.cpu_count()
    ) as decoders:  # Pillow lets other threads run while it decodes
        while block := list(itertools.islice(found, plan.config.batch)):
            rows = list(decoders.map(lambda item: _decoded(item, plan), block))
            done += len(block)
            skipped = tuple(
                row if isinstance(row, Skipped) else row["_fault"]
                for row in rows
                if _is_listed(row)
            )
            yield Chunk(
                _table([row for row in rows if not isinstance(row, Skipped)], plan),
                len(block),
                skipped,
            )
    yield Chunk(_table([], plan), unit.rows - done, ())  # what the filters dropped


def known_before(plan: Plan) -> Before:
    """The vectors of the model that the folder has, of whichever input; the newest are looked at
    first.
    """
    newest = [
        find_file(plan.folder, name)
        for one in reversed(read_inputs(plan.folder))
        for name in one.files
    ]
    others = sorted([*plan.folder.glob("*.parquet"), *plan.folder.glob("*.old")])
    files = [
        file
        for file in dict.fromkeys([*newest, *others])
        if read_head(file).get("model") == plan.model
    ]
    return Before(files, plan.schema)


def embed(plan: Plan, table: Any, embedder: Embedder, before: Before) -> Any:
    """The table of a chunk -> the rows of a store, and what the model saw of each.

    Each text and each image goes through the model once, and not at all where a file of before
    has it.
    """
    import pyarrow as pa

    texts = table["_text"].to_pylist()
    pixels = table["_pixels"].to_pylist()
    contents = [content_of(text, one) for text, one in zip(texts, pixels, strict=True)]
    known = before.vectors(contents)
    new = [row for row, vectors in enumerate(known) if vectors is None]
    encoded = _encode(
        plan, [texts[row] for row in new], [pixels[row] for row in new], embedder
    )
    columns = {}
    for name in plan.schema.vectors:
        vectors = np.array(
            [np.zeros(plan.schema.dim) if one is None else one[name] for one in known],
            dtype=np.float32,
        )
        vectors = vectors.reshape(-1, plan.schema.dim)
        vectors[new] = encoded[name]
        columns[vector_column(name)] = fixed_size_list(
            vectors, np.asarray(vectors.any(axis=1))
        )
    kept = {
        name: table[name] for name in plan.schema.item_columns if name not in columns
    }
    rows = (
        pa.table({**kept, **columns})
        .select(plan.schema.item_columns)
        .cast(arrow_schema(plan.schema, copies=False))
    )
    return rows.append_column(CONTENT, pa.array(contents, pa.binary(16)))


def _encode(
    plan: Plan,
    texts: Sequence[str | None],
    pixels: Sequence[bytes | None],
    embedder: Embedder,
) -> dict[str, NDArray[np.float32]]:
    """Name -> (n, D) unit vectors, zeros where an item has no such part."""
    size = plan.preprocess.image_size
    pictures = [
        one and Image.frombuffer("RGB", (size, size), one, "raw", "RGB", 0, 1)
        for one in pixels
    ]
    vectors = {
        kind: np.zeros((len(texts), plan.schema.dim), dtype=np.float32)
        for kind in ("text", "image")
    }
    for kind, parts in (("text", texts), ("image", pictures)):
        there = [row for row, part in enumerate(parts) if part]
        if kind in plan.parts and there:
            wanted: list[Any] = [parts[row] for row in there]
            vectors[kind][there] = embedder.encode_document(wanted, show_progress=False)
    weight = np.float32(plan.config.weight)
    vectors["fused"] = fuse(vectors["text"], vectors["image"], weight)
    return vectors


def write_unit(
    plan: Plan, job: Job, tables: Sequence[Any], skipped: Sequence[Skipped]
) -> None:
    """Put a unit's file in place, where it waits until those of the whole input are there."""
    import pyarrow as pa

    unit = job.unit
    file = staged(plan.folder, job.file)
    table = pa.concat_tables(tables)
    head = {
        "format_version": FORMAT_VERSION,
        "digest": job.digest,
        "model": plan.model,
        "input": plan.config.input,
        "label": unit.label,
        "items": table.num_rows,
        "skipped": [one._asdict() for one in skipped],
    }
    table = table.replace_schema_metadata({HEAD: json.dumps(head).encode()})
    with replacing_file(file) as part:
        pyarrow_parquet().write_table(table, part, compression="zstd")
        # A file under the final name is there only if it is broken.
        (plan.folder / job.file).unlink(missing_ok=True)


def read_columns(file: Path) -> dict[str, Any]:
    """The columns of a store's rows that a file has -> their Arrow types."""
    return {
        column.name: column.type
        for column in pyarrow_parquet().read_schema(file)
        if column.name != CONTENT
    }


def _states_of_tables(config: IndexConfig) -> list[tuple[int, int]]:
    """Size and time of the files that rows are joined with or excluded by; what lies on a hub has
    its name alone.
    """
    names = [
        place.rpartition(":")[0]
        for place in (*config.join.values(), *config.exclude.values())
    ]
    paths = [
        path
        for name in names
        if not name.startswith("hf:")
        for path in table_paths(name, Path())
    ]
    files = [
        file
        for path in paths
        for file in (sorted(path.rglob("*")) if path.is_dir() else [path])
    ]
    return [(status.st_size, status.st_mtime_ns) for status in map(Path.stat, files)]


def check_skipped(
    plan: Plan, jobs: Sequence[Job], job: Job, skipped: Sequence[Skipped]
) -> None:
    """Raises ValueError when the share of bad items of a job is over the limit, once those of all
    files are listed.
    """
    unit = job.unit
    allowed = plan.config.max_skipped
    if not too_many(len(skipped), unit.rows, allowed):
        return
    made_again = {one.unit.name for one in jobs}
    others = [
        name
        for one in read_inputs(plan.folder)
        for name in one.files
        if name.removesuffix(".parquet").rpartition(".")[0] not in made_again
    ]
    lines = []
    for name in [*others, *(one.file for one in jobs if one != job)]:
        head = read_head(find_file(plan.folder, name))
        lines += listed(head) if head else []
    found = {
        "input": plan.config.input,
        "label": unit.label,
        "skipped": [one._asdict() for one in skipped],
    }
    write_skipped(plan.folder, [*lines, *listed(found)])
    first = f"the first, row {skipped[0].row}: {skipped[0].reason}"
    what = f"{len(skipped):,} of {unit.rows:,} rows of {unit.path} cannot be indexed ({first})"
    raise refusal(what, plan.folder, allowed)


def _is_listed(row: dict[str, Any] | Skipped) -> bool:
    return isinstance(row, Skipped) or "_fault" in row


def _decoded(item: Item | RawRow, plan: Plan) -> dict[str, Any] | Skipped:
    """The row of a chunk; no field of a store begins with an underscore."""
    if isinstance(item, RawRow):
        return Skipped(
            item.number, item.id.encode(errors="replace").decode(), item.fault
        )
    row: dict[str, Any] = {"id": item.id, "words": item.words or None, **item.fields}
    fault = unstorable(row, plan.max_text_bytes, plan.max_strings) or unstorable(
        {"text": item.text}, None, None
    )
    if fault:
        return Skipped(item.number, item.id.encode(errors="replace").decode(), fault)
    row["_text"] = item.text or None
    has_text = bool(item.text) and "text" in plan.parts
    if not has_text and not (item.picture is not None and "image" in plan.parts):
        return Skipped(
            item.number,
            item.id,
            item.fault or f"it has no {' and no '.join(sorted(plan.parts))}",
        )
    if item.picture is None:
        return (
            {**row, "_fault": Skipped(item.number, item.id, item.fault, kept=True)}
            if item.fault
            else row
        )
    try:
        image = load_image(item.picture)
        if "image" in plan.parts:
            pixels = image_to_pixels(image, plan.preprocess).permute(
                1, 2, 0
            )  # (S, S, 3)
            row["_pixels"] = pixels.contiguous().numpy().tobytes()
        if plan.config.thumbnail:
            row["thumbnail"] = _thumbnail(image, plan.config.thumbnail)
    except (
        Exception
    ) as error:  # Pillow's readers raise whatever a broken file leads them into
        fault = " ".join(str(error).split()) or type(error).__name__
        if not has_text or plan.config.missing_image == "skip":
            return Skipped(item.number, item.id, fault)
        without = {
            name: value
            for name, value in row.items()
            if name not in ("_pixels", "thumbnail")
        }
        return {**without, "_fault": Skipped(item.number, item.id, fault, kept=True)}
    return row


def _thumbnail(image: Image.Image, size: int) -> bytes:
    small = to_rgb(
        image
    ).copy()  # over white, as pages are, whatever the model makes of transparent pixels
    small.thumbnail((size, size))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def _table(rows: Sequence[dict[str, Any]], plan: Plan) -> Any:
    """Rows as a table of _text, _pixels and the columns of the store that are no vectors."""
    import pyarrow as pa

    known = arrow_schema(plan.schema, copies=False)
    vectors = {vector_column(name) for name in plan.schema.vectors}
    columns = [pa.field("_text", pa.string()), pa.field("_pixels", pa.binary())]
    columns += [field for field in known if field.name not in vectors]
    arrays = [
        pa.array([row.get(column.name) for row in rows], column.type)
        for column in columns
    ]
    return pa.table(arrays, pa.schema(columns))


def _ahead(values: Iterable[Any]) -> Iterator[Any]:
    """The values, each computed in a thread while the one before is in use."""
    iterator = iter(values)
    end = object()
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = thread.submit(next, iterator, end)
        while (value := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield value
