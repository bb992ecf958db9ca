"""`unimodal index`: an input -> Parquet files of embeddings, the source of truth -> a store.

The folder of the embeddings is that of one store. It holds a file for each unit of each input that went into it,
index.json (the schema of the store), skipped.jsonl (what is not in it, and why) and which files are in the store.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unimodal.progress import progress_bar
from unimodal.shards.storage import is_remote

from .bulk import Plan, embed_jobs, put_aside, read_columns, read_head, unfinished
from .filling import Filled, check_folder, fill, make_store
from .items import VECTORS, IndexConfig, surveyed, units
from .ranks import alone, ranks_of_run
from .reading import Unit
from .rows import arrow_schema
from .schema import FieldType, Schema
from .skipped import SKIPPED, listed, refusal, too_many, write_skipped
from .store import open_store, store_exists, store_type

if TYPE_CHECKING:
    from unimodal.embedder import Embedder


@dataclass(frozen=True)
class Summary:
    """What came of indexing; items that were skipped or have no image are listed in skipped.jsonl with the reasons."""

    items: int  # of this input
    skipped: int  # rows of this input
    without_image: int  # items of this input whose image cannot be read
    embedded: int  # units
    reused: int  # units that were there
    stored: int  # items of the store that were new to it, or have changed
    kept: int  # items of the store that are as they were
    removed: int  # items that were taken out of the store
    seconds: float
    rank: int = 0  # of this process among those of the run; the first has filled the store


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
    show_progress: bool | None = None,
) -> Summary:
    """Embed what is new or changed of an input, and bring a store to the same state.

    embeddings: the folder of the Parquet files, of this store alone; default: beside the store. They are kept whatever
        happens to the store: it is filled from them again without embedding anything.
    engine: "process" is this process, or under torchrun each of them its share; "ray" uses a Ray cluster, and no
        device of this process.
    overwrite: make the store anew.

    Raises ValueError for an input, a model or an option that does not fit, before anything is embedded.
    """
    from unimodal.embedder import load

    if engine == "ray" and device is not None:
        raise ValueError(f"device {device!r} is of one machine, and Ray gives each model one of its own; leave it out.")
    began, folder = time.monotonic(), embeddings or default_folder(store_url)
    folder.mkdir(parents=True, exist_ok=True)
    with ranks_of_run() as ranks, alone(folder, ranks):
        there = ranks.from_first(lambda: None if overwrite else _schema_of(store_url))
        config = config.model_copy(update={"input": _whole(config.input)})
        cut = units(config)
        config, types = surveyed(config, cut, there.fields if there is not None else {})
        place = "cpu" if engine == "ray" else device or ranks.device  # for Ray its actors load the model, each its own
        embedder = load(model, device=place, dtype=dtype, calibrated=config.calibrated)
        schema = _schema(model, dtype, config, types, embedder)
        store = store_type(store_url)
        limits = store.max_text_bytes, store.max_strings
        plan = Plan(config, schema, folder, embedder.config.preprocess, embedder.modalities, *limits)
        if there is not None:
            _check_same(store_url, there, schema)
            check_folder(store_url, there, folder)
        _refuse_mixture(plan, cut)
        if there is None and ranks.rank == 0 and not store_exists(store_url):
            make_store(store_url, folder, schema)  # now, for it may lack an ability that the schema asks for
        todo = unfinished(plan, ranks.share(cut))
        with progress_bar("embedding", sum(job.unit.rows for job in todo), show_progress) as advance:
            if engine == "ray":
                from .on_ray import embed_jobs_on_ray

                embed_jobs_on_ray(plan, todo, model, dtype, advance)
            else:
                embed_jobs(plan, todo, embedder, advance)
        embedded = ranks.total(len(todo))
        filled = Filled(0, 0, 0, {})
        if ranks.rank == 0:
            filled = _finish(plan, cut, store_url, overwrite, show_progress)
    duplicates = sum(len(filled.duplicates.get(plan.file(unit), ())) for unit in cut)
    heads = [read_head(plan.file(unit)) for unit in cut]
    return Summary(
        sum(head["items"] for head in heads) - duplicates,
        sum(not one.get("kept") for head in heads for one in head["skipped"]) + duplicates,
        sum(bool(one.get("kept")) for head in heads for one in head["skipped"]), embedded,
        len(cut) - embedded, filled.stored, filled.kept, filled.removed, time.monotonic() - began, ranks.rank,
    )  # fmt: skip


def default_folder(store_url: str) -> Path:
    """Where the embeddings of a store go: beside it, not in it, for they outlive it."""
    scheme, colon, place = store_url.partition("://")
    if not colon:
        place = store_url
    elif scheme.startswith("milvus") and not place.startswith("/"):  # a server
        place = "".join(letter if letter.isalnum() else "_" for letter in place)
    path = Path(place.rstrip("/"))
    return path.with_name(path.name.removesuffix(".db") + ".embeddings")


def _schema(model: str, dtype: str, config: IndexConfig, types: Mapping[str, FieldType], embedder: Embedder) -> Schema:
    has = {kind for kind, fields in (("text", config.text), ("image", config.image)) if fields}
    for name in set(config.vectors) & {"text", "image"}:
        if name not in has:
            raise ValueError(f"vectors {name!r} are wanted and no field for them is named; add {name}=FIELD.")
        if name not in embedder.modalities:
            raise ValueError(f"vectors {name!r} are wanted and {model} embeds {min(embedder.modalities)} alone.")
    usable = has & embedder.modalities
    if not usable:
        raise ValueError(
            f"the input has {' and '.join(sorted(has))}, and {model} embeds {min(embedder.modalities)} alone."
        )
    vectors = config.vectors or tuple(name for name in VECTORS if name in usable or usable == {"text", "image"})
    about = {"model": _absolute(model), "dtype": dtype, "calibrated": str(config.calibrated).lower()}
    if "fused" in vectors:
        about["weight"] = str(config.weight)
    if config.parent:
        about["parent"] = config.parent_field
    return Schema(
        dim=embedder.config.embed_dim, fingerprint=embedder.fingerprint(), vectors=vectors, fields=types,
        words=bool(config.word_fields), thumbnails=bool(config.image and config.thumbnail),
        prefix_dims=config.prefix_dims, binary=config.binary, about=about,
    )  # fmt: skip


def _absolute(model: str) -> str:
    """A model that is a folder, under a name that holds wherever one stands."""
    kind, colon, name = model.rpartition(":")
    return f"{kind}{colon}{Path(name).resolve()}" if Path(name).is_dir() else model


def _whole(name: str) -> str:
    """An input by the one name that it has wherever one stands and however it is spelled."""
    return name if name.startswith("hf:") or is_remote(name) else os.path.abspath(name)


def _schema_of(store_url: str) -> Schema | None:
    if not store_exists(store_url):
        return None
    store = open_store(store_url)
    store.close()
    return store.schema


def _check_same(store_url: str, there: Schema, wanted: Schema) -> None:
    """Raises ValueError where a store is of another model, or has other vectors or fields."""
    if there.fingerprint != wanted.fingerprint:
        models = [
            f"{schema.about.get('model', 'a model')} (fingerprint {schema.fingerprint[:16]})"
            for schema in (there, wanted)
        ]
        raise ValueError(
            f"{store_url} was made with {models[0]}, and this is {models[1]}; name another store, or add --overwrite "
            "to make it anew."
        )
    for name in ("dim", "vectors", "fields", "words", "thumbnails", "prefix_dims", "binary", "weight"):
        before, now = (getattr(schema, name, schema.about.get(name)) for schema in (there, wanted))
        if before != now:
            raise ValueError(
                f"{store_url} was made with {name} {before}, and this is {now}; add --overwrite to make it anew."
            )


def _refuse_mixture(plan: Plan, cut: Sequence[Unit]) -> None:
    """Raises ValueError where what the folder has of another input does not go into one store with this."""
    made_anew = {plan.file(unit) for unit in cut}
    columns = {column.name: column.type for column in arrow_schema(plan.schema, copies=False)}
    for file in sorted(set(plan.folder.glob("*.parquet")) - made_anew):
        head = read_head(file)
        if head.get("input") == plan.config.input:
            continue
        if head.get("model") != plan.model:
            other = "another model or weight"
        elif read_columns(file) != columns:
            other = "other fields or vectors"
        else:
            continue
        raise ValueError(
            f"{file}, of another input, has {other}; choose another folder of embeddings, or remove what "
            f"{head.get('input', 'an unknown input')} has there and index it again."
        )


def _finish(plan: Plan, cut: Sequence[Unit], store_url: str, overwrite: bool, show_progress: bool | None) -> Filled:
    """What is done once all files are there: put away those that are no more, fill the store, list what was skipped."""
    files, heads = {plan.file(unit) for unit in cut}, dict[Path, dict[str, Any]]()
    for file in sorted(plan.folder.glob("*.parquet")):
        head = read_head(file)
        if file in files or head["input"] != plan.config.input:
            heads[file] = head
        else:
            put_aside(file)
    skipped = [line for head in heads.values() for line in listed(head)]
    write_skipped(plan.folder, skipped)
    _check_all_skipped(plan, [head for file, head in heads.items() if file in files])
    if overwrite:
        make_store(store_url, plan.folder, plan.schema, overwrite=True)
    filled = fill(store_url, plan.folder, show_progress=show_progress)
    reason = "its id is that of an item in a file before it too"
    twice = [
        {"input": heads[file]["input"], "file": file.name, "row": None, "id": one, "reason": reason}
        for file, ids in filled.duplicates.items()
        for one in sorted(ids)
    ]
    write_skipped(plan.folder, [*skipped, *twice])
    return filled


def _check_all_skipped(plan: Plan, heads: Sequence[dict[str, Any]]) -> None:
    """heads: of the input's files."""
    name, allowed = plan.config.input, plan.config.max_skipped
    skipped, num_items = [one for head in heads for one in head["skipped"]], sum(head["items"] for head in heads)
    if not num_items:
        raise ValueError(
            f"all {len(skipped):,} rows of {name} had to be skipped; the first: {skipped[0]['reason']}. "
            f"{plan.folder / SKIPPED} has the reasons of all."
        )
    num_rows = num_items + sum(not one.get("kept") for one in skipped)
    if too_many(len(skipped), num_rows, allowed):
        what = (
            f"{len(skipped):,} of {num_rows:,} rows of {name} cannot be indexed, or have an image that cannot be read"
        )
        raise refusal(what, plan.folder, allowed)
