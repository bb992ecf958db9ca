"""What of an input becomes an index, and a row as an item: its id, its text, its image and its
fields.

A ValueError of `item_of` says why a row cannot be indexed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

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

from ...tables.types import (
    FieldSource,
    FieldType,
    FieldValue,
    cast,
    infer_type,
    named_fields,
)
from .partitions import find_units
from .reading import RawRow, Unit, read_unit

VectorName = Literal["text", "image", "fused"]
VECTORS: tuple[VectorName, ...] = ("text", "image", "fused")
SURVEYED = 1000  # rows from which types are seen, and whether a field is there at all

Content: TypeAlias = ImageSource


class ItemsConfig(RowsConfig):
    """An input and what of its rows is embedded; wherever a text is asked for, a template of fields
    will do.
    """

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
    """An input and what of it is indexed; wherever a text is asked for, a template of fields will
    do.
    """

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
    picture: Content | None
    words: str
    fields: dict[str, FieldValue]
    fault: str = ""  # why the image that it should have is not there


def units(config: IndexConfig) -> list[Unit]:
    """The units of the input, in its order; raises ValueError if it holds nothing."""
    found = find_units(config.input, config.split, config.per_unit)
    if not found:
        raise ValueError(
            f"{config.input} holds no rows; give a folder of images, a table or shards."
        )
    return found


def surveyed(
    config: IndexConfig, cut: list[Unit], known: Mapping[str, FieldType]
) -> tuple[IndexConfig, dict[str, FieldType]]:
    """The configuration with its defaults made definite, and the types of the fields; known: what a
    store has.

    Reads 1,000 rows, and as many more as it takes until every field was in one of them. Raises
    ValueError for a field that is in no row, naming the nearest, and where neither text nor image
    is said.
    """
    config = _with_defaults(config, cut[0])
    wanted = RowFilter(config)
    rows = list(itertools.islice(_wanted(wanted, cut), SURVEYED))
    if not rows:
        raise _nothing_left(wanted, cut)
    if not config.id and has_field(rows[0], "id"):
        config = config.model_copy(update={"id": "id"})
    missing = {
        field
        for field in _fields_of(config)
        if not any(has_field(row, field) for row in rows)
    }
    if missing:
        for row in itertools.islice(_wanted(wanted, cut), SURVEYED, None):
            missing -= {field for field in missing if has_field(row, field)}
            if not missing:
                break
    if missing:
        raise missing_field(rows[0], min(missing), f"any row of {config.input}")
    if not (config.text or config.image):
        raise ValueError(
            f"which fields of {config.input} are embedded is not said; add text=FIELD, "
            f"image=FIELD or both, of: {', '.join(rows[0])}."
        )
    from_text = cut[0].kind == "cells"
    types = {
        name: field.type
        or known.get(name)
        or infer_type(
            (value_of(row, field.source) for row in rows), from_text=from_text
        )
        for name, field in config.fields.items()
    }
    return config, types


def items(
    unit: Unit, config: IndexConfig, types: Mapping[str, FieldType]
) -> Iterator[Item | RawRow]:
    """The items of a unit in order; a row that is none comes as it is, with its `fault`."""
    wanted = RowFilter(config)
    first = dict[str, int]()
    folder = image_folder(config.input, config.image_root)
    for raw in read_unit(unit):
        try:
            if raw.fault:
                raise ValueError(raw.fault)
            row = wanted(raw.row, "it")
            if row is None:
                continue
            item = item_of(
                raw._replace(row=row), config, types, default_id(unit, raw), folder
            )
            if item.id in first:
                raise ValueError(
                    f"its id {item.id!r} is that of row {first[item.id]} too"
                )
            first[item.id] = raw.number
            yield item
        except ValueError as error:
            yield raw._replace(fault=str(error), id=_id_if_any(unit, raw, config))


def item_of(
    raw: RawRow,
    config: IndexConfig,
    types: Mapping[str, FieldType],
    default: str,
    folder: Path = Path(),
) -> Item:
    """A row as an item.

    default: its id where the configuration names no field for it. folder: that of the images.
    """
    row = raw.row
    fault = ""
    text = text_of(row, config.text)
    try:
        content = _image(row, config, folder)
    except UnreadableImageError as error:
        if not text or config.missing_image == "skip":
            raise
        content = None
        fault = str(error)
    if not text and content is None:
        wanted = ", ".join([*config.text, *([config.image] if config.image else [])])
        raise ValueError(f"neither text nor image in {wanted}")
    fields: dict[str, FieldValue] = {}
    for name, field in config.fields.items():
        try:
            fields[name] = cast(value_of(row, field.source), types[name])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    words = text_of(row, config.word_fields)
    return Item(
        raw.number, _id(row, config.id, default), text, content, words, fields, fault
    )


def default_id(unit: Unit, raw: RawRow) -> str:
    """An item's id where no field says it."""
    return f"{unit.label.removesuffix('.tar')}/{raw.row.get('key', raw.number) if unit.kind == 'shard' else raw.number}"


def image_identity(unit: Unit, config: IndexConfig) -> str:
    """Of the files that the rows of a table name: an image that was replaced makes another unit of
    it.
    """
    if not config.image or unit.kind in ("pictures", "shard"):
        return ""
    digest = xxhash.xxh3_128()
    folder = image_folder(config.input, config.image_root)
    for row in _wanted(RowFilter(config), [unit]):
        with suppress(
            UnreadableImageError
        ):  # of an image that `items` will do without, with the reason
            content = next(iter(images_in(value_of(row, config.image))), None)
            if isinstance(
                content, bytes
            ):  # a table with the images inside: they are part of it
                return ""
            if isinstance(content, str):
                path = image_path(content, folder)
                status = (
                    path.stat() if os.path.isfile(path) else None
                )  # Path.is_file refuses a long name
                state = (
                    (status.st_size, status.st_mtime_ns) if status is not None else None
                )
                digest.update(f"{content} {state}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _with_defaults(config: IndexConfig, first: Unit) -> IndexConfig:
    if config.text or config.image or first.kind not in ("pictures", "shard", "texts"):
        return config
    if first.kind == "texts":
        return config.model_copy(update={"text": ("text",)})
    rows = [raw.row for raw in itertools.islice(read_unit(first), 100) if not raw.fault]
    changes: dict[str, Any] = (
        {"text": ("captions",)} if any("captions" in row for row in rows) else {}
    )
    changes |= {"image": "image"} if any("image" in row for row in rows) else {}
    return config.model_copy(update=changes)


def _wanted(wanted: RowFilter, cut: list[Unit]) -> Iterator[Row]:
    """The rows that can be read and pass the filters."""
    for unit in cut:
        for raw in read_unit(unit):
            with suppress(
                ValueError
            ):  # of a row that `items` will skip, with the reason
                row = None if raw.fault else wanted(raw.row, "it")
                if row is not None:
                    yield row


def _nothing_left(wanted: RowFilter, cut: list[Unit]) -> ValueError:
    first = next(
        (raw for unit in cut for raw in read_unit(unit)), RawRow(0, {}, "there is none")
    )
    if first.fault:
        return ValueError(
            f"{wanted.config.input}: no row can be read; the first: {first.fault}."
        )
    for field in wanted.config.where:
        if field not in wanted.seen:
            return missing_field(first.row, field, f"any row of {wanted.config.input}")
    return ValueError(
        f"{wanted.config.input}: 0 rows are left; loosen where, hash_range or exclude."
    )


def _fields_of(config: IndexConfig) -> list[str]:
    """All fields that are read, templates taken apart."""
    texts = (*config.text, *config.word_fields, config.image, config.id)
    return [
        *(name for spec in texts if spec for name in names_in(spec)),
        *(field.source for field in config.fields.values()),
    ]


def _id(row: Row, field: str, default: str) -> str:
    return id_of(value_of(row, field), field) if field else default


def _id_if_any(unit: Unit, raw: RawRow, config: IndexConfig) -> str:
    """The id of a row that is skipped; empty where there is none to read."""
    try:
        return _id(raw.row, config.id, default_id(unit, raw)) if raw.row else ""
    except ValueError:
        return ""


def _image(row: Row, config: IndexConfig, folder: Path) -> Content | None:
    """The image's file or bytes, within the cap of bytes; None where it is missing."""
    content = image_of(row, config.image, folder) if config.image else None
    size = (
        content.stat().st_size
        if isinstance(content, Path)
        else len(content)
        if isinstance(content, bytes)
        else 0
    )
    if size > config.max_image_bytes:
        raise UnreadableImageError(
            f"an image of {size:,} bytes, over the cap of {config.max_image_bytes:,}"
        )
    return content
