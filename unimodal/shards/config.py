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

    Wherever a field is asked for, a template of fields will do: `{title} in {color}`.
    """

    image: str = (
        ""  # a path, bytes, {"bytes", "path"} or a PIL image; of a list the first
    )
    # the folder of the images' paths, which none may leave; default: the folder of the input
    image_root: str = ""
    max_skipped: float = Field(
        0.01, ge=0, le=1
    )  # the share of unreadable images, and more than 100, that end a run
    captions: tuple[str, ...] = ()  # each a text, a list of texts or a mapping of texts

    query: str = ""
    document: str = ""
    negatives: str = ""  # a list of documents that do not answer the query
    score: str = ""  # how close query and document are, for graded similarity
    # a list of another model's similarities: of the document, then of each of the `negatives`
    teacher: str = ""
    # the class of a row: training takes no two of one class for each other's negatives
    label: str = ""
    # rows of equal value are siblings: their documents to other queries are hard negatives
    negatives_from: str = ""
    num_negatives: int = Field(0, ge=0)  # at most so many of the siblings

    # instead of query and document: a list of texts that mean the same, paired 0-1, 2-3, ...
    pairs_of: str = ""

    key: str = ""  # names the samples; default: the number of the row
    # so that a shard is not one book; the order depends on the rows and the seed alone
    shuffle: bool = True
    seed: int = 0
    samples_per_shard: int = Field(1000, gt=0)

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

    data_root: str = "."  # the folder that every input is relative to
    out: str
    sets: dict[str, PackConfig]


class StorageConfig(Config):
    """How shards that lie elsewhere (a URL, `pipe:COMMAND`, a compressed tar) come
    to this machine.
    """

    # the folder of whole shards; default: $UNIMODAL_CACHE, else ~/.cache/unimodal/shards
    cache: str = ""
    cache_gib: float = Field(
        default=50.0, ge=0
    )  # what it may hold; 0: no disk, the bytes of a batch are asked for
    deadline: float = Field(
        default=300.0, gt=0
    )  # seconds that a storage is waited for without getting on
    timeout: float = Field(default=30.0, gt=0)  # seconds for one request
    prefetch: int = Field(
        default=2, ge=0
    )  # threads of each loader process that fetch the shards needed next

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
