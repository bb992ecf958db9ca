"""Tasks of mteb (https://github.com/embeddings-benchmark/mteb) as data of ours: retrieval, STS,
zero-shot.

The rows come from the hub's cache or from a local folder laid out as the hub's. Images stay in
the table they lie in until they are encoded, and are not decoded here. Ids are kept, as mteb orders
equal scores by them.
"""

from __future__ import annotations

import contextlib
import os
import warnings
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
MtebTask = Any  # mteb.abstasks.AbsTask: mteb is imported where it is used, as that takes seconds


def import_mteb() -> Any:
    """The package mteb, whose cache is ~/.cache/unimodal/mteb unless MTEB_CACHE says where.

    Raises ImportError where it is not installed.
    """
    # beside the shards, as a name in the temporary folder may be somebody else's already
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
    """Names of the tasks of one of mteb's benchmarks ("NanoBEIR", "MIEB(lite)"); an aggregate gives
    its parts.

    Raises ValueError for a benchmark that mteb does not know.
    """
    mteb = import_mteb()
    try:
        tasks = mteb.get_benchmark(benchmark).tasks
    except KeyError as error:
        raise ValueError(
            f"mteb has no benchmark {benchmark!r}; {_reason(error)}"
        ) from None
    return list(
        dict.fromkeys(part.metadata.name for task in tasks for part in parts_of(task))
    )


def parts_of(task: MtebTask) -> list[MtebTask]:
    """The tasks that an aggregate averages (VisualSTS-b-Eng, CQADupstackRetrieval), or the task
    itself.
    """
    return (
        [part for one in task.metadata.tasks for part in parts_of(one)]
        if task.is_aggregate
        else [task]
    )


def find_mteb_task(
    name: str,
    *,
    folder: Path | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> MtebTask:
    """A task of mteb by its name, not loaded yet.

    folder: where data sets lie as on the hub, each below its id (FOLDER/mteb/scifact) or below the
        last part of it; None: the hub, or its cache.
    split, subset: only these.

    Raises ValueError for a name, a split or a subset that is not mteb's, and for data that is not
    in `folder`.
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
            f"mteb task {name!r} has no subset {subset!r}; choose of {known}."
        ) from None
    if split is not None and split not in task.metadata.eval_splits:
        raise ValueError(
            f"mteb task {name!r} has no split {split!r}; choose of "
            f"{', '.join(task.metadata.eval_splits)}."
        )
    if folder is not None:
        for part in parts_of(task):
            repoint(part, _local_folder(part, folder))
    return task


def repoint(task: MtebTask, folder: Path) -> None:
    """Let a task read a local folder that is laid out as its data set on the hub.

    The recorded revision becomes "local-" and a hash of the files, so that results say what they
    are results of.
    """
    digest = xxhash.xxh3_128()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(
            f"{file.relative_to(folder).as_posix()} {file.stat().st_size}".encode()
        )
        with open(file, "rb") as opened:
            while block := opened.read(1 << 24):
                digest.update(block)
    settings = {
        **task.metadata.dataset,
        "path": str(folder.resolve()),
        "revision": LOCAL + digest.hexdigest(),
    }
    # The metadata belongs to the class of the task: a copy, or every other task of the class moves
    # too.
    task.metadata = task.metadata.model_copy(update={"dataset": settings})


def load_mteb_task(
    name: str,
    *,
    folder: Path | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> RetrievalData | PairData | ZeroShotData:
    """Read a task of mteb: retrieval of texts and images, STS, or zero-shot classification of
    images.

    folder: as for `find_mteb_task`.
    split: the one that mteb scores; needed where it scores several.
    subset: of a task in several languages, the one to read.

    Raises ValueError for a kind of task that is not read, for missing data (with how to get it) and
    for ids that are not unique.
    """
    task = find_mteb_task(name, folder=folder, split=split, subset=subset)
    if task.is_aggregate:
        raise ValueError(
            f"mteb task {name!r} is an average; read "
            f"{', '.join(t.metadata.name for t in parts_of(task))}."
        )
    split = _only(task.eval_splits, name, "split")
    subset = _only(task.hf_subsets, name, "subset")
    load_data(task)
    return read_mteb_task(task, split, subset)


def load_data(task: MtebTask) -> None:
    """Load the rows of a task; ValueError that says how to get them where they are missing."""
    try:
        with _own_cache(str(task.metadata.dataset["revision"])):
            task.load_data()
    except (
        OSError,
        ValueError,
        KeyError,
        yaml.YAMLError,
    ) as error:  # what `datasets` raises, offline and online, for one fact
        name = task.metadata.name
        path = task.metadata.dataset["path"]
        raise ValueError(
            f"the data of mteb task {name!r} cannot be read from {path!r} "
            f"({' '.join(str(error).split())[:200]}); with the hub in reach, fetch it below a "
            f"folder DATA with: {_fetch_command(task, Path('DATA'))}"
        ) from None
    if hasattr(task, "convert_v1_dataset_format_to_v2"):
        task.convert_v1_dataset_format_to_v2(num_proc=None)


@contextlib.contextmanager
def _own_cache(revision: str) -> Iterator[None]:
    """A cache for each state of a local folder: `datasets` would return what it read there before
    its files changed.
    """
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
    """One split and subset of a loaded task; raises as `load_mteb_task`."""
    from mteb.abstasks import (
        AbsTaskRetrieval,
        AbsTaskSTS,
        AbsTaskZeroShotClassification,
    )

    where = "/".join(
        [task.metadata.name, split, *([] if subset == "default" else [subset])]
    )
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
        "of texts and zero-shot classification are read as data, and mteb itself scores the "
        "others."
    )


def _retrieval(task: MtebTask, part: Any, where: str) -> RetrievalData:
    if part["top_ranked"]:
        raise ValueError(
            f"mteb task {where!r} ranks given candidates again and not a whole corpus; "
            "mteb scores it."
        )
    judged = part["relevant_docs"]
    metadata = task.metadata
    document_ids = _unique_ids(part["corpus"], f"documents of {where}")
    position = {name: number for number, name in enumerate(document_ids)}
    all_ids = _unique_ids(part["queries"], f"queries of {where}")
    found = [
        {name: float(gain) for name, gain in judged.get(query, {}).items() if gain > 0}
        for query in all_ids
    ]
    asked = [number for number, relevant in enumerate(found) if relevant]
    if not any(name in position for relevant in found for name in relevant):
        raise ValueError(
            f"no query of mteb task {where!r} has a relevant document; the qrels do not "
            "fit the corpus."
        )
    notes = _notes_of_lost(judged, found, position, set(all_ids))
    for note in notes:
        warnings.warn(f"{where}: {note}", stacklevel=2)
    relevant = [
        [name for name in found[number] if name in position] for number in asked
    ]
    gains = [
        [found[number][name] for name in some]
        for number, some in zip(asked, relevant, strict=True)
    ]
    lost = [
        [gain for name, gain in found[number].items() if name not in position]
        for number in asked
    ]
    from mteb.types import PromptType

    query_modalities = metadata.get_modalities(PromptType.query)
    document_modalities = metadata.get_modalities(PromptType.document)
    asked_rows = (
        part["queries"] if len(asked) == len(all_ids) else part["queries"].select(asked)
    )
    queries = table_inputs(asked_rows, f"{where} query", query_modalities, "query")
    documents = table_inputs(
        part["corpus"], f"{where} document", document_modalities, "document"
    )
    query_ids = [all_ids[number] for number in asked]
    excluded: list[list[int]] | None = None
    if task.ignore_identical_ids:
        excluded = [[position[name]] if name in position else [] for name in query_ids]
    elif task.skip_first_result:
        excluded = _themselves(queries, documents, document_ids, where)
    return RetrievalData(
        queries=queries,
        documents=documents,
        relevant=[[position[name] for name in some] for some in relevant],
        gains=None
        if all(gain == 1 for row in [*gains, *lost] for gain in row)
        else gains,
        query_ids=query_ids,
        document_ids=document_ids,
        excluded=excluded,
        lost=lost if any(lost) else None,
        notes=tuple(notes),
    )


def _themselves(
    queries: Sequence[Input],
    documents: Sequence[Input],
    document_ids: Sequence[str],
    where: str,
) -> list[list[int]]:
    """For each query the document that is the query itself, where mteb leaves out the best result
    for being it.
    """
    same: dict[object, int] = {}
    for number in sorted(
        range(len(documents)), key=document_ids.__getitem__
    ):  # of equal ones, the first to be found
        same[_content(documents[number])] = number
    found = [same.get(_content(query)) for query in queries]
    strange = sum(1 for one in found if one is None)
    if strange:
        warnings.warn(
            f"{where}: {strange} of {len(queries)} queries are not among the documents; mteb "
            "leaves out their best result all the same, and here they search all documents.",
            stacklevel=2,
        )
    return [[] if one is None else [one] for one in found]


def _content(one: Input) -> object:
    if isinstance(one, Fused):
        return one.text, _content(one.image)
    return xxhash.xxh3_128_digest(one.read()) if isinstance(one, Deferred) else one


def _notes_of_lost(
    judged: Mapping[str, Mapping[str, int]],
    found: Sequence[Mapping[str, float]],
    position: Mapping[str, int],
    query_ids: set[str],
) -> list[str]:
    """What is judged and not there; scored as mteb and trec_eval do, but for queries without
    relevant documents.
    """
    lost = list(
        dict.fromkeys(
            name for relevant in found for name in relevant if name not in position
        )
    )
    num_hit = sum(any(name not in position for name in relevant) for relevant in found)
    silent = [
        query
        for query, grades in judged.items()
        if query in query_ids and not any(g > 0 for g in grades.values())
    ]
    notes = []
    if silent:
        notes.append(
            f"{len(silent)} queries have no relevant document and are left out, where mteb "
            f"counts them as 0 (first {silent[0]!r})"
        )
    if lost:
        notes.append(
            f"{len(lost)} relevant documents (of {num_hit} queries) are not in the corpus and "
            f"count as not found (first {lost[0]!r})"
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
                f"label {unknown[0]!r} of {where} is none of its classes, {', '.join(names[:8])}."
            )
        labels = [position[label] for label in labels]
    images = [
        given_image(one, where)
        for one in table_images(rows, task.input_column_name, where)
    ]
    return ZeroShotData(images, [int(label) for label in labels], names, ["{c}"])


def _unique_ids(rows: Table, where: str) -> list[str]:
    ids = [str(one) for one in rows["id"]]
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(one for one in ids if one in seen or seen.add(one))  # type: ignore[func-returns-value]
        raise ValueError(
            f"{where}: the id {twice!r} is there twice; ids have to be unique."
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
        f"the data of mteb task {task.metadata.name!r} is not at {str(root / hub)!r}; "
        f"fetch it with: {_fetch_command(task, root)}"
    )


def _fetch_command(task: MtebTask, root: Path) -> str:
    settings = type(task).metadata.dataset  # those of the hub, wherever this one reads
    return (
        f"hf download --repo-type dataset {settings['path']} --revision {settings['revision']} "
        f"--local-dir {root / str(settings['path'])}"
    )


def _reason(error: KeyError) -> str:
    return str(error.args[0]).removeprefix("KeyError: ")
