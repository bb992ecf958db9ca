"""A suite is a list of tasks, written in YAML: where the rows are, which are held out, and which field is what.

A task's `rows` are narrowed by one entry of its `splits`: `val` for choosing between models, `test` for reporting.

    tasks:
      figures:
        kind: image-text
        rows: {input: figures/figures.jsonl}
        splits: {val: {where: {split: val}}, test: {where: {split: test}}}
        image: image
        text: alt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from unimodal.config import Config, nearest, parse_config, read_config, recipe_names
from unimodal.rows import RowsConfig, read_numbered_rows, read_rows

from .datasets import PairData, RetrievalData, image_text_data, pair_data, text_retrieval_data


class TaskRows(Config):
    """Which rows a task is made of."""

    rows: RowsConfig
    splits: dict[str, dict[str, Any]] = Field(
        default={}
    )  # split: keys laid over `rows`; empty: every split is all of the rows

    @model_validator(mode="after")
    def _every_split_is_valid(self) -> TaskRows:
        for split in self.splits:
            self.rows_of(split)
        return self

    def rows_of(self, split: str) -> RowsConfig:
        """The rows of one split."""
        if not self.splits:
            return self.rows
        if split not in self.splits:
            raise ValueError(f"split {split!r} is not in this task; {nearest(split, self.splits)}")
        return parse_config(RowsConfig, _lay_over(self.rows, self.splits[split]), source=f"splits.{split}")


class ImageTextTask(TaskRows):
    """A text finds its picture and a picture its text: hit rates in both directions."""

    kind: Literal["image-text"]
    image: str = "image"  # a field: paths relative to the folder of the input
    text: str = "text"  # a field, or a template such as "{title}, {color}"
    captions: Literal["all", "first"] = "all"  # of a field that holds several texts


class TextRetrievalTask(TaskRows):
    """A text finds its document among texts: nDCG and hit rate, beside BM25."""

    kind: Literal["text-retrieval"]
    query: str = "query"
    document: str = "document"
    pool: Literal["split", "all"] = "split"  # search the documents of the split's rows, or of all rows
    first_of: list[str] = Field(default=[])  # fields: rows that agree in them give one document, the first
    every: int = Field(default=1, gt=0)  # ask every n-th query only


class StsTask(TaskRows):
    """Semantic textual similarity: the rank correlation of cosine and human score."""

    kind: Literal["sts"]
    left: str = "sentence1"
    right: str = "sentence2"
    score: str = "score"
    groups: dict[str, dict[str, Any]] = Field(default={})  # name: where; pairs to score apart too


TaskConfig = Annotated[ImageTextTask | TextRetrievalTask | StsTask, Field(discriminator="kind")]
KINDS = ("image-text", "text-retrieval", "sts")
TaskData = RetrievalData | PairData


class Suite(Config):
    """Named tasks, scored in this order."""

    tasks: dict[str, TaskConfig] = Field(min_length=1)

    @field_validator("tasks", mode="before")
    @classmethod
    def _null_leaves_a_task_out(cls, tasks: Any) -> Any:
        if not isinstance(tasks, Mapping):
            return tasks
        for name, task in tasks.items():
            kind = task.get("kind") if isinstance(task, Mapping) else KINDS[0]
            if kind not in KINDS:
                raise ValueError(f"task {name!r} has the kind {kind!r}; {nearest(str(kind), KINDS)}")
        return {name: task for name, task in tasks.items() if task is not None}


def read_suite(name: str | Path, overrides: Sequence[str] = ()) -> Suite:
    """Read a suite from a YAML file, or a shipped one by name: `mini` is configs/suite-mini.yaml.

    overrides: `key=value`; `tasks.NAME=null` leaves a task out.
    """
    shipped = f"suite-{name}"
    return read_config(Suite, shipped if shipped in recipe_names() else name, overrides)


def load_tasks(suite: Suite, data_root: Path, split: str, *, with_pictures: bool = True) -> dict[str, TaskData]:
    """Read the rows of every task.

    with_pictures: also see to it that every picture is there.

    Raises one ValueError that names everything missing, so that it can be fetched in one go.
    """
    wanted = {name: task.rows_of(split) for name, task in suite.tasks.items()}
    _refuse_missing([path for rows in wanted.values() for path in _missing_inputs(rows, data_root)], data_root)
    loaded = {name: _load(task, data_root, split) for name, task in suite.tasks.items()}
    if with_pictures:
        _refuse_missing([path for data in loaded.values() for path in _missing_pictures(data)], data_root)
    return loaded


def _load(task: ImageTextTask | TextRetrievalTask | StsTask, root: Path, split: str) -> TaskData:
    rows = task.rows_of(split)
    if isinstance(task, ImageTextTask):
        folder = (root / rows.input).parent
        return image_text_data(
            read_rows(rows, root), folder, task.image, task.text, first_caption=task.captions == "first"
        )
    if isinstance(task, TextRetrievalTask):
        asked = list(read_rows(rows, root))
        pool = asked if task.pool == "split" else read_rows(task.rows, root)
        return text_retrieval_data(asked, pool, task.query, task.document, first_of=task.first_of, every=task.every)
    groups = {
        name: {number for number, _ in read_numbered_rows(_narrowed(rows, where), root)}
        for name, where in task.groups.items()
    }
    return pair_data(read_numbered_rows(rows, root), task.left, task.right, task.score, groups)


def _lay_over(rows: RowsConfig, patch: Mapping[str, Any]) -> dict[str, Any]:
    values = rows.model_dump(exclude_unset=True)
    where = {**values.get("where", {}), **patch.get("where", {})}
    return {**values, **patch, **({"where": where} if where else {})}


def _narrowed(rows: RowsConfig, where: Mapping[str, Any]) -> RowsConfig:
    return parse_config(RowsConfig, _lay_over(rows, {"where": where}), source="groups")


def _missing_inputs(rows: RowsConfig, root: Path) -> list[Path]:
    names = [rows.input, *(place.rpartition(":")[0] for place in [*rows.join.values(), *rows.exclude.values()])]
    paths = [root / name for name in names if not name.startswith("hf:")]
    return [path for path in paths if not path.exists() and not any(mark in str(path) for mark in "*?[")]


def _missing_pictures(data: TaskData) -> list[Path]:
    if isinstance(data, PairData):
        return []
    return [picture for picture in data.documents if isinstance(picture, Path) and not picture.exists()]


def _refuse_missing(paths: Sequence[Path], root: Path) -> None:
    missing = sorted({str(path) for path in paths})
    if missing:
        named = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise ValueError(
            f"files of the suite that are missing ({len(missing)}): {named}; put them below data_root {str(root)!r}, "
            "set another data_root, or leave a task out with tasks.NAME=null."
        )
