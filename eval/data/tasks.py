"""Kinds of task that are made of rows of a table: their keys, their files and their data.

A kind of task, here and in folder_tasks.py, has two methods: `needs` names the files and folders
that must be there, `load` reads the data. Most tasks give one; those with languages, subsets or
several questions give one for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from unimodal.config import Config, nearest, parse_config
from unimodal.tables.fields import image_folder
from unimodal.tables.readers import RowsConfig, read_numbered_rows, read_rows

from .from_rows import image_text_data, pair_data, text_retrieval_data
from .lookup import Catalogue, Questions, forms_of, lookup_data, rows_of_catalogue
from .task_data import TaskData

T = TypeVar("T")


class Task(Config):
    """What every task has."""

    metrics: list[str] = Field(default=[])
    """Metrics to print; empty: the usual ones of its kind."""
    get: str = ""
    """Name of its data set for `unimodal prepare`."""

    @field_validator("metrics")
    @classmethod
    def _metrics_are_distinct(cls, metrics: list[str]) -> list[str]:
        return distinct(metrics)

    @property
    def parts(self) -> list[str]:
        """Languages or subsets that are scored apart and averaged; none of most tasks."""
        return []

    @property
    def hub(self) -> str:
        """The id on the hub of what lies below the data root under that id, or ""."""
        return ""


class TaskRows(Task):
    """A task made of rows of a table."""

    rows: RowsConfig
    """Rows of the task."""
    splits: dict[str, dict[str, Any]] = Field(default={})
    """Keys to lay over `rows`, by split; empty: every split has all rows."""

    @model_validator(mode="after")
    def _every_split_is_valid(self) -> TaskRows:
        for split in self.splits:
            self.rows_of(split)
        return self

    def rows_of(self, split: str) -> RowsConfig:
        """The rows of one split."""
        return rows_of_split(self.rows, self.splits, split)

    def needs(self, root: Path, split: str) -> list[Path]:
        """The files that must be there."""
        return inputs_of(self.rows_of(split), root)


class ImageTextTask(TaskRows):
    """A text finds its image and an image its text: hit rates in both directions."""

    kind: Literal["image-text"]
    """Images and their captions, searched in both directions."""
    image: str = "image"
    """Field of the image; paths are relative to `image_root`."""
    image_root: str = ""
    """Folder of the images, which no path may leave; default: the folder of the input."""
    text: str = "text"
    """Field of the caption, or a template such as "{title}, {color}"."""
    captions: Literal["all", "first"] = "all"
    """Captions to use of a field that holds several texts."""

    def load(self, root: Path, split: str) -> dict[str, TaskData]:
        """Texts and images of the rows."""
        rows = self.rows_of(split)
        folder = image_folder(rows.input, self.image_root, root)
        first = self.captions == "first"
        texts = image_text_data(
            read_rows(rows, root),
            folder,
            self.image,
            self.text,
            first_caption=first,
            source=rows.input,
        )
        return {"": texts}


class TextRetrievalTask(TaskRows):
    """A text finds its document among texts: nDCG and hit rate, beside BM25."""

    kind: Literal["text-retrieval"]
    """Queries, each with one document to find."""
    query: str = "query"
    """Field or template of the query."""
    document: str = "document"
    """Field or template of the document."""
    pool: Literal["split", "all"] = "split"
    """Documents to search: those of the split's rows, or of all rows."""
    first_of: list[str] = Field(default=[])
    """Fields: rows that agree in all of them give one document, the first."""
    every: int = Field(default=1, gt=0)
    """Use every n-th query only."""

    def load(self, root: Path, split: str) -> dict[str, TaskData]:
        """Queries and documents of the rows."""
        rows = self.rows_of(split)
        asked = list(read_rows(rows, root))
        pool = asked if self.pool == "split" else read_rows(self.rows, root)
        texts = text_retrieval_data(
            asked,
            pool,
            self.query,
            self.document,
            first_of=self.first_of,
            every=self.every,
            source=rows.input,
        )
        return {"": texts}


class StsTask(TaskRows):
    """Semantic textual similarity: the rank correlation of cosine and human score."""

    kind: Literal["sts"]
    """Pairs of texts with a similarity score."""
    left: str = "sentence1"
    """Field of the first text."""
    right: str = "sentence2"
    """Field of the second text."""
    score: str = "score"
    """Field of the similarity."""
    groups: dict[str, dict[str, Any]] = Field(default={})
    """Conditions on rows, by name: pairs to score separately too."""

    def load(self, root: Path, split: str) -> dict[str, TaskData]:
        """Pairs of the rows."""
        rows = self.rows_of(split)
        groups: dict[str, set[int]] = {}
        for name, where in self.groups.items():
            members = read_numbered_rows(_narrowed(rows, where), root)
            groups[name] = {number for number, _ in members}
        return {
            "": pair_data(
                read_numbered_rows(rows, root),
                self.left,
                self.right,
                self.score,
                groups,
            )
        }


class LookupTask(Task):
    """A text, a photo or both find a product: graded nDCG, and hit rates of the product itself.

    Every kind of question searches every form of the catalogue: "shop/photo->fused".
    """

    kind: Literal["lookup"]
    """Queries by text, photo or both for products of a catalogue."""
    catalogue: Catalogue
    """Products to search."""
    questions: dict[str, Questions] = Field(min_length=1)
    """Queries, by a name such as text, photo or photo+text."""
    grades: dict[str, float] = Field(min_length=1)
    """Relevance of a product that agrees with the wanted one in a field, by field."""

    @model_validator(mode="after")
    def _every_split_is_valid(self) -> LookupTask:
        for questions in self.questions.values():
            for split in questions.splits:
                rows_of_split(questions.rows, questions.splits, split)
        if not all(grade > 0 for grade in self.grades.values()):
            raise ValueError(
                f"grades {self.grades} must be above 0; leave out what does not count."
            )
        return self

    def needs(self, root: Path, split: str) -> list[Path]:
        """The files that must be there."""
        rows = [
            rows_of_split(questions.rows, questions.splits, split)
            for questions in self.questions.values()
        ]
        return [
            path
            for table in (self.catalogue.rows, *rows)
            for path in inputs_of(table, root)
        ]

    def load(self, root: Path, split: str) -> dict[str, TaskData]:
        """Every question to every form of the catalogue."""
        catalogue = rows_of_catalogue(self.catalogue, root)
        loaded: dict[str, TaskData] = {}
        for name, questions in self.questions.items():
            asked = list(
                read_rows(rows_of_split(questions.rows, questions.splits, split), root)
            )
            for form in forms_of(self.catalogue):
                data = lookup_data(
                    asked, catalogue, questions, self.catalogue, self.grades, form, root
                )
                loaded[f"{name}->{form}"] = data
        return loaded


def distinct(values: list[T]) -> list[T]:
    """The values; ValueError for a repeated one, which would count twice in a mean."""
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value!r} is there twice; name each once.")
    return values


def rows_of_split(
    rows: RowsConfig, splits: Mapping[str, Mapping[str, Any]], split: str
) -> RowsConfig:
    """The rows with what one of the splits lays over them; without splits all of them."""
    if not splits:
        return rows
    return parse_config(
        RowsConfig,
        _lay_over(rows, patch_of_split(splits, split)),
        source=f"splits.{split}",
    )


def inputs_of(rows: RowsConfig, root: Path) -> list[Path]:
    """The files that rows are read from; those of a glob or of the hub are unknown."""
    others = [*rows.join.values(), *rows.exclude.values()]
    names = [rows.input, *(other.rpartition(":")[0] for other in others)]
    local = [name for name in names if not name.startswith("hf:")]
    return [root / name for name in local if not is_glob(name)]


def is_glob(name: str) -> bool:
    """Whether a name is a pattern for several files."""
    return any(mark in name for mark in "*?[")


def patch_of_split(
    splits: Mapping[str, Mapping[str, Any]], split: str
) -> Mapping[str, Any]:
    """The keys of a split; ValueError with the nearest name if there is no such split."""
    if split not in splits:
        raise ValueError(
            f"split {split!r} is not in this task; {nearest(split, splits)}"
        )
    return splits[split]


def _lay_over(rows: RowsConfig, patch: Mapping[str, Any]) -> dict[str, Any]:
    values = rows.model_dump(exclude_unset=True)
    where = {**values.get("where", {}), **patch.get("where", {})}
    return {**values, **patch, **({"where": where} if where else {})}


def _narrowed(rows: RowsConfig, where: Mapping[str, Any]) -> RowsConfig:
    return parse_config(RowsConfig, _lay_over(rows, {"where": where}), source="groups")
