"""What of an input becomes an index, and a row as an item: its id, text, image and fields."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import xxhash
from pydantic import Field, field_validator, model_validator

from unimodal.tables.fields import (
    ImageSource,
    Row,
    UnreadableImageError,
    has_field,
    id_of,
    image_folder,
    image_of,
    image_path,
    images_in,
    missing_field,
    names_in,
    text_of,
    value_of,
)
from unimodal.tables.readers import RowFilter, RowsConfig
from unimodal.tables.types import (
    FieldSource,
    FieldType,
    FieldValue,
    cast,
    infer_type,
    named_fields,
)

from .partitions import find_partitions
from .reading import Partition, RawRow, read_partition

VectorName = Literal["text", "image", "fused"]
VECTORS: tuple[VectorName, ...] = ("text", "image", "fused")
# Rows from which types are inferred, and that are looked at first for each field.
NUM_INFERRED = 1000


class ItemsConfig(RowsConfig):
    """An input, and what of its rows is embedded; a text is a field or a template of fields."""

    id: str = ""
    """Field that identifies an item; default: `id` where rows have it, else file and row number."""
    text: tuple[str, ...] = ()
    """Fields or templates of the text, joined by line breaks; of shards the captions."""
    image: str = ""
    """Field of the image: a path (of a list the first), bytes or {"bytes", "path"}."""
    image_root: str = ""
    """Folder of the images, which no path may leave; default: the folder of the input."""
    missing_image: Literal["keep", "skip"] = "keep"
    """Item whose image cannot be read: keep its text, or skip it."""
    max_image_bytes: int = Field(50_000_000, gt=0)
    """Largest size of one image file."""
    max_skipped: float = Field(0.01, ge=0, le=1)
    """Share of skipped items that ends a run, above 100 of them."""
    batch: int = Field(256, gt=0)
    """Items to decode and encode at a time."""

    @field_validator("text", mode="before")
    @classmethod
    def _one_text_is_a_list(cls, fields: object) -> object:
        return (fields,) if isinstance(fields, str) else fields


class IndexConfig(ItemsConfig):
    """An input, and what of it is indexed; a text is a field or a template of fields."""

    fields: dict[str, FieldSource] = Field({})
    """Fields to filter by and to show: [price:float], or {material: a.material}."""
    vectors: tuple[VectorName, ...] = ()
    """Vectors per item; default: text, image and, with both, fused, as input and model allow."""
    weight: float = Field(0.5, ge=0, le=1)
    """Weight of the image in `fused`."""
    words: tuple[str, ...] | None = None
    """Fields for full-text search; default: those of `text`; []: none."""
    parent: str = ""
    """Field of the product that an item is a variant of."""
    thumbnail: int = Field(256, ge=0)
    """Pixels of the longer side of the stored preview; 0: none."""
    prefix_dims: tuple[int, ...] = ()
    """Lengths of truncated copies of each vector, for a first pass."""
    binary: bool = False
    """Store one-bit copies of each vector, for a first pass."""
    calibrated: bool = False
    """Close the gap between texts and images (run `unimodal calibrate` first)."""
    max_removed: float = Field(0.2, ge=0, le=1)
    """Share of its items that a run may remove from the store, above 10 of them."""
    per_unit: int = Field(10_000, gt=0)
    """Rows per file, the unit that is redone after a kill."""

    @field_validator("words", mode="before")
    @classmethod
    def _one_is_a_list(cls, fields: object) -> object:
        return (fields,) if isinstance(fields, str) else fields

    @field_validator("fields", mode="before")
    @classmethod
    def _a_list_has_names(cls, fields: object) -> object:
        return named_fields(fields)

    @field_validator("vectors", mode="before")
    @classmethod
    def _one_vector_is_a_list(cls, vectors: object) -> object:
        return (vectors,) if isinstance(vectors, str) else vectors

    @model_validator(mode="after")
    def _parent_is_a_field(self) -> IndexConfig:
        if self.parent and self.parent not in [
            field.source for field in self.fields.values()
        ]:
            name = self.parent_field
            if name in self.fields:
                raise ValueError(
                    f"parent {self.parent!r} would be called {name!r}, as is "
                    f"{self.fields[name].source!r}; name it: fields={{NAME: {self.parent}}}."
                )
            self.fields[name] = FieldSource(source=self.parent)
        return self

    @property
    def parent_field(self) -> str:
        """The parent's name among the fields."""
        named = [
            name for name, field in self.fields.items() if field.source == self.parent
        ]
        return named[0] if named else self.parent.rpartition(".")[2]

    @property
    def word_fields(self) -> tuple[str, ...]:
        """What full-text search reads."""
        return self.text if self.words is None else self.words


@dataclass(frozen=True)
class Item:
    """A row, ready to be embedded."""

    number: int  # of the row in its file
    id: str
    text: str
    image: ImageSource | None
    full_text: str  # what full-text search reads
    fields: dict[str, FieldValue]
    fault: str = ""  # why its image cannot be read


def cut_input(config: IndexConfig) -> list[Partition]:
    """The partitions of the input, in its order; raises ValueError if it holds nothing."""
    partitions = find_partitions(config.input, config.split, config.per_unit)
    if not partitions:
        raise ValueError(
            f"{config.input} holds no rows; give a folder of images, a table or shards."
        )
    return partitions


def infer_types(
    config: IndexConfig,
    partitions: Sequence[Partition],
    known: Mapping[str, FieldType],
) -> tuple[IndexConfig, dict[str, FieldType]]:
    """The configuration with its defaults filled in, and the types of the fields.

    Looks at 1,000 rows, and at more until every field was in one of them.

    known: types that a store has; they are not inferred.

    Raises ValueError for a field that is in no row, naming the nearest, and where neither `text`
    nor `image` is set.
    """
    config = _with_defaults(config, partitions[0])
    row_filter = RowFilter(config)
    rows = list(itertools.islice(_wanted_rows(row_filter, partitions), NUM_INFERRED))
    if not rows:
        raise _no_rows_left(row_filter, partitions)
    if not config.id and has_field(rows[0], "id"):
        config = config.model_copy(update={"id": "id"})
    _check_fields(config, rows, row_filter, partitions)
    if not (config.text or config.image):
        raise ValueError(
            f"neither text nor image of {config.input} is set; add text=FIELD, image=FIELD or "
            f"both, of: {', '.join(rows[0])}."
        )

    from_text = partitions[0].kind == "cells"
    types: dict[str, FieldType] = {}
    for name, field in config.fields.items():
        inferred = field.type or known.get(name)
        if inferred is None:
            values = (value_of(row, field.source) for row in rows)
            inferred = infer_type(values, from_text=from_text)
        types[name] = inferred
    return config, types


def _check_fields(
    config: IndexConfig,
    rows: Sequence[Row],
    row_filter: RowFilter,
    partitions: Sequence[Partition],
) -> None:
    """Raises ValueError for a field that no row has; rows: the first ones of the partitions."""
    missing = set()
    for field in _fields_of(config):
        if not any(has_field(row, field) for row in rows):
            missing.add(field)
    if missing:
        later_rows = itertools.islice(
            _wanted_rows(row_filter, partitions), NUM_INFERRED, None
        )
        for row in later_rows:
            missing -= {field for field in missing if has_field(row, field)}
            if not missing:
                return
        raise missing_field(rows[0], min(missing), f"any row of {config.input}")


def items(
    partition: Partition, config: IndexConfig, types: Mapping[str, FieldType]
) -> Iterator[Item | RawRow]:
    """The items of a partition in order; a row that cannot become one comes with its `fault`."""
    row_filter = RowFilter(config)
    first = dict[str, int]()
    folder = image_folder(config.input, config.image_root)
    for raw in read_partition(partition):
        try:
            if raw.fault:
                raise ValueError(raw.fault)
            row = row_filter(raw.row, "it")
            if row is None:
                continue
            default = default_id(partition, raw)
            item = item_of(raw._replace(row=row), config, types, default, folder)
            if item.id in first:
                raise ValueError(
                    f"its id {item.id!r} is that of row {first[item.id]} too"
                )
            first[item.id] = raw.number
            yield item
        except ValueError as error:
            yield raw._replace(fault=str(error), id=_id_if_any(partition, raw, config))


def item_of(
    raw: RawRow,
    config: IndexConfig,
    types: Mapping[str, FieldType],
    default: str,
    folder: Path = Path(),
) -> Item:
    """A row as an item.

    default: its id where the configuration names no field for it.
    folder: of the images.

    Raises ValueError for a row that cannot be indexed.
    """
    row = raw.row
    fault = ""
    text = text_of(row, config.text)
    try:
        image = _image(row, config, folder)
    except UnreadableImageError as error:
        if not text or config.missing_image == "skip":
            raise
        image = None
        fault = str(error)
    if not text and image is None:
        wanted = [*config.text]
        if config.image:
            wanted.append(config.image)
        raise ValueError(f"neither text nor image in {', '.join(wanted)}")

    fields: dict[str, FieldValue] = {}
    for name, field in config.fields.items():
        try:
            fields[name] = cast(value_of(row, field.source), types[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    full_text = text_of(row, config.word_fields)
    id_ = _id(row, config.id, default)
    return Item(raw.number, id_, text, image, full_text, fields, fault)


def default_id(partition: Partition, raw: RawRow) -> str:
    """An item's id where no field holds one: its file, and its key or number there."""
    name = raw.row.get("key", raw.number) if partition.kind == "shard" else raw.number
    return f"{partition.label.removesuffix('.tar')}/{name}"


def image_identity(partition: Partition, config: IndexConfig) -> str:
    """A checksum of the image files that a table's rows name.

    It is part of what a partition's file is made of, so that a replaced image is embedded again.
    """
    if not config.image or partition.kind in ("images", "shard"):
        return ""
    digest = xxhash.xxh3_128()
    folder = image_folder(config.input, config.image_root)
    for row in _wanted_rows(RowFilter(config), [partition]):
        # `items` skips a row with such an image, and gives the reason.
        with suppress(UnreadableImageError):
            image = next(iter(images_in(value_of(row, config.image))), None)
            if isinstance(image, bytes):
                return ""  # images inside the table are part of its content
            if isinstance(image, str):
                state = _state_of_image(image, folder)
                digest.update(f"{image} {state}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _state_of_image(name: str, folder: Path) -> tuple[int, int] | None:
    path = image_path(name, folder)
    if not os.path.isfile(path):  # Path.is_file refuses a long name
        return None
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _with_defaults(config: IndexConfig, first: Partition) -> IndexConfig:
    if config.text or config.image or first.kind not in ("images", "shard", "texts"):
        return config
    if first.kind == "texts":
        return config.model_copy(update={"text": ("text",)})
    rows = [
        raw.row for raw in itertools.islice(read_partition(first), 100) if not raw.fault
    ]
    changes: dict[str, Any] = {}
    if any("captions" in row for row in rows):
        changes["text"] = ("captions",)
    if any("image" in row for row in rows):
        changes["image"] = "image"
    return config.model_copy(update=changes)


def _wanted_rows(
    row_filter: RowFilter, partitions: Iterable[Partition]
) -> Iterator[Row]:
    """The rows that can be read and pass the filters."""
    for partition in partitions:
        for raw in read_partition(partition):
            if raw.fault:
                continue
            # `items` skips a row that the filters cannot judge, and gives the reason.
            with suppress(ValueError):
                row = row_filter(raw.row, "it")
                if row is not None:
                    yield row


def _no_rows_left(row_filter: RowFilter, partitions: Sequence[Partition]) -> ValueError:
    config = row_filter.config
    first = RawRow(0, {}, "it has none")
    for partition in partitions:
        found = next(read_partition(partition), None)
        if found is not None:
            first = found
            break
    if first.fault:
        return ValueError(
            f"{config.input}: no row can be read; the first: {first.fault}."
        )
    for field in config.where:
        if field not in row_filter.seen:
            return missing_field(first.row, field, f"any row of {config.input}")
    return ValueError(
        f"{config.input}: 0 rows are left; loosen where, hash_range or exclude."
    )


def _fields_of(config: IndexConfig) -> list[str]:
    """All fields that are read, templates taken apart."""
    names: list[str] = []
    for spec in (*config.text, *config.word_fields, config.image, config.id):
        if spec:
            names += names_in(spec)
    names += [field.source for field in config.fields.values()]
    return names


def _id(row: Row, field: str, default: str) -> str:
    return id_of(value_of(row, field), field) if field else default


def _id_if_any(partition: Partition, raw: RawRow, config: IndexConfig) -> str:
    """The id of a row that is skipped; empty where none can be read."""
    try:
        return _id(raw.row, config.id, default_id(partition, raw)) if raw.row else ""
    except ValueError:
        return ""


def _image(row: Row, config: IndexConfig, folder: Path) -> ImageSource | None:
    """The image's file or bytes; None where it is missing.

    Raises UnreadableImageError for more bytes than `max_image_bytes`.
    """
    if not config.image:
        return None
    image = image_of(row, config.image, folder)
    size = 0
    if isinstance(image, Path):
        size = image.stat().st_size
    elif isinstance(image, bytes):
        size = len(image)
    if size > config.max_image_bytes:
        raise UnreadableImageError(
            f"the image has {size:,} bytes, and max_image_bytes is {config.max_image_bytes:,}"
        )
    return image
