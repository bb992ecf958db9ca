"""The schema of a store: which vectors and fields its items have, and what fits them.

It is written into the store when that is created, and read when it is opened. Whether a query or
vectors fit a store is checked here, for queries, writing, copying and the server alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from unimodal.config import nearest
from unimodal.tables.types import FieldType

FORMAT_VERSION = 1  # of the JSON below and of the column names

MADE = (
    "made"  # key of `Schema.about`: the id of a store that a folder of embeddings fills
)

# No field may have these names or prefixes; LanceDB adds the column query_index to the results of
# several queries.
RESERVED_NAMES = ("id", "words", "thumbnail", "query_index")
RESERVED_PREFIXES = ("vector_", "prefix_", "binary_", "has_")

# Such names are the same whether or not an engine folds case, and need no quotes in any engine.
_VECTOR_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FIELD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class ForeignModelError(ValueError):
    """Vectors of one model beside those of another."""


@dataclass(frozen=True)
class Schema:
    """What the items of a store are. Raises ValueError for a name that a store cannot use."""

    dim: int
    # Of the model whose vectors these are (`Embedder.fingerprint()`); others are refused.
    fingerprint: str
    vectors: tuple[str, ...] = ("fused",)  # an item's vectors, e.g. text, image, fused
    # What filters may name and hits carry.
    fields: Mapping[str, FieldType] = field(default_factory=dict)
    words: bool = False  # items carry words for full-text search
    thumbnails: bool = False
    # Matryoshka: shorter copies of each vector, for a first pass that is re-ranked.
    prefix_dims: tuple[int, ...] = ()
    # One bit per dimension of each vector (its sign), for a first pass that is re-ranked.
    binary: bool = False
    # Facts for a reader: model, calibrated, parent.
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(
                f"dim {self.dim} is not the length of a vector; give the model's embed_dim."
            )
        if not self.fingerprint:
            raise ValueError(
                "fingerprint is empty; give that of the model, Embedder.fingerprint()."
            )
        _check_vector_names(self.vectors)
        _check_fields(self.fields)
        _check_prefix_dims(self.prefix_dims, self.dim)

    @property
    def item_columns(self) -> list[str]:
        """The columns of a row in order, without the copies that a store derives from vectors."""
        columns = ["id"]
        columns += [vector_column(name) for name in self.vectors]
        if self.words:
            columns.append("words")
        if self.thumbnails:
            columns.append("thumbnail")
        return [*columns, *self.fields]

    @property
    def hit_columns(self) -> list[str]:
        """The columns that a hit can carry."""
        return [
            name
            for name in self.item_columns
            if name != "id" and not name.startswith("vector_")
        ]

    @property
    def coarse_copies(self) -> list[str]:
        """The shorter copies that a first pass can search: "prefix:DIMS" and "binary"."""
        prefixes = [f"prefix:{dims}" for dims in self.prefix_dims]
        return [*prefixes, "binary"] if self.binary else prefixes


def vector_column(vector: str) -> str:
    """The column of a vector: D float32."""
    return f"vector_{vector}"


def prefix_column(vector: str, dims: int) -> str:
    """The column of a vector's first dimensions, normalized again: dims float32."""
    return f"prefix_{dims}_{vector}"


def binary_column(vector: str) -> str:
    """The column of a vector's signs (`unimodal.vectors.pack_signs`): ceil(D / 8) uint8."""
    return f"binary_{vector}"


def coarse_column(coarse: str, vector: str) -> str:
    """The column of a shorter copy, one of `Schema.coarse_copies`."""
    if coarse == "binary":
        return binary_column(vector)
    return prefix_column(vector, int(coarse.removeprefix("prefix:")))


def schema_to_json(schema: Schema) -> str:
    """Write a schema as one line of JSON."""
    values = {"format_version": FORMAT_VERSION, **asdict(schema)}
    return json.dumps(values, ensure_ascii=False)


def schema_from_json(text: str, place: str) -> Schema:
    """Read what `schema_to_json` wrote; place names the store in messages.

    Raises ValueError for other text, and for the format of a newer version.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        version = values.pop("format_version")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"{place} is not a unimodal store; make one with `unimodal index`."
        ) from None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{place} has format {version}, and this version of unimodal reads {FORMAT_VERSION}; "
            "update unimodal, or index again."
        )
    for name in ("vectors", "prefix_dims"):
        values[name] = tuple(values[name])
    return Schema(**values)


def check_model(schema: Schema, fingerprint: str, what: str = "the query") -> None:
    """Raise ForeignModelError unless this is the model of the store's vectors.

    what: whose model it is, for the message.
    """
    if fingerprint != schema.fingerprint:
        model = schema.about.get("model") or "another model"
        raise ForeignModelError(
            f"the store holds vectors of {model} (fingerprint {schema.fingerprint}), and the model "
            f"of {what} is another ({fingerprint}); load that one, or index again."
        )


def check_vector(schema: Schema, vector: str) -> None:
    """Raise ValueError unless the store has this vector."""
    if vector not in schema.vectors:
        raise ValueError(
            f"the store has no vector {vector!r}; {nearest(vector, schema.vectors)}"
        )


def check_coarse(schema: Schema, coarse: str) -> None:
    """Raise ValueError unless the store keeps these copies."""
    copies = schema.coarse_copies
    if coarse in copies:
        return
    way_out = (
        nearest(coarse, copies)
        if copies
        else "index again with binary=true or prefix_dims=[DIMS], or leave coarse out."
    )
    raise ValueError(f"coarse: the store has no copies {coarse!r}; {way_out}")


def check_full_text(schema: Schema) -> None:
    """Raise ValueError unless the store's items carry words for full-text search."""
    if not schema.words:
        raise ValueError(
            "hybrid: the store has no words for full-text search; index again with words, or leave "
            "hybrid out."
        )


def check_group_by(schema: Schema, name: str) -> None:
    """Raise ValueError unless items can be grouped by this field."""
    if name not in schema.fields:
        raise ValueError(
            f"group_by: the store has no field {name!r}; {nearest(name, schema.fields)}"
        )
    if schema.fields[name] == "strings":
        raise ValueError(
            f"group_by: an item has several {name!r}; group by a field of one value."
        )


def fields_to_show(schema: Schema, fields: Sequence[str] | None) -> list[str]:
    """The fields that hits carry, each once; None: all of `Schema.fields`.

    Raises ValueError for one that the store does not have.
    """
    if fields is None:
        return list(schema.fields)
    for name in fields:
        if name not in schema.hit_columns:
            raise ValueError(
                f"fields: the store has no field {name!r}; {nearest(name, schema.hit_columns)}"
            )
    return list(dict.fromkeys(fields))


def _check_vector_names(names: Sequence[str]) -> None:
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"vectors {names} must be one or more different names, for example ('fused',)."
        )
    for name in names:
        if not _VECTOR_NAME.fullmatch(name):
            raise ValueError(
                f"vector {name!r} is not a valid name; use lower-case letters, digits and "
                "underscores."
            )


def _check_fields(fields: Mapping[str, FieldType]) -> None:
    seen: dict[str, str] = {}
    for name, kind in fields.items():
        folded = name.lower()
        if not _FIELD_NAME.fullmatch(name):
            valid = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") or "colour"
            raise ValueError(
                f"field {name!r} is not a name that a filter can use; use letters, digits and "
                f"underscores, for example {valid!r}."
            )
        if folded in RESERVED_NAMES or folded.startswith(RESERVED_PREFIXES):
            raise ValueError(
                f"field {name!r} is a name that the store itself uses; write 'item_{name}'."
            )
        if folded in seen:
            raise ValueError(
                f"fields {seen[folded]!r} and {name!r} differ only in case; rename one of them."
            )
        if kind not in get_args(FieldType):
            raise ValueError(
                f"field {name!r} has type {kind!r}; {nearest(str(kind), get_args(FieldType))}"
            )
        seen[folded] = name


def _check_prefix_dims(prefix_dims: Sequence[int], dim: int) -> None:
    if len(set(prefix_dims)) < len(prefix_dims):
        raise ValueError(
            f"prefix_dims {prefix_dims} names one length twice; name each once."
        )
    for dims in prefix_dims:
        if not 0 < dims < dim:
            raise ValueError(
                f"prefix_dims {dims} is not shorter than the vectors; choose less than {dim}."
            )
