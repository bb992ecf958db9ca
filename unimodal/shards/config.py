"""What to pack: which fields of a table become samples, and how they are laid out; how shards are
reached.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from unimodal.config import Config
from unimodal.tables.readers import RowsConfig

from .storage import Patience


class PackConfig(RowsConfig):
    """One table and the samples made of its rows: images with captions, or pairs of texts.

    Wherever it takes a field, it takes a template of fields: `{title} in {color}`.
    """

    image: str = ""
    """Field of the image: a path (of a list the first), bytes or {"bytes", "path"}."""
    image_root: str = ""
    """Folder of the images, which no path may leave; default: the folder of the input."""
    max_skipped: float = Field(0.01, ge=0, le=1)
    """Share of unreadable images that ends a run, above 100 of them."""
    captions: tuple[str, ...] = ()
    """Fields or templates of captions: a text, a list or a mapping of texts each."""

    query: str = ""
    """Field or template of the query."""
    document: str = ""
    """Field or template of the document."""
    negatives: str = ""
    """Field with a list of documents that do not answer the query."""
    score: str = ""
    """Field of the similarity of query and document."""
    teacher: str = ""
    """Field with a teacher's similarities: of the document, then of each of `negatives`."""
    label: str = ""
    """Field of the class; rows of one class are not each other's negatives."""
    negatives_from: str = ""
    """Field: documents of rows with its value are hard negatives of each other's queries."""
    num_negatives: int = Field(0, ge=0)
    """Number of hard negatives to take from `negatives_from` at most."""

    pairs_of: str = ""
    """Field with texts of one meaning, paired 0-1, 2-3, ...; instead of query and document."""

    key: str = ""
    """Field that names the samples; default: the row number."""
    shuffle: bool = True
    """Shuffle the rows, so that neighbours in the table do not share a shard."""
    seed: int = 0
    """Seed of the order."""
    samples_per_shard: int = Field(1000, gt=0)
    """Samples per tar."""

    @field_validator("captions", mode="before")
    @classmethod
    def _one_is_a_list(cls, captions: object) -> object:
        return (captions,) if isinstance(captions, str) else captions

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> PackConfig:
        kinds = [
            bool(self.image),
            bool(self.query or self.document),
            bool(self.pairs_of),
        ]
        if sum(kinds) != 1:
            raise ValueError(
                "a sample is one of image with captions, query with document, or "
                "pairs_of; set just one."
            )
        if bool(self.image) is not bool(self.captions):
            raise ValueError(
                f"image {self.image!r} and captions {self.captions} belong together; set both."
            )
        if bool(self.query) is not bool(self.document):
            raise ValueError(
                f"query {self.query!r} and document {self.document!r} belong together; set both."
            )
        if bool(self.negatives_from) is not bool(self.num_negatives):
            siblings = self.negatives_from
            number = self.num_negatives
            raise ValueError(
                f"negatives_from {siblings!r} and num_negatives {number} belong together; set both."
            )
        if not self.query and (
            self.negatives or self.negatives_from or self.score or self.teacher
        ):
            raise ValueError(
                "negatives, negatives_from, score and teacher belong to a query and its "
                "document; set those."
            )
        if self.teacher and self.negatives_from:
            raise ValueError(
                "a teacher's numbers belong to given negatives; take negatives_from out."
            )
        if self.label and self.pairs_of:
            raise ValueError(
                "a label belongs to one sample of a row and pairs_of makes several; take it out."
            )
        return self


class PackRecipe(Config):
    """All the sets of a run: each is packed into OUT/NAME."""

    data_root: str = "."
    """Folder that inputs are relative to."""
    out: str
    """Folder to write the sets to."""
    sets: dict[str, PackConfig]
    """Sets by name; each is packed into OUT/NAME."""


class StorageConfig(Config):
    """How remote or compressed shards (a URL, `pipe:COMMAND`) are fetched."""

    cache: str = ""
    """Folder of cached shards; default: $UNIMODAL_CACHE, else ~/.cache/unimodal/shards."""
    cache_gib: float = Field(default=50.0, ge=0)
    """GiB that the cache may hold; 0: no cache, the bytes of each batch are fetched."""
    deadline: float = Field(default=300.0, gt=0)
    """Seconds without progress after which a storage is given up."""
    timeout: float = Field(default=30.0, gt=0)
    """Seconds per request."""
    prefetch: int = Field(default=2, ge=0)
    """Threads per loader process that fetch the next shards."""

    @property
    def patience(self) -> Patience:
        """Its times."""
        return Patience(self.deadline, self.timeout)

    @property
    def folder(self) -> Path:
        """Where the cache is."""
        default = os.environ.get("UNIMODAL_CACHE") or "~/.cache/unimodal/shards"
        return Path(self.cache or default).expanduser()


class ReadConfig(Config):
    """What reading shards needs to know besides their path."""

    storage: StorageConfig = StorageConfig()
    """How remote shards are fetched and cached."""
