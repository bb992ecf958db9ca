"""`unimodal index`: an input -> Parquet files of embeddings, the source of truth -> a store.

The folder of the embeddings is that of one store. A run embeds first, then looks at all that it
found, and may refuse it; only then is the input put into the folder's list, and the store brought
to the state of the folder.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unimodal.config import nearest
from unimodal.progress import progress_bar
from unimodal.shards.storage import is_remote
from unimodal.tables.files import written_name

from ...tables.types import FieldType
from ..stores.columns import arrow_schema
from ..stores.open import check_store, open_store, store_exists, store_type
from ..stores.schema import Schema
from .embed import Job, Plan, embed_jobs, jobs_of, read_columns, unfinished
from .fill import (
    Filled,
    check_folder,
    files_by_rank,
    fill,
    find_repeated,
    hash_ids,
    make_store,
    read_ids,
)
from .folder import (
    IndexedInput,
    find_file,
    now,
    read_head,
    read_heads,
    read_inputs,
    remove_unlisted,
    unlisted,
    write_inputs,
)
from .items import VECTORS, IndexConfig, surveyed, units
from .preview import Preview, preview
from .processes import Ranks, alone, ranks_of_run
from .reading import Unit
from .skipped import SKIPPED, listed, refusal, too_many, write_skipped

if TYPE_CHECKING:
    from unimodal.embedder import Embedder

# that many items may leave a store whatever their share: small inputs change by more
MIN_REMOVED = 10


@dataclass(frozen=True)
class Summary:
    """What indexing did; items that were skipped or have no image are listed in _skipped.jsonl with
    the reasons.
    """

    items: int  # of this input
    skipped: int  # rows of this input
    without_image: int  # items of this input whose image cannot be read
    embedded: int  # units
    reused: int  # units that were there
    stored: int  # items of the store that were new to it, or have changed
    kept: int  # items of the store that are as they were
    removed: int  # items that were taken out of the store
    seconds: float
    rank: int = (
        0  # of this process among those of the run; the first has filled the store
    )
    shared: int = (
        0  # items of this input that another has too: this one's are in the store
    )


class _Found(NamedTuple):
    """What the file of a unit holds."""

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
        They are kept whatever happens to the store: it is filled from them again without embedding
        anything.
    engine: "process" is this process, or under torchrun each of them its share; "ray" uses a Ray
        cluster, and no device of this process.
    overwrite: make the store again; inputs that were indexed otherwise are left out, with a
        warning.
    replace: this input is the whole store; the others are forgotten.

    Raises ValueError for an input, a model or an option that does not fit, before anything is
    embedded, and where too many rows are bad (`max_skipped`) or too many items would leave the
    store (`max_removed`), before it is changed.
    """
    if engine == "ray" and device is not None:
        raise ValueError(
            f"device {device!r} is of one machine, and Ray gives each model one of its "
            "own; leave it out."
        )
    began = time.monotonic()
    folder = embeddings or default_folder(store_url)
    with ranks_of_run() as ranks, alone(folder, ranks):
        plan, cut, embedder = _plan(
            model, config, store_url, folder, engine, device, dtype, overwrite, ranks
        )
        inputs = read_inputs(folder)
        others = (
            [] if replace else [one for one in inputs if one.input != plan.config.input]
        )
        others = _that_fit(plan, others, overwrite, warn=ranks.rank == 0)
        jobs = jobs_of(plan, ranks.share(cut))
        todo = unfinished(plan, jobs)
        with progress_bar(
            "embedding", sum(job.unit.rows for job in todo), show_progress
        ) as advance:
            if engine == "ray":
                from .ray import embed_jobs_on_ray

                embed_jobs_on_ray(plan, todo, model, dtype, advance)
            else:
                embed_jobs(plan, todo, embedder, advance)
        embedded = sum(ranks.gather({str(ranks.rank): len(todo)}).values())
        found = ranks.gather({job.unit.name: (job, _found(plan, job)) for job in jobs})
        ordered = [found[unit.name][0] for unit in cut]
        filled = Filled(0, 0, 0, {})
        shared = 0
        repeated = 0
        if ranks.rank == 0:
            entry = _checked(plan, ordered, inputs, overwrite, replace)
            # From here on the store changes.
            if overwrite or _is_unbound(store_url):
                make_store(
                    store_url, folder, plan.schema, overwrite=store_exists(store_url)
                )
            write_inputs(folder, [*others, entry])
            filled = _fill(store_url, folder, show_progress)
            _clean_up(folder, inputs, entry.input)
            shared = _count_shared(folder, others, entry, filled)
            repeated = entry.repeated
    return Summary(
        items=sum(one.items for _, one in found.values()) - repeated,
        skipped=sum(one.skipped for _, one in found.values()) + repeated,
        without_image=sum(one.without_image for _, one in found.values()),
        embedded=embedded,
        reused=len(cut) - embedded,
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
    """What `index` would do, read and decoded, but nothing embedded and nothing written.

    Raises ValueError for what `index` would refuse before it embeds; what it would refuse after
    that is in the answer.
    """
    folder = embeddings or default_folder(store_url)
    plan, cut, _ = _plan(
        model, config, store_url, folder, "process", device, dtype, overwrite, Ranks()
    )
    inputs = read_inputs(folder)
    others = (
        [] if replace else [one for one in inputs if one.input != plan.config.input]
    )
    others = _that_fit(plan, others, overwrite, warn=True)
    there = [] if _is_unbound(store_url) else inputs
    found = preview(plan, jobs_of(plan, cut), there, others, show_progress)
    refused = _skipped_refusal(
        plan, found.skipped, found.without_image, found.rows, found.first_reason
    )
    if refused is None and not overwrite:
        refused = _removed_refusal(plan, inputs, found.hashes, replace)
    return dataclasses.replace(found, refused=str(refused or ""))


def forget(
    store_url: str,
    name: str,
    *,
    embeddings: Path | None = None,
    show_progress: bool | None = None,
) -> Filled:
    """Take an input out of a store. Items that an older input has too come back as they are there.

    name: as `index` had it, or as `--list` shows it. Raises ValueError for an input that is not
    there, and where a file of another input is missing or broken.
    """
    folder = embeddings or default_folder(store_url)
    check_listed(store_url, folder)
    with alone(folder, Ranks()):
        inputs = read_inputs(folder)
        unfinished_ones = set(unlisted(folder, inputs)) - {""}
        there = [*(one.input for one in inputs), *unfinished_ones]
        wanted = next(
            (one for one in there if name in (one, written_name(one))), _whole(name)
        )
        if wanted not in there:
            names = [written_name(one) for one in there]
            raise ValueError(
                f"{store_url} has no input {name!r}; {nearest(name, names)}"
            )
        kept = [one for one in inputs if one.input != wanted]
        for one in kept:
            read_heads(folder, one)  # raises while nothing has changed
        write_inputs(folder, kept)
        filled = _fill(store_url, folder, show_progress)
        _clean_up(folder, inputs, wanted)
    return filled


@dataclass(frozen=True)
class InputState:
    """An input of a store, and how much of it is there."""

    entry: IndexedInput
    in_store: int  # items that no newer input has


def list_inputs(
    store_url: str, *, embeddings: Path | None = None
) -> tuple[list[InputState], dict[str, int]]:
    """The inputs of a store, oldest indexing first, and how many files each has of runs that did
    not finish.

    Raises ValueError where a file of an input is missing or broken.
    """
    folder = embeddings or default_folder(store_url)
    check_listed(store_url, folder)
    inputs = read_inputs(folder)
    for one in inputs:
        read_heads(folder, one)  # raises for what cannot be read
    files = files_by_rank(folder, inputs)
    left_out = find_repeated(files, [hash_ids(file) for file in files])
    states = []
    for one in inputs:
        out = sum(len(left_out.get(find_file(folder, name), ())) for name in one.files)
        states.append(
            InputState(
                one, one.items + one.repeated - out if one.indexed else one.items - out
            )
        )
    others = {
        name: len(found) for name, found in unlisted(folder, inputs).items() if name
    }
    return states, others


def check_listed(store_url: str, folder: Path) -> None:
    """Raises ValueError where there is no folder of embeddings for a store."""
    if not folder.is_dir():
        raise ValueError(
            f"{store_url} has no embeddings in {folder}; give their folder with "
            "--embeddings, or index first."
        )


def default_folder(store_url: str) -> Path:
    """Where the embeddings of a store go: beside it, not in it, for they outlive it."""
    scheme, colon, place = store_url.partition("://")
    if not colon:
        place = store_url
    elif scheme.startswith("milvus") and not place.startswith("/"):  # a server
        place = "".join(letter if letter.isalnum() else "_" for letter in place)
    path = Path(place.rstrip("/"))
    return path.with_name(path.name.removesuffix(".db") + ".embeddings")


def _schema(
    model: str,
    dtype: str,
    config: IndexConfig,
    types: Mapping[str, FieldType],
    embedder: Embedder,
) -> Schema:
    has = {
        kind
        for kind, fields in (("text", config.text), ("image", config.image))
        if fields
    }
    for name in set(config.vectors) & {"text", "image"}:
        if name not in has:
            raise ValueError(
                f"vectors {name!r} are wanted and no field for them is named; add {name}=FIELD."
            )
        if name not in embedder.modalities:
            raise ValueError(
                f"vectors {name!r} are wanted and {model} embeds {min(embedder.modalities)} alone."
            )
    usable = has & embedder.modalities
    if not usable:
        raise ValueError(
            f"the input has {' and '.join(sorted(has))}, and {model} embeds "
            f"{min(embedder.modalities)} alone."
        )
    vectors = config.vectors or tuple(
        name for name in VECTORS if name in usable or usable == {"text", "image"}
    )
    about = {
        "model": _absolute(model),
        "dtype": dtype,
        "calibrated": str(config.calibrated).lower(),
    }
    if "fused" in vectors:
        about["weight"] = str(config.weight)
    if config.parent:
        about["parent"] = config.parent_field
    return Schema(
        dim=embedder.config.embed_dim,
        fingerprint=embedder.fingerprint(),
        vectors=vectors,
        fields=types,
        words=bool(config.word_fields),
        thumbnails=bool(config.image and config.thumbnail),
        prefix_dims=config.prefix_dims,
        binary=config.binary,
        about=about,
    )


def _absolute(model: str) -> str:
    """A model that is a folder, under a name that holds wherever one stands."""
    kind, colon, name = model.rpartition(":")
    return f"{kind}{colon}{Path(name).resolve()}" if Path(name).is_dir() else model


def _whole(name: str) -> str:
    """An input by the one name that it has wherever one stands and however it is spelled."""
    return name if name.startswith("hf:") or is_remote(name) else os.path.abspath(name)


def _plan(
    model: str,
    config: IndexConfig,
    store_url: str,
    folder: Path,
    engine: str,
    device: str | None,
    dtype: str,
    overwrite: bool,
    ranks: Ranks,
) -> tuple[Plan, list[Unit], Embedder]:
    """What is decided before anything is read or written, the units of the input, and the model.

    Raises ValueError for what does not fit.
    """
    from unimodal.embedder import load

    there = ranks.from_first(
        lambda: _schema_of(store_url)
    )  # raises for what is not ours to overwrite
    there = None if overwrite else there
    config = config.model_copy(update={"input": _whole(config.input)})
    cut = units(config)
    config, types = surveyed(config, cut, there.fields if there is not None else {})
    # For Ray the model is on no device of this process: its actors load it, each its own.
    place = "cpu" if engine == "ray" else device or ranks.device
    embedder = load(model, device=place, dtype=dtype, calibrated=config.calibrated)
    schema = _schema(model, dtype, config, types, embedder)
    store = store_type(store_url)
    limits = store.max_text_bytes, store.max_strings
    plan = Plan(
        config, schema, folder, embedder.config.preprocess, embedder.modalities, *limits
    )
    if there is not None:
        _check_same(store_url, there, schema)
        check_folder(store_url, there, folder)
    else:
        check_store(store_url, schema)
    return plan, cut, embedder


def _schema_of(store_url: str) -> Schema | None:
    """The schema that a store binds what comes into it to; None where it holds nothing."""
    if not store_exists(store_url):
        return None
    store = open_store(store_url)
    try:
        return store.schema if store.count() else None
    finally:
        store.close()


def _is_unbound(store_url: str) -> bool:
    return _schema_of(store_url) is None


def _check_same(store_url: str, there: Schema, wanted: Schema) -> None:
    """Raises ValueError where a store is of another model, or has other vectors or fields."""
    if there.fingerprint != wanted.fingerprint:
        models = [
            f"{schema.about.get('model', 'a model')} (fingerprint {schema.fingerprint[:16]})"
            for schema in (there, wanted)
        ]
        raise ValueError(
            f"{store_url} was made with {models[0]}, and this is {models[1]}; name another "
            "store, or add --overwrite to make it again."
        )
    for name in (
        "dim",
        "vectors",
        "fields",
        "words",
        "thumbnails",
        "prefix_dims",
        "binary",
        "weight",
    ):
        before, now = (
            getattr(schema, name, schema.about.get(name)) for schema in (there, wanted)
        )
        if before != now:
            raise ValueError(
                f"{store_url} was made with {name} {before}, and this is {now}; add "
                "--overwrite to make it again."
            )


def _that_fit(
    plan: Plan, others: Sequence[IndexedInput], overwrite: bool, *, warn: bool
) -> list[IndexedInput]:
    """The other inputs that go into one store with this; those that do not are left out of one that
    is made again.

    warn: say which are left out. Raises ValueError for one that does not fit, unless the store is
    made again, and for one whose file is missing or broken.
    """
    columns = {
        column.name: column.type for column in arrow_schema(plan.schema, copies=False)
    }
    fitting = []
    for one in others:
        files = [find_file(plan.folder, name) for name in one.files]
        if any(head["model"] != plan.model for head in read_heads(plan.folder, one)):
            reason = "another model or weight"
        elif any(read_columns(file) != columns for file in files):
            reason = "other fields or vectors"
        else:
            fitting.append(one)
            continue
        if not overwrite:
            raise ValueError(
                f"{plan.folder} has {one.input} too, indexed with {reason}; choose another "
                "folder with --embeddings, or add --overwrite to make the store again without "
                "it."
            )
        if not warn:
            continue
        warnings.warn(
            f"{one.input} is left out of the store, for it was indexed with {reason}; "
            "index it again.",
            stacklevel=3,
        )
    return fitting


def _found(plan: Plan, job: Job) -> _Found:
    head = read_head(find_file(plan.folder, job.file))
    kept = sum(bool(one.get("kept")) for one in head["skipped"])
    return _Found(head["items"], len(head["skipped"]) - kept, kept)


def _checked(
    plan: Plan,
    jobs: Sequence[Job],
    inputs: Sequence[IndexedInput],
    overwrite: bool,
    replace: bool,
) -> IndexedInput:
    """The input as it goes into the list. Raises ValueError where its bad rows or what it removes
    are too much.
    """
    files = [find_file(plan.folder, job.file) for job in jobs]
    hashes = [hash_ids(file) for file in files]
    repeated = sum(map(len, find_repeated(files, hashes).values()))
    heads = [read_head(file) for file in files]
    faults = [one for head in heads for one in head["skipped"]]
    without_image = sum(bool(one.get("kept")) for one in faults)
    skipped = len(faults) - without_image + repeated
    items = sum(map(len, hashes)) - repeated
    names = tuple(job.file for job in jobs)
    entry = IndexedInput(plan.config.input, names, items, skipped, repeated, now())
    first_reason = faults[0]["reason"] if faults else ""
    refused = _skipped_refusal(
        plan, skipped, without_image, items + skipped, first_reason
    )
    if refused is not None:
        others = [one for one in inputs if one.input != entry.input]
        _write_skipped(plan.folder, [*others, entry])
        raise refused
    if not overwrite:
        refused = _removed_refusal(plan, inputs, np.concatenate(hashes), replace)
        if refused is not None:
            raise refused
    return entry


def _skipped_refusal(
    plan: Plan, skipped: int, without_image: int, rows: int, first_reason: str
) -> ValueError | None:
    """The error where too many rows of an input are bad."""
    name = plan.config.input
    allowed = plan.config.max_skipped
    if skipped == rows:
        return ValueError(
            f"all {skipped:,} rows of {name} had to be skipped; the first: {first_reason}. "
            f"{plan.folder / SKIPPED} has the reasons of all."
        )
    bad = skipped + without_image
    if too_many(bad, rows, allowed):
        what = (
            f"{bad:,} of {rows:,} rows of {name} cannot be indexed, or have an image that "
            "cannot be read"
        )
        return refusal(what, plan.folder, allowed)
    return None


def _removed_refusal(
    plan: Plan,
    inputs: Sequence[IndexedInput],
    hashes: NDArray[np.uint64],
    replace: bool,
) -> ValueError | None:
    """The error where too much of what is there would go; hashes: of the ids that the input has
    now.
    """
    name = plan.config.input
    allowed = plan.config.max_removed
    before = [one for one in inputs if replace or one.input == name]
    files = [find_file(plan.folder, file) for one in before for file in one.files]
    old = [
        hash_ids(file) for file in files if read_head(file)
    ]  # what a broken file had is not known
    there = np.unique(np.concatenate([*old, np.zeros(0, np.uint64)]))
    removed = int((~np.isin(there, hashes)).sum())
    if removed <= allowed * len(there) or (allowed and removed <= MIN_REMOVED):
        return None
    what = "the store" if replace else name
    over = (
        f"over max_removed {allowed:g}, and more than {MIN_REMOVED}"
        if allowed
        else "and max_removed is 0"
    )
    return ValueError(
        f"{removed:,} of {len(there):,} items of {what} are not in {name} any more, {over}: the "
        "store is as it was; if they shall go, add "
        f"max_removed={_rounded_up(removed / len(there))}."
    )


def _rounded_up(share: float) -> float:
    """In hundredths, never less: what the error advises has to be enough."""
    return min(1.0, math.ceil(share * 100) / 100)


def _fill(store_url: str, folder: Path, show_progress: bool | None) -> Filled:
    """Bring the store to the state of the folder, and list what is not in it."""
    filled = fill(store_url, folder, show_progress=show_progress)
    _write_skipped(folder, read_inputs(folder))
    return filled


def _write_skipped(folder: Path, inputs: Sequence[IndexedInput]) -> None:
    reason = "its id is that of an item in a file before it too"
    lines = []
    for one in inputs:
        files = [find_file(folder, name) for name in one.files]
        heads = {file: read_head(file) for file in files}
        lines += [line for head in heads.values() for line in listed(head)]
        repeated = (
            find_repeated(files, [hash_ids(file) for file in files])
            if one.repeated
            else {}
        )
        for file, ids in repeated.items():
            where = {
                "input": written_name(one.input),
                "file": heads[file]["label"],
                "row": None,
            }
            lines += [{**where, "id": id_, "reason": reason} for id_ in sorted(ids)]
    write_skipped(folder, lines)


def _clean_up(folder: Path, before: Sequence[IndexedInput], name: str) -> None:
    """Remove what no input needs any more; before: the inputs of before the run. name: the input of
    the run.

    What a run over another input has embedded that has not finished stays.
    """
    inputs = read_inputs(folder)
    listed_names = {one.input for one in inputs}
    gone = [one.input for one in before if one.input not in listed_names]
    remove_unlisted(folder, inputs, [name, *gone])


def _count_shared(
    folder: Path, others: Sequence[IndexedInput], entry: IndexedInput, filled: Filled
) -> int:
    """How many items of an input others have too."""
    left_out = set[str]()
    for one in others:
        for name in one.files:
            left_out |= filled.left_out.get(folder / name, frozenset())
    if not left_out:
        return 0
    return sum(
        len(left_out.intersection(read_ids(folder / name))) for name in entry.files
    )
