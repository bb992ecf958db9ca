"""What the items of a store are, written into the store when it is created and read when it is
opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from unimodal.config import nearest
from unimodal.tables.types import FieldType

FORMAT_VERSION = 1  # of the JSON below and of the columns' names

MADE = "made"  # in `Schema.about`: the id of a store that a folder of embeddings fills


class ForeignModelError(ValueError):
    """Vectors of one model beside those of another."""


# And what begins with vector_, prefix_, binary_, has_; LanceDB puts query_index beside the columns
# of several queries.
RESERVED = ("id", "words", "thumbnail", "query_index")


@dataclass(frozen=True)
class Schema:
    """What the items of a store are. Raises ValueError for a name that is taken or that no store
    could carry.
    """

    dim: int
    # of the model whose vectors these are (`Embedder.fingerprint()`); others are refused
    fingerprint: str
    vectors: tuple[str, ...] = ("fused",)  # an item's vectors, e.g. text, image, fused
    fields: Mapping[str, FieldType] = field(
        default_factory=dict
    )  # what filters may name and hits carry
    words: bool = False
    thumbnails: bool = False
    prefix_dims: tuple[
        int, ...
    ] = ()  # matryoshka: shorter copies of each vector, for a first pass that is re-ranked
    # one bit a dimension of each vector (its sign), for a first pass that is re-ranked
    binary: bool = False
    about: Mapping[str, str] = field(
        default_factory=dict
    )  # model, calibrated, parent: what a reader has to know

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(
                f"dim {self.dim} is no length of a vector; give the model's embed_dim."
            )
        if not self.fingerprint:
            raise ValueError(
                "fingerprint is empty; give that of the model, Embedder.fingerprint()."
            )
        if not self.vectors or len(set(self.vectors)) < len(self.vectors):
            raise ValueError(
                f"vectors {self.vectors} must be one or more different names, for "
                "example ('fused',)."
            )
        for name in self.vectors:
            if not _IDENTIFIER.fullmatch(name):
                raise ValueError(
                    f"vector {name!r} is no name; use lower-case letters, digits and underscores."
                )
        _check_fields(self.fields)
        if len(set(self.prefix_dims)) < len(self.prefix_dims):
            raise ValueError(
                f"prefix_dims {self.prefix_dims} names one length twice; name each once."
            )
        for dims in self.prefix_dims:
            if not 0 < dims < self.dim:
                raise ValueError(
                    f"prefix_dims {dims} is not shorter than the vectors; choose less "
                    f"than {self.dim}."
                )

    @property
    def item_columns(self) -> list[str]:
        """The columns of a row, in order; the copies that a store derives from the vectors are not
        among them.
        """
        optional = [
            *(["words"] if self.words else []),
            *(["thumbnail"] if self.thumbnails else []),
        ]
        return [
            "id",
            *(vector_column(name) for name in self.vectors),
            *optional,
            *self.fields,
        ]


def vector_column(vector: str) -> str:
    """The column of a vector: D float32."""
    return f"vector_{vector}"


def prefix_column(vector: str, dims: int) -> str:
    """The column of a vector's first dimensions, of length 1 again: dims float32."""
    return f"prefix_{dims}_{vector}"


def binary_column(vector: str) -> str:
    """The column of a vector's signs, eight to a byte, the first dimension in the highest bit:
    ceil(D / 8) uint8.
    """
    return f"binary_{vector}"


def schema_to_json(schema: Schema) -> str:
    """One line of JSON that `schema_from_json` reads."""
    return json.dumps(
        {"format_version": FORMAT_VERSION, **asdict(schema)}, ensure_ascii=False
    )


def schema_from_json(text: str, place: str) -> Schema:
    """What `schema_to_json` wrote; raises ValueError for what it did not, or what a newer version
    of it did.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        version = values.pop("format_version")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"{place} is no store of unimodal's; make one with `unimodal index`."
        ) from None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{place} has format {version}, and this version of unimodal reads {FORMAT_VERSION}; "
            "update unimodal, or index again."
        )
    for name in ("vectors", "prefix_dims"):
        values[name] = tuple(values[name])
    return Schema(**values)


# Names that are the same whether or not an engine folds case, and that need no quotes in any of
# them.
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def _check_fields(fields: Mapping[str, FieldType]) -> None:
    seen: dict[str, str] = {}
    for name, kind in fields.items():
        if not _FIELD.fullmatch(name):
            raise ValueError(
                f"field {name!r} is no name that a filter can use; take letters, digits and "
                "underscores, for example "
                f"{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_') or 'colour'!r}."
            )
        if name.lower() in RESERVED or name.lower().startswith(
            ("vector_", "prefix_", "binary_", "has_")
        ):
            raise ValueError(
                f"field {name!r} is a name that the store itself uses; write 'item_{name}'."
            )
        if name.lower() in seen:
            raise ValueError(
                f"fields {seen[name.lower()]!r} and {name!r} differ only in case; rename "
                "one of them."
            )
        if kind not in get_args(FieldType):
            raise ValueError(
                f"field {name!r} has type {kind!r}; {nearest(str(kind), get_args(FieldType))}"
            )
        seen[name.lower()] = name
