"""`unimodal index`: an input -> Parquet files of embeddings, the source of truth -> a store.

The folder of the embeddings belongs to one store. A run embeds first, then checks the result, and
may refuse it. Only then does it put the input into the folder's list, and bring the store to the
state of the folder.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from unimodal.progress import progress_bar

from ..stores.open import store_exists
from .embed import embed_jobs, unfinished
from .fill import Filled, make_store, read_ids
from .folder import IndexedInput, find_file, read_head, read_inputs, write_inputs
from .inputs import clean_up, default_folder, update_store
from .items import IndexConfig
from .limits import check_input, refuse_removed, refuse_skipped
from .plan import Job, Plan, Planned, bound_schema, fitting_inputs, make_jobs, make_plan
from .preview import Preview, preview
from .processes import alone, ranks_of_run


@dataclass(frozen=True)
class Summary:
    """What a run did; _skipped.jsonl lists the items that were skipped or have no image, and why.

    Items, rows and partitions are those of this input, unless said otherwise.
    """

    items: int
    skipped: int  # rows
    without_image: int  # items whose image cannot be read
    embedded: int  # partitions
    reused: int  # partitions that were embedded before
    stored: int  # items of the store that are new or changed
    kept: int  # items of the store that are as they were
    removed: int  # items that were taken out of the store
    seconds: float
    rank: int = 0  # of this process among those of the run; the first fills the store
    shared: int = 0  # items that another input has too: the store has those of this one


class _Counts(NamedTuple):
    """What the file of a partition holds."""

    items: int
    skipped: int
    without_image: int  # items


def index(
    model: str,
    config: IndexConfig,
    store_url: str,
    *,
    embeddings: Path | None = None,
    engine: Literal["process", "ray"] = "process",
    device: str | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    replace: bool = False,
    show_progress: bool | None = None,
) -> Summary:
    """Embed what is new or changed of an input, and bring a store to the same state.

    embeddings: the folder of the Parquet files, of this store alone; default: beside the store.
        They are kept whatever happens to the store, which can be filled from them again without
        embedding anything.
    engine: "process" embeds in this process, or under torchrun in each of its processes; "ray" uses
        a Ray cluster, and no device of this process.
    overwrite: make the store again; other inputs that do not fit it are left out, with a warning.
    replace: this input becomes the whole store; the others are forgotten.

    Raises ValueError for an input, a model or an option that does not fit, before anything is
    embedded, and where too many rows are bad (`max_skipped`) or too many items would leave the
    store (`max_removed`), before it is changed.
    """
    if engine == "ray" and device is not None:
        raise ValueError(
            f"device {device!r} belongs to one machine, and Ray chooses a device for each model; "
            "leave it out."
        )
    began = time.monotonic()
    folder = embeddings or default_folder(store_url)
    with ranks_of_run() as ranks, alone(folder, ranks):
        planned = make_plan(
            model,
            config,
            store_url,
            folder,
            engine=engine,
            device=device,
            dtype=dtype,
            overwrite=overwrite,
            ranks=ranks,
        )
        plan = planned.plan
        inputs = read_inputs(folder)
        others = _other_inputs(plan, inputs, replace)
        others = fitting_inputs(plan, others, overwrite, warn=ranks.rank == 0)

        jobs = make_jobs(plan, ranks.share(planned.partitions))
        todo = unfinished(plan, jobs)
        _embed(planned, todo, engine, model, dtype, show_progress)
        embedded = sum(ranks.gather({str(ranks.rank): len(todo)}).values())
        done = ranks.gather(
            {job.partition.name: (job, _count(plan, job)) for job in jobs}
        )

        filled = Filled(0, 0, 0, {})
        shared = 0
        repeated = 0
        if ranks.rank == 0:
            ordered = [done[partition.name][0] for partition in planned.partitions]
            entry = check_input(
                plan, ordered, inputs, overwrite=overwrite, replace=replace
            )
            # From here on the store changes.
            if overwrite or bound_schema(store_url) is None:
                make_store(
                    store_url, folder, plan.schema, overwrite=store_exists(store_url)
                )
            write_inputs(folder, [*others, entry])
            filled = update_store(store_url, folder, show_progress)
            clean_up(folder, inputs, entry.input)
            shared = _count_shared(folder, others, entry, filled)
            repeated = entry.repeated
    counts = [of_file for _, of_file in done.values()]
    return Summary(
        items=sum(of_file.items for of_file in counts) - repeated,
        skipped=sum(of_file.skipped for of_file in counts) + repeated,
        without_image=sum(of_file.without_image for of_file in counts),
        embedded=embedded,
        reused=len(planned.partitions) - embedded,
        stored=filled.stored,
        kept=filled.kept,
        removed=filled.removed,
        seconds=time.monotonic() - began,
        rank=ranks.rank,
        shared=shared,
    )


def dry_run(
    model: str,
    config: IndexConfig,
    store_url: str,
    *,
    embeddings: Path | None = None,
    device: str | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    replace: bool = False,
    show_progress: bool | None = None,
) -> Preview:
    """What `index` would do: reads and decodes the input, but embeds and writes nothing.

    Raises ValueError for what `index` would refuse before it embeds; `refused` of the result says
    what it would refuse after that.
    """
    folder = embeddings or default_folder(store_url)
    plan, partitions, _ = make_plan(
        model,
        config,
        store_url,
        folder,
        device=device,
        dtype=dtype,
        overwrite=overwrite,
    )
    inputs = read_inputs(folder)
    others = _other_inputs(plan, inputs, replace)
    others = fitting_inputs(plan, others, overwrite, warn=True)
    in_store = [] if bound_schema(store_url) is None else inputs
    seen = preview(plan, make_jobs(plan, partitions), in_store, others, show_progress)
    refused = refuse_skipped(
        plan, seen.skipped, seen.without_image, seen.rows, seen.first_reason
    )
    if refused is None and not overwrite:
        refused = refuse_removed(plan, inputs, seen.hashes, replace)
    return dataclasses.replace(seen, refused=str(refused or ""))


def _other_inputs(
    plan: Plan, inputs: Sequence[IndexedInput], replace: bool
) -> list[IndexedInput]:
    """The inputs that stay in the store beside that of the plan."""
    if replace:
        return []
    return [entry for entry in inputs if entry.input != plan.config.input]


def _embed(
    planned: Planned,
    jobs: Sequence[Job],
    engine: str,
    model: str,
    dtype: str,
    show_progress: bool | None,
) -> None:
    rows = sum(job.partition.rows for job in jobs)
    with progress_bar("embedding", rows, show_progress) as advance:
        if engine == "ray":
            from .ray import embed_jobs_on_ray

            embed_jobs_on_ray(planned.plan, jobs, model, dtype, advance)
        else:
            embed_jobs(planned.plan, jobs, planned.embedder, advance)


def _count(plan: Plan, job: Job) -> _Counts:
    head = read_head(find_file(plan.folder, job.file))
    without_image = sum(bool(fault.get("kept")) for fault in head["skipped"])
    skipped = len(head["skipped"]) - without_image
    return _Counts(head["items"], skipped, without_image)


def _count_shared(
    folder: Path, others: Sequence[IndexedInput], entry: IndexedInput, filled: Filled
) -> int:
    """How many items of an input others have too."""
    left_out = set[str]()
    for other in others:
        for name in other.files:
            left_out |= filled.left_out.get(folder / name, frozenset())
    if not left_out:
        return 0
    return sum(
        len(left_out.intersection(read_ids(folder / name))) for name in entry.files
    )
