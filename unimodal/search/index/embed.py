"""Bulk embedding: a partition of the input -> a Parquet file of vectors, whole or not at all.

The file has the columns of a store's rows. Its name and its metadata say what it was made of: after
a kill, a run skips the finished files and makes the others again; a changed input, model or option
makes other files.

n items, D dimensions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from unimodal.files import replacing_file
from unimodal.tables.readers import pyarrow_parquet
from unimodal.tables.skipped import is_over_limit
from unimodal.vectors import fuse

from ..stores.columns import arrow_schema, fixed_size_list
from ..stores.schema import vector_column
from .decode import Block, decode_partition
from .folder import FORMAT_VERSION, HEAD, find_file, read_head, read_inputs, staged
from .plan import Job, Plan
from .reuse import CONTENT, KnownVectors, content_of
from .skipped import Skipped, listed, refusal, write_skipped

if TYPE_CHECKING:
    from unimodal.embedder import Embedder


def unfinished(plan: Plan, jobs: Sequence[Job]) -> list[Job]:
    """The jobs whose file is missing or broken."""
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
    """Make the files of jobs, one after the other; the next block is decoded while the model runs.

    advance: called with the number of rows that are done.

    Raises ValueError when too many items are skipped.
    """
    if not jobs:
        return
    known = known_vectors(plan)
    num_rows = 0
    tables = list[Any]()
    skipped = list[Skipped]()
    for job, block in _compute_ahead(_blocks(plan, jobs)):
        if block is None:  # the job's last block came before
            write_partition(plan, job, tables, skipped)
            tables = []
            skipped = []
            continue
        tables.append(embed(plan, block.table, embedder, known))
        skipped += block.skipped
        check_skipped(plan, jobs, job, skipped)
        num_rows += block.rows
        advance(num_rows)


def _blocks(plan: Plan, jobs: Sequence[Job]) -> Iterator[tuple[Job, Block | None]]:
    """The blocks of each job, and None after its last."""
    for job in jobs:
        for block in decode_partition(plan, job.partition):
            yield job, block
        yield job, None


def known_vectors(plan: Plan) -> KnownVectors:
    """The vectors of the model that the folder has, of any input; the newest come first."""
    listed_files = [
        find_file(plan.folder, name)
        for entry in reversed(read_inputs(plan.folder))
        for name in entry.files
    ]
    others = sorted([*plan.folder.glob("*.parquet"), *plan.folder.glob("*.old")])
    files = [
        file
        for file in dict.fromkeys([*listed_files, *others])
        if read_head(file).get("model") == plan.model
    ]
    return KnownVectors(files, plan.schema)


def embed(plan: Plan, table: Any, embedder: Embedder, known: KnownVectors) -> Any:
    """The table of a block -> the rows of a store, and what the model saw of each.

    Each text and each image goes through the model once, and not at all where its vector is known.
    """
    import pyarrow as pa

    texts = table["_text"].to_pylist()
    pixels = table["_pixels"].to_pylist()
    contents = [
        content_of(text, image) for text, image in zip(texts, pixels, strict=True)
    ]
    found = known.vectors(contents)
    new = [row for row, vectors in enumerate(found) if vectors is None]
    new_texts = [texts[row] for row in new]
    new_pixels = [pixels[row] for row in new]
    encoded = _encode(plan, new_texts, new_pixels, embedder)

    columns = {}
    for name in plan.schema.vectors:
        vectors = np.zeros((len(found), plan.schema.dim), dtype=np.float32)
        for row, of_item in enumerate(found):
            if of_item is not None:
                vectors[row] = of_item[name]
        vectors[new] = encoded[name]
        is_there = np.asarray(vectors.any(axis=1))
        columns[vector_column(name)] = fixed_size_list(vectors, is_there)
    for name in plan.schema.item_columns:
        if name not in columns:
            columns[name] = table[name]
    rows = pa.table(columns).select(plan.schema.item_columns)
    rows = rows.cast(arrow_schema(plan.schema, copies=False))
    return rows.append_column(CONTENT, pa.array(contents, pa.binary(16)))


def _encode(
    plan: Plan,
    texts: Sequence[str | None],
    pixels: Sequence[bytes | None],
    embedder: Embedder,
) -> dict[str, NDArray[np.float32]]:
    """Name -> (n, D) unit vectors, zeros where an item has no such part."""
    size = plan.preprocess.image_size
    images = [
        content and Image.frombuffer("RGB", (size, size), content, "raw", "RGB", 0, 1)
        for content in pixels
    ]
    vectors = {
        kind: np.zeros((len(texts), plan.schema.dim), dtype=np.float32)
        for kind in ("text", "image")
    }
    for kind, parts in (("text", texts), ("image", images)):
        there = [row for row, part in enumerate(parts) if part]
        if kind in plan.parts and there:
            wanted: list[Any] = [parts[row] for row in there]
            vectors[kind][there] = embedder.encode_document(wanted, show_progress=False)
    weight = np.asarray(plan.config.weight, dtype=np.float32)
    vectors["fused"] = fuse(vectors["text"], vectors["image"], weight)
    return vectors


def write_partition(
    plan: Plan, job: Job, tables: Sequence[Any], skipped: Sequence[Skipped]
) -> None:
    """Write a partition's file, which waits until those of the whole input are there."""
    import pyarrow as pa

    table = pa.concat_tables(tables)
    head = {
        "format_version": FORMAT_VERSION,
        "digest": job.digest,
        "model": plan.model,
        "input": plan.config.input,
        "label": job.partition.label,
        "items": table.num_rows,
        "skipped": [fault._asdict() for fault in skipped],
    }
    table = table.replace_schema_metadata({HEAD: json.dumps(head).encode()})
    with replacing_file(staged(plan.folder, job.file)) as part:
        pyarrow_parquet().write_table(table, part, compression="zstd")
        # A file under the final name is there only if it is broken.
        (plan.folder / job.file).unlink(missing_ok=True)


def check_skipped(
    plan: Plan, jobs: Sequence[Job], job: Job, skipped: Sequence[Skipped]
) -> None:
    """Raises ValueError when too many items of a job are bad, and lists the bad items of all files.

    jobs: of this run, of which some may have no file yet.
    skipped: of this job.
    """
    partition = job.partition
    allowed = plan.config.max_skipped
    if not is_over_limit(len(skipped), partition.rows, allowed):
        return
    made_again = {other.partition.name for other in jobs}
    names = []
    for entry in read_inputs(plan.folder):
        for name in entry.files:
            if name.removesuffix(".parquet").rpartition(".")[0] not in made_again:
                names.append(name)
    names += [other.file for other in jobs if other != job]

    lines: list[dict[str, Any]] = []
    for name in names:
        head = read_head(find_file(plan.folder, name))
        lines += listed(head) if head else []
    of_job = {
        "input": plan.config.input,
        "label": partition.label,
        "skipped": [fault._asdict() for fault in skipped],
    }
    write_skipped(plan.folder, [*lines, *listed(of_job)])
    raise refusal(
        f"{len(skipped):,} of {partition.rows:,} rows of {partition.path} cannot be indexed "
        f"(the first, row {skipped[0].row}: {skipped[0].reason})",
        plan.folder,
        allowed,
    )


def _compute_ahead(values: Iterable[Any]) -> Iterator[Any]:
    """The values, each computed in a thread while the one before is in use."""
    iterator = iter(values)
    end = object()
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming = thread.submit(next, iterator, end)
        while (value := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield value
