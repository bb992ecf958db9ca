"""Tasks of mteb (https://github.com/embeddings-benchmark/mteb) as our data: retrieval, STS,
zero-shot.

The rows come from the hub's cache or from a local folder with the hub's layout. Images stay in
their table until they are encoded. Ids are kept, since mteb orders equal scores by them.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import xxhash
import yaml

from ..data.inputs import Deferred, Fused, Input
from ..data.pairs import PairData
from ..data.retrieval import RetrievalData
from ..data.zero_shot import ZeroShotData
from .tables import Table, given_image, table_images, table_inputs, texts_or_dots

LOCAL = "local-"  # begins the revision of data in a local folder
MtebTask = (
    Any  # mteb.abstasks.AbsTask; the import of mteb takes seconds, so functions do it
)
BLOCK_BYTES = 1 << 24  # per read of a file


def import_mteb() -> Any:
    """The package mteb, with its cache in $MTEB_CACHE or ~/.cache/unimodal/mteb.

    Raises ImportError if it is not installed.
    """
    # not in the temporary folder, where another user may own the name
    os.environ.setdefault(
        "MTEB_CACHE", str(Path("~/.cache/unimodal/mteb").expanduser())
    )
    try:
        import mteb
    except ImportError:
        raise ImportError(
            'mteb is not installed; pip install "unimodal[mteb]"'
        ) from None
    return mteb


def list_mteb_tasks(benchmark: str) -> list[str]:
    """Names of the tasks of a benchmark of mteb, such as "NanoBEIR"; an aggregate gives its parts.

    Raises ValueError for a benchmark that mteb does not know.
    """
    mteb = import_mteb()
    try:
        tasks = mteb.get_benchmark(benchmark).tasks
    except KeyError as error:
        raise ValueError(
            f"mteb has no benchmark {benchmark!r}; {_reason(error)}"
        ) from None
    names = [part.metadata.name for task in tasks for part in parts_of(task)]
    return list(dict.fromkeys(names))


def parts_of(task: MtebTask) -> list[MtebTask]:
    """The tasks that an aggregate averages (such as CQADupstackRetrieval), or the task itself."""
    if not task.is_aggregate:
        return [task]
    return [part for inner in task.metadata.tasks for part in parts_of(inner)]


def find_mteb_task(
    name: str,
    *,
    folder: Path | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> MtebTask:
    """A task of mteb by its name, not loaded yet.

    folder: of data sets laid out as on the hub, each below its id (FOLDER/mteb/scifact) or below
        the last part of its id; None: the hub, or its cache.
    split, subset: read only these.

    Raises ValueError for a name, a split or a subset that mteb does not have, and for data that is
    not in `folder`.
    """
    mteb = import_mteb()
    try:
        task = mteb.get_task(
            name,
            eval_splits=None if split is None else [split],
            hf_subsets=None if subset is None else [subset],
        )
    except KeyError as error:
        raise ValueError(f"mteb has no task {name!r}; {_reason(error)}") from None
    except ValueError:
        known = ", ".join(mteb.get_task(name).hf_subsets)
        raise ValueError(
            f"mteb task {name!r} has no subset {subset!r}; choose one of {known}."
        ) from None
    if split is not None and split not in task.metadata.eval_splits:
        raise ValueError(
            f"mteb task {name!r} has no split {split!r}; choose one of "
            f"{', '.join(task.metadata.eval_splits)}."
        )
    if folder is not None:
        for part in parts_of(task):
            repoint(part, _local_folder(part, folder))
    return task


def repoint(task: MtebTask, folder: Path) -> None:
    """Let a task read a local folder with the layout of its data set on the hub.

    The recorded revision becomes "local-" and a hash of the files, so that results identify their
    data.
    """
    digest = xxhash.xxh3_128()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        digest.update(f"{name} {file.stat().st_size}".encode())
        with open(file, "rb") as opened:
            while block := opened.read(BLOCK_BYTES):
                digest.update(block)
    settings = {
        **task.metadata.dataset,
        "path": str(folder.resolve()),
        "revision": LOCAL + digest.hexdigest(),
    }
    # A copy, since all tasks of the class share the metadata.
    task.metadata = task.metadata.model_copy(update={"dataset": settings})


def load_mteb_task(
    name: str,
    *,
    folder: Path | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> RetrievalData | PairData | ZeroShotData:
    """Read a task of mteb: retrieval of texts and images, STS, or zero-shot classification.

    folder: see `find_mteb_task`.
    split, subset: the ones to read; needed if mteb scores several.

    Raises ValueError for other kinds of tasks, for missing data (with the command to fetch it) and
    for ids that are not unique.
    """
    task = find_mteb_task(name, folder=folder, split=split, subset=subset)
    if task.is_aggregate:
        parts = ", ".join(part.metadata.name for part in parts_of(task))
        raise ValueError(f"mteb task {name!r} is an average; read {parts}.")
    split = _only(task.eval_splits, name, "split")
    subset = _only(task.hf_subsets, name, "subset")
    load_data(task)
    return read_mteb_task(task, split, subset)


def load_data(task: MtebTask) -> None:
    """Load the rows of a task; ValueError with the command to fetch them if they are missing."""
    try:
        with _own_cache(str(task.metadata.dataset["revision"])):
            task.load_data()
    # `datasets` raises any of these for missing data, offline and online
    except (OSError, ValueError, KeyError, yaml.YAMLError) as error:
        name = task.metadata.name
        path = task.metadata.dataset["path"]
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"the data of mteb task {name!r} cannot be read from {path!r} ({reason}); where the "
            f"hub can be reached, fetch it into a folder DATA with: "
            f"{_fetch_command(task, Path('DATA'))}"
        ) from None
    if hasattr(task, "convert_v1_dataset_format_to_v2"):
        task.convert_v1_dataset_format_to_v2(num_proc=None)


@contextlib.contextmanager
def _own_cache(revision: str) -> Iterator[None]:
    """A cache for each state of a local folder: `datasets` does not notice that files changed."""
    import datasets

    usual = datasets.config.HF_DATASETS_CACHE
    if revision.startswith(LOCAL):
        datasets.config.HF_DATASETS_CACHE = Path(usual) / "unimodal" / revision
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = usual


def read_mteb_task(
    task: MtebTask, split: str, subset: str
) -> RetrievalData | PairData | ZeroShotData:
    """One split and subset of a loaded task; raises as `load_mteb_task` does."""
    from mteb.abstasks import (
        AbsTaskRetrieval,
        AbsTaskSTS,
        AbsTaskZeroShotClassification,
    )

    where = f"{task.metadata.name}/{split}"
    if subset != "default":
        where = f"{where}/{subset}"
    if isinstance(task, AbsTaskRetrieval):
        return _retrieval(task, task.dataset[subset][split], where)
    rows = (
        task.dataset[subset][split]
        if task.metadata.is_multilingual
        else task.dataset[split]
    )
    if isinstance(task, AbsTaskSTS) and task.metadata.modalities == ["text"]:
        left, right = (
            texts_or_dots(list(rows[column]), where) for column in task.column_names
        )
        return PairData(left, right, [float(score) for score in rows["score"]])
    if isinstance(task, AbsTaskZeroShotClassification) and isinstance(
        task.input_column_name, str
    ):
        return _zero_shot(task, rows, where)
    raise ValueError(
        f"mteb task {task.metadata.name!r} is of the type {task.metadata.type}; retrieval, STS "
        "of texts and zero-shot classification can be read; score the others with mteb itself."
    )


def _retrieval(task: MtebTask, part: Any, where: str) -> RetrievalData:
    if part["top_ranked"]:
        raise ValueError(
            f"mteb task {where!r} ranks given candidates, not a whole corpus; score it with "
            "mteb itself."
        )
    qrels = part["relevant_docs"]
    document_ids = _unique_ids(part["corpus"], f"documents of {where}")
    position = {name: number for number, name in enumerate(document_ids)}
    all_ids = _unique_ids(part["queries"], f"queries of {where}")
    all_gains = [_positive_gains(qrels.get(query, {})) for query in all_ids]
    if not any(gains.keys() & position.keys() for gains in all_gains):
        raise ValueError(
            f"no query of mteb task {where!r} has a relevant document; the qrels do not "
            "fit the corpus."
        )
    notes = _notes_of_lost(qrels, all_gains, position, set(all_ids))
    for note in notes:
        warnings.warn(f"{where}: {note}", stacklevel=2)

    kept = [number for number, gains in enumerate(all_gains) if gains]
    query_ids = [all_ids[number] for number in kept]
    relevant: list[list[int]] = []
    gains: list[list[float]] = []
    lost: list[list[float]] = []
    for number in kept:
        present = {k: v for k, v in all_gains[number].items() if k in position}
        absent = {k: v for k, v in all_gains[number].items() if k not in position}
        relevant.append([position[name] for name in present])
        gains.append(list(present.values()))
        lost.append(list(absent.values()))
    is_binary = all(gain == 1 for row in [*gains, *lost] for gain in row)

    queries, documents = _inputs_of(task, part, kept, where)
    excluded: list[list[int]] | None = None
    if task.ignore_identical_ids:
        excluded = [[position[name]] if name in position else [] for name in query_ids]
    elif task.skip_first_result:
        excluded = _find_themselves(queries, documents, document_ids, where)
    return RetrievalData(
        queries=queries,
        documents=documents,
        relevant=relevant,
        gains=None if is_binary else gains,
        query_ids=query_ids,
        document_ids=document_ids,
        excluded=excluded,
        lost=lost if any(lost) else None,
        notes=tuple(notes),
    )


def _positive_gains(grades: Mapping[str, int]) -> dict[str, float]:
    return {name: float(gain) for name, gain in grades.items() if gain > 0}


def _inputs_of(
    task: MtebTask, part: Any, kept: Sequence[int], where: str
) -> tuple[list[Input], list[Input]]:
    """The kept queries and all documents."""
    from mteb.types import PromptType

    query_modalities = task.metadata.get_modalities(PromptType.query)
    document_modalities = task.metadata.get_modalities(PromptType.document)
    rows = part["queries"]
    if len(kept) < len(rows):
        rows = rows.select(kept)
    queries = table_inputs(rows, f"{where} query", query_modalities, "query")
    documents = table_inputs(
        part["corpus"], f"{where} document", document_modalities, "document"
    )
    return queries, documents


def _find_themselves(
    queries: Sequence[Input],
    documents: Sequence[Input],
    document_ids: Sequence[str],
    where: str,
) -> list[list[int]]:
    """For each query the document that is the query itself.

    mteb would take it for the best result, and leaves it out.
    """
    by_content: dict[object, int] = {}
    # of equal documents, the one that a ranking finds first: the highest id
    for number in sorted(range(len(documents)), key=document_ids.__getitem__):
        by_content[_content(documents[number])] = number
    same = [by_content.get(_content(query)) for query in queries]
    num_unknown = same.count(None)
    if num_unknown:
        warnings.warn(
            f"{where}: {num_unknown} of {len(queries)} queries are not among the documents; mteb "
            "leaves out their best result all the same, but here they search all documents.",
            stacklevel=2,
        )
    return [[] if number is None else [number] for number in same]


def _content(item: Input) -> object:
    if isinstance(item, Fused):
        return item.text, _content(item.image)
    return xxhash.xxh3_128_digest(item.read()) if isinstance(item, Deferred) else item


def _notes_of_lost(
    qrels: Mapping[str, Mapping[str, int]],
    all_gains: Sequence[Mapping[str, float]],
    position: Mapping[str, int],
    query_ids: set[str],
) -> list[str]:
    """What the qrels name and the data lacks.

    Lost documents are scored as in mteb and trec_eval; queries without relevant documents are not.
    """
    lost: dict[str, None] = {}
    num_queries = 0
    for gains in all_gains:
        missing = [name for name in gains if name not in position]
        lost.update(dict.fromkeys(missing))
        num_queries += bool(missing)
    without_gain = [
        query
        for query, grades in qrels.items()
        if query in query_ids and not _positive_gains(grades)
    ]
    notes = []
    if without_gain:
        notes.append(
            f"{len(without_gain)} queries have no relevant document and are left out, where mteb "
            f"counts them as 0 (first {without_gain[0]!r})"
        )
    if lost:
        notes.append(
            f"{len(lost)} relevant documents (of {num_queries} queries) are not in the corpus and "
            f"count as not found (first {next(iter(lost))!r})"
        )
    return notes


def _zero_shot(task: MtebTask, rows: Table, where: str) -> ZeroShotData:
    names = list(task.get_candidate_labels())
    labels = list(rows[task.label_column_name])
    if labels and isinstance(labels[0], str):
        position = {name: number for number, name in enumerate(names)}
        unknown = sorted(set(labels) - position.keys())
        if unknown:
            raise ValueError(
                f"label {unknown[0]!r} of {where} is not one of its classes, "
                f"{', '.join(names[:8])}."
            )
        labels = [position[label] for label in labels]
    column = table_images(rows, task.input_column_name, where)
    images = [given_image(image, where) for image in column]
    return ZeroShotData(images, [int(label) for label in labels], names, ["{c}"])


def _unique_ids(rows: Table, where: str) -> list[str]:
    ids = list(map(str, rows["id"]))
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(
            f"{where}: the id {repeated[0]!r} occurs twice; ids have to be unique."
        )
    return ids


def _only(names: Sequence[str], task: str, kind: str) -> str:
    if len(names) != 1:
        raise ValueError(
            f"mteb task {task!r} has several {kind}s; choose one of {', '.join(names)}."
        )
    return names[0]


def _local_folder(task: MtebTask, root: Path) -> Path:
    hub = str(task.metadata.dataset["path"])
    for candidate in (root / hub, root / hub.rpartition("/")[2]):
        if candidate.is_dir():
            return candidate
    raise ValueError(
        f"the data of mteb task {task.metadata.name!r} is missing at {str(root / hub)!r}; "
        f"fetch it with: {_fetch_command(task, root)}"
    )


def _fetch_command(task: MtebTask, root: Path) -> str:
    settings = type(
        task
    ).metadata.dataset  # those of the hub, even if the task reads elsewhere
    return (
        f"hf download --repo-type dataset {settings['path']} --revision {settings['revision']} "
        f"--local-dir {root / str(settings['path'])}"
    )


def _reason(error: KeyError) -> str:
    return str(error.args[0]).removeprefix("KeyError: ")
