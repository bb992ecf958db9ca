"""Kinds of task whose data lies in a folder, or in shards, as others lay it out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, model_validator

from unimodal.config import nearest, parse_config
from unimodal.shards.find import below, expand_braces
from unimodal.shards.storage import is_remote

from .beir import read_beir
from .formats import (
    read_crossmodal3600,
    read_hub_pairs,
    read_shards,
    read_webdataset,
    read_xtd10,
)
from .task_data import TaskData
from .tasks import Task, is_glob, patch_of_split

FolderTaskT = TypeVar("FolderTaskT", bound="FolderTask")


class FolderTask(Task):
    """A task whose data lies in a folder as others lay it out."""

    path: str
    """Folder below the data root; in a suite it defaults to the name of the task."""
    split: str = "test"
    """Split of the data set."""
    splits: dict[str, dict[str, Any]] = Field(default={})
    """Keys to lay over the task, by split; empty: every split is `split`."""

    @model_validator(mode="after")
    def _every_split_is_valid(self) -> FolderTask:
        for split in self.splits:
            self.of_split(split)
        return self

    def of_split(self: FolderTaskT, split: str) -> FolderTaskT:
        """The task as it is in one split."""
        if not self.splits:
            return self
        values = self.model_dump(exclude_unset=True, exclude={"splits"})
        return parse_config(
            type(self),
            {**values, **patch_of_split(self.splits, split)},
            source=f"splits.{split}",
        )

    def needs(self, root: Path, split: str) -> list[Path]:
        """The folder that must be there."""
        return [root / self.of_split(split).path]


class WebdatasetTask(FolderTask):
    """A data set of CLIP_benchmark: images with captions, or zero-shot classification."""

    kind: Literal["webdataset"]
    """Images with captions or classes in the layout of CLIP_benchmark."""
    images: tuple[int, int | None] = (0, None)
    """First image, and the one after the last; null: to the end."""

    @model_validator(mode="before")
    @classmethod
    def _read_former_key(cls, values: Any) -> Any:
        """`images` was called `pictures`, and suites of then are read."""
        if not isinstance(values, dict) or "pictures" not in values:
            return values
        if "images" in values:
            raise ValueError(
                "pictures is the former name of images; keep images alone."
            )
        return {
            "images" if key == "pictures" else key: value
            for key, value in values.items()
        }

    def load(self, root: Path, split: str) -> dict[str, TaskData]:
        """Its images, with captions or labels."""
        task = self.of_split(split)
        return {"": read_webdataset(root / task.path, task.split, task.images)}


class ShardsTask(Task):
    """Our shards: images with captions, pairs of texts, or pairs with a score."""

    kind: Literal["shards"]
    """Pairs in shards such as training reads."""
    splits: dict[str, str | list[str]] = Field(min_length=1)
    """Path of the shards of each split: a folder, glob, brace pattern or URL."""

    def needs(self, root: Path, split: str) -> list[Path]:
        """The local files that must exist; URLs are checked when they are read."""
        local = [path for path in self._paths(root, split) if not is_remote(path)]
        names = [name for path in local for name in expand_braces(path)]
        return [Path(name) for name in names if not is_glob(name)]

    def load(self, root: Path, split: str) -> dict[str, TaskData]:
        """What the shards hold."""
        return {"": read_shards(self._paths(root, split))}

    def _paths(self, root: Path, split: str) -> list[str]:
        if split not in self.splits:
            raise ValueError(
                f"split {split!r} is not in this task; {nearest(split, self.splits)}"
            )
        value = self.splits[split]
        paths = [value] if isinstance(value, str) else value
        return [below(root, path) for path in paths]


class BeirTask(FolderTask):
    """Retrieval among texts or images in BEIR's form."""

    kind: Literal["beir"]
    """Queries, corpus and relevance judgements in the layout of BEIR."""
    subsets: list[str] = Field(default=[])
    """Parts to score separately; "{subset}" in `path` gives each its folder."""
    without_itself: bool = False
    """Do not let a query find the document with its own id (mteb's ignore_identical_ids)."""

    @property
    def parts(self) -> list[str]:
        """Its subsets."""
        return self.subsets

    def needs(self, root: Path, split: str) -> list[Path]:
        """The folders that must be there."""
        return [
            root / self.path.format(subset=subset) for subset in self.subsets or [""]
        ]

    def load(self, root: Path, split: str) -> dict[str, TaskData]:
        """Queries and documents, of each subset."""
        task = self.of_split(split)
        loaded: dict[str, TaskData] = {}
        for subset in task.subsets or [""]:
            folder = root / task.path.format(subset=subset)
            part = "" if "{subset}" in task.path else subset
            loaded[_part(subset, task.subsets)] = read_beir(
                folder, task.split, part, without_itself=task.without_itself
            )
        return loaded


class HubPairsTask(FolderTask):
    """Semantic textual similarity from a repository of the hub such as mteb/stsbenchmark-sts."""

    kind: Literal["hub-sts"]
    """Pairs of sentences with a similarity score, in the layout of the hub."""
    subsets: list[str] = Field(default=[])
    """Configurations to score separately, such as language pairs."""
    left: str = "sentence1"
    """Field of the first text."""
    right: str = "sentence2"
    """Field of the second text."""
    score: str = "score"
    """Field of the similarity."""

    @property
    def parts(self) -> list[str]:
        """Its subsets."""
        return self.subsets

    def load(self, root: Path, split: str) -> dict[str, TaskData]:
        """Pairs, of each subset."""
        task = self.of_split(split)
        fields = (task.left, task.right, task.score)
        return {
            _part(subset, task.subsets): read_hub_pairs(
                root / task.path, task.split, subset, fields
            )
            for subset in task.subsets or [""]
        }


class Crossmodal3600Task(Task):
    """Crossmodal-3600: images from all over the world, captions in 36 languages."""

    kind: Literal["crossmodal3600"]
    """Images with captions in 36 languages, in the layout of Crossmodal-3600."""
    path: str
    """Folder below the data root."""
    languages: list[str] = Field(min_length=1)
    """Languages to score, such as `en`."""
    captions: Literal["all", "first"] = "first"
    """Captions per image: `first` as in CLIP_benchmark, `all` as in mteb."""

    @property
    def parts(self) -> list[str]:
        """Its languages."""
        return self.languages

    def needs(self, root: Path, split: str) -> list[Path]:
        """The file and the folder that must be there."""
        return [root / self.path / "captions.jsonl", root / self.path / "images"]

    def load(self, root: Path, split: str) -> dict[str, TaskData]:
        """The same images, with the captions of each language."""
        return dict(
            read_crossmodal3600(
                root / self.path, self.languages, first_caption=self.captions == "first"
            )
        )


class Xtd10Task(Task):
    """XTD10: 1,000 images of COCO with a caption in each of 11 languages."""

    kind: Literal["xtd10"]
    """Images with a caption in 11 languages, in the layout of XTD10."""
    path: str
    """Folder below the data root."""
    languages: list[str] = Field(min_length=1)
    """Languages to score, such as `en`."""

    @property
    def parts(self) -> list[str]:
        """Its languages."""
        return self.languages

    def needs(self, root: Path, split: str) -> list[Path]:
        """The folders that must be there."""
        return [root / self.path / "XTD10", root / self.path / "images"]

    def load(self, root: Path, split: str) -> dict[str, TaskData]:
        """The same images, with the caption of each language."""
        return {
            language: read_xtd10(root / self.path, language)
            for language in self.languages
        }


class MtebTask(FolderTask):
    """A task of mteb by its name; `path` is its data set's id on the hub, and the folder below the
    data root.
    """

    kind: Literal["mteb"]
    """A task of mteb, by its name."""
    task: str
    """Name of the task in mteb."""
    subsets: list[str] = Field(default=[])
    """Languages or other subsets; empty: the only one there is."""

    @property
    def parts(self) -> list[str]:
        """Its subsets."""
        return self.subsets

    @property
    def hub(self) -> str:
        """Its path."""
        return self.path

    def load(self, root: Path, split: str) -> dict[str, TaskData]:
        """What mteb makes of it, of each subset."""
        from ..with_mteb.tasks import load_mteb_task  # mteb takes seconds to import

        task = self.of_split(split)
        folder = (root / task.path).parent
        return {
            _part(subset, task.subsets): load_mteb_task(
                task.task, folder=folder, split=task.split, subset=subset or None
            )
            for subset in task.subsets or [""]
        }


def _part(subset: str, subsets: Sequence[str]) -> str:
    """What a subset is called behind the task's name; one alone is the task."""
    return subset if len(subsets) > 1 else ""
