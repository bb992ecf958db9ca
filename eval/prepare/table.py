"""The origins of the data sets: reads and checks sets.yaml."""

from __future__ import annotations

import functools
from importlib import resources
from typing import Any, Literal

from pydantic import Field, model_validator

from unimodal.config import Config, nearest, parse_config
from unimodal.shards.config import PackConfig
from unimodal.yaml_text import parse_yaml

Converter = Literal[
    "",
    "luma_shop",
    "grocery_store",
    "emoji_noto",
    "coco_captions_text",
    "retail_demo_text",
]


class Source(Config):
    """One origin: a data set repository of the hub, a commit of a GitHub repository, or a file at a
    URL.
    """

    hub: str = ""
    """Data set repository on the hub, OWNER/NAME."""
    github: str = ""
    """Repository on GitHub, OWNER/NAME."""
    url: str = ""
    """URL of a .zip, .tar.gz or .tgz, which is unpacked."""
    revision: str = ""
    """Commit; for the hub also "main", whose commit is then recorded."""
    files: list[str] = Field(default=["*"])
    """Patterns of the files to keep; * also crosses folders."""
    flat: bool = False
    """Put all files into one folder."""
    into: str = ""
    """Folder below the data set's to put them in."""

    @model_validator(mode="after")
    def _is_one(self) -> Source:
        if sum(map(bool, (self.hub, self.github, self.url))) != 1:
            raise ValueError("a source is one of hub, github and url; set exactly one.")
        if bool(self.revision) is bool(self.url):
            raise ValueError(
                f"{self.name}: a repository needs a revision, a url does not have one."
            )
        if self.url and not self.url.startswith("https://"):
            raise ValueError(
                f"url {self.url!r} is not encrypted; give one with https://."
            )
        return self

    @property
    def name(self) -> str:
        """The name in messages."""
        return self.hub or self.github or self.url


class Each(Config):
    """Single files whose names are listed in one of the sources' files."""

    names: str
    """File with one name per line."""
    like: str = "*"
    """Pattern of the names to fetch."""
    url: str
    """URL of a file, with {name}."""
    into: str = ""
    """Folder below the data set's to put them in."""
    max_megabytes: float = Field(default=20.0, gt=0)
    """Largest size of one file."""

    @model_validator(mode="after")
    def _contains_name(self) -> Each:
        if "{name}" not in self.url or not self.url.startswith("https://"):
            raise ValueError(
                f"url {self.url!r} has to begin with https:// and contain {{name}}."
            )
        return self


class DataSet(Config):
    """What `unimodal prepare NAME` brings to DIR/NAME."""

    about: str
    """Description in one line."""
    licence: str
    """Licence of the data."""
    megabytes: float = Field(gt=0)
    """Size of the download."""
    disk: float = Field(default=0.0, ge=0)
    """Megabytes needed while preparing; default: twice the download."""
    sources: list[Source] = Field(min_length=1)
    """Where its files come from."""
    each: list[Each] = Field(default=[])
    """Single files to fetch by listed names."""
    convert: Converter = ""
    """Conversion of the fetched files into tables and images."""
    shards: dict[str, PackConfig] = Field(default={})
    """Shards to pack for training into shards/NAME, by name."""

    @property
    def disk_megabytes(self) -> float:
        """Megabytes needed on the disk while preparing."""
        return self.disk or 2 * self.megabytes


@functools.cache
def data_sets() -> dict[str, DataSet]:
    """All data sets by name; "nanobeir/scifact" is one of the group nanobeir."""
    file = resources.files(__package__).joinpath("sets.yaml")
    values: dict[str, Any] = parse_yaml(file.read_text(encoding="utf-8"), "sets.yaml")
    table = {}
    for name, value in values.items():
        if not name.startswith("."):  # .name holds an anchor of YAML
            table[name] = parse_config(DataSet, value, source=f"sets.yaml: {name}")
    return table


def names_of(wanted: str, table: dict[str, DataSet]) -> list[str]:
    """The data sets that a name stands for: itself, or all of its group.

    Raises ValueError with the nearest name for an unknown one.
    """
    if wanted in table:
        return [wanted]
    group = [name for name in table if name.startswith(f"{wanted.rstrip('/')}/")]
    if not group:
        groups = {name.rpartition("/")[0] for name in table if "/" in name}
        raise ValueError(
            f"data set {wanted!r} is unknown; {nearest(wanted, [*table, *groups])}"
        )
    return group
