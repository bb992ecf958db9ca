"""What an index run does, decided before anything is embedded or written."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import xxhash

from unimodal.model_config import PreprocessConfig
from unimodal.shards.storage import is_remote
from unimodal.tables.fields import RULES
from unimodal.tables.readers import table_paths
from unimodal.tables.types import FieldType

from ..stores.columns import arrow_schema
from ..stores.open import check_store, open_store, store_exists, store_type
from ..stores.schema import Schema
from .fill import check_folder
from .folder import FORMAT_VERSION, IndexedInput, find_file, read_heads
from .items import VECTORS, IndexConfig, cut_input, image_identity, infer_types
from .processes import Ranks
from .reading import Partition
from .reuse import read_columns

if TYPE_CHECKING:
    from unimodal.embedder import Embedder

# Options that change neither the vectors nor the rows of a partition's file.
_NOT_IN_A_FILE = {
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
    """What a run does; the same in each of its processes."""

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
        """What vectors depend on besides the texts and images.

        The weight of the image counts only where text and image are summed.
        """
        weight = self.config.weight if "fused" in self.schema.vectors else ""
        return f"{self.schema.fingerprint} {weight}"

    def digest(self, partition: Partition) -> str:
        """A checksum of all that a partition's file depends on.

        It covers the input's name: a file that two inputs name is embedded for each.
        """
        values = self.config.model_dump(mode="json", exclude=_NOT_IN_A_FILE)
        made_of = [
            self.config.input,
            FORMAT_VERSION,
            RULES,
            self.model,
            list(self.schema.vectors),
            dict(self.schema.fields),
            values,
            self.max_text_bytes,
            self.max_strings,
            partition.identity,
            partition.rows,
            image_identity(partition, self.config),
            _states_of_tables(self.config),
        ]
        return xxhash.xxh3_128_hexdigest(json.dumps(made_of, sort_keys=True).encode())


@dataclass(frozen=True)
class Job:
    """A partition to embed, and a checksum of what its file is made of now."""

    partition: Partition
    digest: str

    @property
    def file(self) -> str:
        """The name of its Parquet file: changed content makes another file."""
        return f"{self.partition.name}.{self.digest}.parquet"


class Planned(NamedTuple):
    """The plan of a run, the partitions of its input, and the model."""

    plan: Plan
    partitions: list[Partition]
    embedder: Embedder


def make_plan(
    model: str,
    config: IndexConfig,
    store_url: str,
    folder: Path,
    *,
    engine: str = "process",
    device: str | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    ranks: Ranks | None = None,
) -> Planned:
    """Read what a run needs to know of its store, input and model.

    Raises ValueError where they do not fit together.
    """
    from unimodal.embedder import load

    ranks = ranks or Ranks()
    # Raises for a store that unimodal did not make.
    bound = ranks.from_first(lambda: bound_schema(store_url))
    if overwrite:
        bound = None

    config = config.model_copy(update={"input": absolute_input(config.input)})
    partitions = cut_input(config)
    config, types = infer_types(config, partitions, bound.fields if bound else {})

    # Ray's actors load the model themselves, each on its own device.
    place = "cpu" if engine == "ray" else device or ranks.device
    embedder = load(model, device=place, dtype=dtype, calibrated=config.calibrated)
    schema = _make_schema(model, dtype, config, types, embedder)
    if config.image and "image" not in embedder.modalities and ranks.rank == 0:
        warnings.warn(
            f"{model} embeds text alone: the images of {config.image!r} are not embedded, "
            "and an item is found by its text; leave image out, or take a model of text and image.",
            stacklevel=3,
        )

    if bound is not None:
        _check_same(store_url, bound, schema)
        check_folder(store_url, bound, folder)
    else:
        check_store(store_url, schema)
    store = store_type(store_url)
    plan = Plan(
        config,
        schema,
        folder,
        embedder.config.preprocess,
        embedder.modalities,
        store.max_text_bytes,
        store.max_strings,
    )
    return Planned(plan, partitions, embedder)


def make_jobs(plan: Plan, partitions: Sequence[Partition]) -> list[Job]:
    """The partitions, each with a checksum of what its file is made of."""
    return [Job(partition, plan.digest(partition)) for partition in partitions]


def bound_schema(store_url: str) -> Schema | None:
    """The schema that new items of a store must fit; None where the store holds nothing."""
    if not store_exists(store_url):
        return None
    store = open_store(store_url)
    try:
        return store.schema if store.count() else None
    finally:
        store.close()


def absolute_input(name: str) -> str:
    """The name of an input that does not depend on the working directory."""
    if name.startswith("hf:") or is_remote(name):
        return name
    return os.path.abspath(name)


def fitting_inputs(
    plan: Plan, others: Sequence[IndexedInput], overwrite: bool, *, warn: bool
) -> list[IndexedInput]:
    """The other inputs of a store that can stay in it beside this one.

    A store that is made again (`overwrite`) is made without those that do not fit.

    warn: name the inputs that are left out.

    Raises ValueError for an input that does not fit, unless the store is made again, and for one
    whose file is missing or broken.
    """
    fitting = []
    for other in others:
        difference = _find_difference(plan, other)
        if not difference:
            fitting.append(other)
            continue
        if not overwrite:
            raise ValueError(
                f"{plan.folder} holds {other.input} too, indexed with {difference}; choose another "
                "folder with --embeddings, or add --overwrite to make the store again without it."
            )
        if warn:
            warnings.warn(
                f"{other.input} is left out of the store, because it was indexed with "
                f"{difference}; index it again.",
                stacklevel=3,
            )
    return fitting


def _find_difference(plan: Plan, other: IndexedInput) -> str:
    """What keeps an input out of the store of this plan; empty where it fits."""
    schema = arrow_schema(plan.schema, copies=False)
    columns = {column.name: column.type for column in schema}
    heads = read_heads(plan.folder, other)
    if any(head["model"] != plan.model for head in heads):
        return "another model or weight"
    files = [find_file(plan.folder, name) for name in other.files]
    if any(read_columns(file) != columns for file in files):
        return "other fields or vectors"
    return ""


def _make_schema(
    model: str,
    dtype: str,
    config: IndexConfig,
    types: Mapping[str, FieldType],
    embedder: Embedder,
) -> Schema:
    vectors = _choose_vectors(model, config, embedder)
    about = {
        "model": _absolute_model(model),
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


def _choose_vectors(
    model: str, config: IndexConfig, embedder: Embedder
) -> tuple[str, ...]:
    """The vectors of each item: `config.vectors`, or all that input and model allow.

    Raises ValueError where they do not allow it.
    """
    has = set()
    if config.text:
        has.add("text")
    if config.image:
        has.add("image")

    for name in set(config.vectors) & {"text", "image"}:
        if name not in has:
            raise ValueError(
                f"vectors has {name!r}, but no field holds the {name}; add {name}=FIELD."
            )
        if name not in embedder.modalities:
            raise ValueError(
                f"vectors has {name!r}, but {model} embeds {min(embedder.modalities)} alone; "
                "leave it out."
            )
    usable = has & embedder.modalities
    if not usable:
        raise ValueError(
            f"the input has {' and '.join(sorted(has))}, but {model} embeds "
            f"{min(embedder.modalities)} alone; choose another model."
        )
    if config.vectors:
        return config.vectors
    if usable == {"text", "image"}:
        return VECTORS
    return tuple(name for name in VECTORS if name in usable)


def _absolute_model(model: str) -> str:
    """The name of a model; of a folder the absolute path."""
    kind, colon, name = model.rpartition(":")
    return f"{kind}{colon}{Path(name).resolve()}" if Path(name).is_dir() else model


def _check_same(store_url: str, bound: Schema, wanted: Schema) -> None:
    """Raises ValueError where a store has another model, other vectors or other fields."""
    if bound.fingerprint != wanted.fingerprint:
        raise ValueError(
            f"{store_url} was made with {_name_model(bound)}, and this is {_name_model(wanted)}; "
            "name another store, or add --overwrite to make it again."
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
        before = getattr(bound, name, bound.about.get(name))
        now = getattr(wanted, name, wanted.about.get(name))
        if before != now:
            raise ValueError(
                f"{store_url} was made with {name} {before}, and this is {now}; add "
                "--overwrite to make it again."
            )


def _name_model(schema: Schema) -> str:
    model = schema.about.get("model", "a model")
    return f"{model} (fingerprint {schema.fingerprint[:16]})"


def _states_of_tables(config: IndexConfig) -> list[tuple[int, int]]:
    """Size and time of the files that rows are joined with or excluded by.

    A data set of the Hub counts by its name alone.
    """
    states = []
    for place in (*config.join.values(), *config.exclude.values()):
        name = place.rpartition(":")[0]
        if name.startswith("hf:"):
            continue
        for path in table_paths(name, Path()):
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in files:
                status = file.stat()
                states.append((status.st_size, status.st_mtime_ns))
    return states
