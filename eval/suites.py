"""A suite: a list of tasks in YAML, with their data, their splits and their fields.

One entry of a task's `splits` narrows its `rows`: `val` for choosing between models, `test` for
reporting.

    tasks:
      figures:
        kind: image-text
        rows: {input: figures/figures.jsonl}
        splits: {val: {where: {split: val}}, test: {where: {split: test}}}
        image: image
        text: alt
      flickr30k: {kind: webdataset, get: flickr30k}  # in data_root/flickr30k
    averages:
      images: {tasks: [figures/text->image, flickr30k/text->image], metric: hit_rate_at_1}
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator

from unimodal.config import Config, nearest, read_config, recipe_names

from .data.folder_tasks import (
    BeirTask,
    Crossmodal3600Task,
    HubPairsTask,
    MtebTask,
    ShardsTask,
    WebdatasetTask,
    Xtd10Task,
)
from .data.inputs import Fused
from .data.task_data import TaskData as TaskData
from .data.tasks import ImageTextTask, LookupTask, StsTask, TextRetrievalTask, distinct
from .prepare.table import data_sets, names_of

TaskConfig = Annotated[
    ImageTextTask
    | TextRetrievalTask
    | StsTask
    | LookupTask
    | WebdatasetTask
    | ShardsTask
    | BeirTask
    | HubPairsTask
    | Crossmodal3600Task
    | Xtd10Task
    | MtebTask,
    Field(discriminator="kind"),
]
FOLDER_KINDS = ("webdataset", "beir", "hub-sts", "crossmodal3600", "xtd10")
KINDS = (
    "image-text",
    "text-retrieval",
    "sts",
    "lookup",
    *FOLDER_KINDS,
    "shards",
    "mteb",
)


class Average(Config):
    """The mean of a metric over several tasks."""

    tasks: list[str] = Field(min_length=1)
    """Tasks by the names of their rows, such as "figures/text->image" or "nfcorpus"."""
    metric: str
    """Metric to average."""

    @field_validator("tasks")
    @classmethod
    def _tasks_are_distinct(cls, tasks: list[str]) -> list[str]:
        return distinct(tasks)


class Analysis(Config):
    """What is looked at beside the scores of the plain vectors."""

    dims: list[PositiveInt] = Field(default=[])
    """Lengths to truncate vectors to and score again (Matryoshka)."""
    space: bool = False
    """Measure modality gap, alignment, uniformity and a mixed index of texts and images."""
    compression: bool = False
    """Score int8 and binary vectors, with re-ranking."""
    neighbours: bool = False
    """Look for near-duplicates and clusters of documents."""
    map: Literal["none", "pca", "umap"] = "none"
    """Projection of texts and images to two dimensions."""
    robustness: list[str] = Field(default=[])
    """Changes of the queries to score: typos, first half, poor jpeg, ..."""
    contamination: list[str] = Field(default=[])
    """Training shards in which to look for the suite's data."""

    @field_validator("dims", "robustness", "contamination")
    @classmethod
    def _are_distinct(cls, values: list[Any]) -> list[Any]:
        return distinct(values)

    @field_validator("robustness")
    @classmethod
    def _is_known(cls, kinds: list[str]) -> list[str]:
        from .analysis import robustness

        for kind in kinds:
            if kind not in robustness.KINDS:
                raise ValueError(
                    f"{kind!r} is not a change of queries; {nearest(kind, robustness.KINDS)}"
                )
        return kinds


class Suite(Config):
    """Named tasks, scored in this order."""

    tasks: dict[str, TaskConfig] = Field(min_length=1)
    """Tasks by name."""
    averages: dict[str, Average] = Field(default={})
    """Averages over tasks by name; one with a missing task is left out."""
    analysis: Analysis = Analysis()
    """Analyses beside the scores."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _null_leaves_a_task_out(cls, tasks: Any) -> Any:
        if not isinstance(tasks, Mapping):
            return tasks
        for name, task in tasks.items():
            kind = task.get("kind") if isinstance(task, Mapping) else KINDS[0]
            if kind not in KINDS:
                raise ValueError(
                    f"task {name!r} has the kind {kind!r}; {nearest(str(kind), KINDS)}"
                )
        return {
            name: _with_path(name, task)
            for name, task in tasks.items()
            if task is not None
        }

    def task_of(self, name: str) -> TaskConfig:
        """The task of data or of a row: "beir/cqadupstack" for "beir/cqadupstack/android"."""
        owner = self._owner(name)
        if not owner:
            raise ValueError(
                f"{name!r} does not belong to a task of the suite; {nearest(name, self.tasks)}"
            )
        return self.tasks[owner]

    def averages_of(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Averages over languages and subsets.

        "xtd10/text->image" -> ["xtd10/de/text->image", "xtd10/en/text->image", ...]

        names: of rows; names that belong to no task of the suite are skipped.
        """
        groups: dict[str, list[str]] = {}
        for name in dict.fromkeys(names):
            task = self._owner(name)
            if not task or len(self.tasks[task].parts) < 2:
                continue
            part, _, direction = name[len(task) + 1 :].partition("/")
            if part in self.tasks[task].parts:
                average = f"{task}/{direction}" if direction else task
                groups.setdefault(average, []).append(name)
        return groups

    def _owner(self, name: str) -> str:
        """The longest name of a task that a name begins with, or ""."""
        owners = [task for task in self.tasks if f"{name}/".startswith(f"{task}/")]
        return max(owners, key=len, default="")


@dataclasses.dataclass(frozen=True)
class Missing:
    """What a task lacks, and how to get it."""

    task: str
    paths: list[Path]
    get: str = ""  # its data set's name for `unimodal prepare`
    hub: str = ""  # or its id on the hub


def _with_path(name: str, task: Any) -> Any:
    """The task, in the folder of its name if it names none."""
    if isinstance(task, Mapping) and task.get("kind") in FOLDER_KINDS:
        return {"path": name, **task}
    return task


def read_suite(name: str | Path, overrides: Sequence[str] = ()) -> Suite:
    """Read a suite from a YAML file, or a shipped one by its name, such as `mini`.

    overrides: `key=value`; `tasks.NAME=null` leaves a task out.
    """
    shipped = f"suite-{name}"
    return read_config(Suite, shipped if shipped in recipe_names() else name, overrides)


def missing_of(suite: Suite, data_root: Path, split: str) -> list[Missing]:
    """The files and folders that do not exist, task by task; no data is read."""
    missing = []
    for name, task in suite.tasks.items():
        paths = [path for path in task.needs(data_root, split) if not path.exists()]
        if paths:
            missing.append(Missing(name, paths, task.get, "" if task.get else task.hub))
    return missing


def commands_for(missing: Iterable[Missing], data_root: Path) -> list[str]:
    """The shell commands that get what is missing, if `get` or the hub has it."""
    missing = list(missing)
    sets = " ".join(dict.fromkeys(lack.get for lack in missing if lack.get))
    hub = " ".join(dict.fromkeys(lack.hub for lack in missing if lack.hub))
    folder = shlex.quote(str(data_root))
    loop = (
        f"for set in {hub}; do hf download --repo-type dataset $set --local-dir "
        f"{folder}/$set; done"
    )
    commands = [f"unimodal prepare {sets} --data {folder}"] if sets else []
    return [*commands, loop] if hub else commands


def megabytes_of(missing: Iterable[Missing]) -> float:
    """How much `unimodal prepare` downloads for what is missing.

    The sizes of the hub's own repositories are unknown and not counted.
    """
    table = data_sets()
    groups = {lack.get for lack in missing if lack.get}
    return sum(
        table[name].megabytes for group in groups for name in names_of(group, table)
    )


def load_tasks(
    suite: Suite, data_root: Path, split: str, *, with_images: bool = True
) -> dict[str, TaskData]:
    """Read the data of every task.

    A task with languages, subsets or several kinds of queries has data for each: "xtd10/de".

    with_images: also check that the file of every image exists.

    Raises one ValueError that names everything missing, so that it can be fetched in one go, and
    ValueError for data that cannot be scored.
    """
    _refuse_missing(missing_of(suite, data_root, split), data_root)
    loaded = {
        "/".join(filter(None, (name, part))): data
        for name, task in suite.tasks.items()
        for part, data in task.load(data_root, split).items()
    }
    loaded = {name: data.check(name) for name, data in loaded.items()}
    if with_images:
        absent = [Missing(name, _missing_images(data)) for name, data in loaded.items()]
        _refuse_missing([missing for missing in absent if missing.paths], data_root)
    return loaded


def _missing_images(data: TaskData) -> list[Path]:
    """The files of images that do not exist."""
    inputs = [value for side in data.inputs() for value in side.inputs]
    images = [value.image if isinstance(value, Fused) else value for value in inputs]
    paths = [image for image in dict.fromkeys(images) if isinstance(image, Path)]
    return [path for path in paths if not path.exists()]


def _refuse_missing(missing: Sequence[Missing], root: Path) -> None:
    paths = sorted({str(path) for lack in missing for path in lack.paths})
    if not paths:
        return
    more = f" and {len(paths) - 8} more" if len(paths) > 8 else ""
    named = ", ".join(paths[:8]) + more
    commands = commands_for(missing, root)
    megabytes = megabytes_of(missing)
    size = f" (at least {megabytes:,.0f} MB)" if megabytes else ""
    fetch = f"get them with `{' && '.join(commands)}`{size}, " if commands else ""
    raise ValueError(
        f"the suite lacks files ({len(paths)}): {named}; {fetch}put them below "
        f"data_root {str(root)!r}, set another data_root, or leave a task out with "
        "tasks.NAME=null."
    )
