"""Retrieval sets in BEIR's form: a corpus, queries, and qrels (graded relevance judgements).

They are BEIR's own folders (corpus.jsonl, queries.jsonl, qrels/test.tsv; Thakur et al., 2021) or
repositories of the hub: mteb/scifact, zeta-alpha-ai/NanoSciFact, and with images
vidore/docvqa_test_subsampled_beir.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from unimodal.tables import fields
from unimodal.tables.fields import Row

from .from_rows import texts_of
from .hub import table_files, table_rows
from .inputs import NO_TEXT, Deferred, Fused, Input
from .retrieval import RetrievalData


def read_beir(
    folder: Path,
    split: str = "test",
    subset: str = "",
    *,
    without_itself: bool = False,
) -> RetrievalData:
    """Queries and documents, texts or images, with graded relevance and the ids of the set.

    split: of the qrels. subset: a language or another part of a repository that holds several ("en"
        has the configurations en-corpus, en-queries and en-qrels).
    without_itself: a query does not search the document that has its id (mteb's
        `ignore_identical_ids`).

    A document is its title and its text, as mteb joins them; what has neither stands as ".".
    Queries that the split does not judge are those of other splits and are left out.

    Judgements are scored as trec_eval does: a relevant document that is not in the corpus is never
    found, and stays in the ideal ranking and among those that recall counts. Judged queries that
    are not there, or without anything relevant, are left out. `notes` and warnings count all of
    these.

    Raises ValueError, naming the folder: an id twice, ids that differ in case or blanks alone,
    qrels none of whose relevant documents is there, two grades for one document, no qrels at all.
    """
    prefix = f"{subset}-" if subset else ""
    qrels = table_files(
        folder,
        [f"{prefix}qrels"] if subset else ["default", "qrels"],
        split,
    )
    documents = _inputs(
        table_files(folder, [f"{prefix}corpus"], split),
        "corpus-id",
        f"document of {folder}",
    )
    names = [f"{prefix}queries", *([] if subset else ["query"])]
    queries = _inputs(
        table_files(folder, names, split),
        "query-id",
        f"query of {folder}",
    )
    judged, num_repeated = _judgements(_qrels_rows(qrels), folder)
    grades = {query: _positive(of_query) for query, of_query in judged.items()}

    query_ids = [query for query in queries if grades.get(query)]
    lost_queries = [query for query in grades if query not in queries and grades[query]]
    lost: dict[str, list[str]] = {}
    for query in query_ids:
        lost[query] = [name for name in grades[query] if name not in documents]
    lost_documents = list(dict.fromkeys(itertools.chain(*lost.values())))
    _refuse_other_spelling(
        lost_documents,
        documents,
        f"qrels of {folder} name the document",
    )
    _refuse_other_spelling(lost_queries, queries, f"qrels of {folder} name the query")
    if all(len(lost[query]) == len(grades[query]) for query in query_ids):
        _refuse_foreign_qrels(grades, documents, queries, folder)

    num_without = sum(not grades[query] for query in grades if query in queries)
    num_hit = sum(map(bool, lost.values()))
    notes = [
        *_fill_empty(documents, documents, "documents"),
        *_fill_empty(queries, query_ids, "queries"),
        *_count_note(num_repeated, "judgements are there twice and count once"),
        *_count_note(
            num_without,
            "queries have no relevant document and are left out",
        ),
        *_count_note(
            len(lost_queries),
            "judged queries are not among the queries and are left out",
            lost_queries,
        ),
        *_count_note(
            len(lost_documents),
            f"relevant documents (of {num_hit} queries) are not in the corpus and count "
            "as not found",
            lost_documents,
        ),
    ]
    for note in notes:
        warnings.warn(f"{folder}: {note}", stacklevel=2)
    judged_queries = {query: queries[query] for query in query_ids}
    data = _build(judged_queries, documents, grades, lost)
    excluded = _own_documents(query_ids, documents) if without_itself else None
    return dataclasses.replace(data, excluded=excluded, notes=tuple(notes))


def _fill_empty(inputs: dict[str, Input], names: Iterable[str], what: str) -> list[str]:
    """Put "." in the place of empty texts; a note of how many there are."""
    empty = [name for name in names if not inputs[name]]
    inputs.update(dict.fromkeys(empty, NO_TEXT))
    return _count_note(len(empty), f"{what} are empty and stand as '.'")


def _own_documents(
    query_ids: Sequence[str], documents: Iterable[str]
) -> list[list[int]]:
    """Of each query the position of the document with its id, if there is one."""
    positions = {name: number for number, name in enumerate(documents)}
    return [[positions[query]] if query in positions else [] for query in query_ids]


def _build(
    queries: Mapping[str, Input],
    documents: Mapping[str, Input],
    grades: Mapping[str, Mapping[str, float]],
    lost: Mapping[str, Sequence[str]],
) -> RetrievalData:
    """The data of queries and documents by id, with the grades of relevant documents."""
    positions = {name: number for number, name in enumerate(documents)}
    relevant: list[list[int]] = []
    gains: list[list[float]] = []
    lost_gains: list[list[float]] = []
    for query in queries:
        known = [document for document in grades[query] if document in positions]
        relevant.append([positions[document] for document in known])
        gains.append([grades[query][document] for document in known])
        lost_gains.append([grades[query][document] for document in lost[query]])
    all_gains = [gain for some in [*gains, *lost_gains] for gain in some]
    return RetrievalData(
        queries=list(queries.values()),
        documents=list(documents.values()),
        relevant=relevant,
        gains=None if all(gain == 1 for gain in all_gains) else gains,
        query_ids=list(queries),
        document_ids=list(documents),
        lost=lost_gains if any(lost_gains) else None,
    )


def _positive(grades: Mapping[str, float]) -> dict[str, float]:
    return {document: grade for document, grade in grades.items() if grade > 0}


def id_of(value: object) -> str:
    """An id as it is compared: a text without blanks around it.

    Raises ValueError for a missing id.
    """
    return fields.id_of(value, "the id").strip()


def _count_note(count: int, what: str, names: Sequence[str] = ()) -> list[str]:
    """A note of a count, unless it is 0."""
    first = f" (first {names[0]!r})" if names else ""
    return [f"{count} {what}{first}"] if count else []


def _refuse_other_spelling(
    lost: Iterable[str], known: Iterable[str], what: str
) -> None:
    """Raise ValueError for ids that differ in spelling: the files do not fit together."""
    lost = list(lost)
    spellings = {_folded(name): name for name in known} if lost else {}
    for name in lost:
        other = spellings.get(_folded(name))
        if other is not None:
            raise ValueError(
                f"{what} {name!r}, which is there as {other!r}; write both ids alike."
            )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _refuse_foreign_qrels(
    grades: Mapping[str, Mapping[str, float]],
    documents: Iterable[str],
    queries: Iterable[str],
    folder: Path,
) -> None:
    """Raise ValueError for qrels without any document of the set."""
    query = next((query for query, some in grades.items() if some), None)
    if query is None:
        raise ValueError(
            f"qrels of {folder} hold no grade above 0; check the split and the column of the grade."
        )
    raise ValueError(
        f"qrels of {folder} fit none of its queries and documents: they name query {query!r} and "
        f"document {next(iter(grades[query]))!r}, and the set has query "
        f"{next(iter(queries), '')!r} and document {next(iter(documents), '')!r}; fetch all "
        "files of one set."
    )


def _inputs(files: list[Path], id_column: str, what: str) -> dict[str, Input]:
    """Id -> text, image or both; an empty text for a row that has neither."""
    inputs: dict[str, Input] = {}
    for number, row in enumerate(table_rows(files)):
        column = next(
            (name for name in ("_id", "id", id_column) if name in row),
            None,
        )
        if column is None:
            raise ValueError(
                f"{what}: row {number} of {files[0].name} has no _id, id or {id_column}; "
                f"it has {[*row]}."
            )
        try:
            name = id_of(row[column])
        except ValueError as error:
            raise ValueError(
                f"{what}: in row {number} of {files[0].name} {error}; repair the row."
            ) from None
        if name in inputs:
            raise ValueError(
                f"{what}: id {name!r} is there twice; ids must be distinct."
            )
        inputs[name] = _input(row)
    return inputs


def _input(row: Row) -> Input:
    texts = texts_of(row, "text") or texts_of(row, "query")
    image = row.get("image")
    text = " ".join([*texts_of(row, "title"), ", ".join(texts)]).strip()
    if isinstance(image, Deferred):
        return Fused(text, image) if text else image
    return text


def _judgements(
    rows: Iterable[Row], folder: Path
) -> tuple[dict[str, dict[str, float]], int]:
    """Query -> document -> grade (0 or less: not relevant), and how many rows are repeated."""
    judged: dict[str, dict[str, float]] = {}
    num_repeated = 0
    for row in rows:
        try:
            query = id_of(row["query-id"])
            document = id_of(row["corpus-id"])
            grade = float(row.get("score", 1))
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"qrels of {folder}: {row} is not query-id, corpus-id and score; repair the row."
            ) from None
        if not math.isfinite(grade):
            raise ValueError(
                f"qrels of {folder}: the score of {row} is not a number; repair the row."
            )
        of_query = judged.setdefault(query, {})
        if of_query.get(document, grade) != grade:
            raise ValueError(
                f"qrels of {folder} judge document {document!r} for query {query!r} as "
                f"{of_query[document]:g} and as {grade:g}; keep one."
            )
        num_repeated += document in of_query
        of_query[document] = grade
    if not judged:
        raise ValueError(f"qrels of {folder} are empty; check the split.")
    return judged, num_repeated


def _qrels_rows(files: Iterable[Path]) -> Iterator[Row]:
    for path in files:
        yield from (_qrels_lines(path) if path.suffix == ".tsv" else table_rows([path]))


def _qrels_lines(path: Path) -> Iterator[Row]:
    """Judgements as text: query, document and grade, or trec_eval's four columns.

    There may be a header. Tabs separate the columns, or blanks in a line without tabs; nothing is
    quoted.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}); save it as UTF-8.") from None
    columns: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = line.split("\t") if "\t" in line else line.split()
        cells = [part.strip() for part in parts]
        is_first = not columns
        columns = columns or _columns_of(cells)
        if len(cells) <= max(columns.values()):
            raise ValueError(
                f"{path}, line {number}: {line!r} is not query-id, corpus-id and score; "
                "repair the row."
            )
        row = {name: cells[column] for name, column in columns.items()}
        if is_first and (row["query-id"] == "query-id" or not _is_number(row["score"])):
            continue  # a header
        yield row


def _columns_of(cells: Sequence[str]) -> dict[str, int]:
    """The columns of the ids and the grade: by the header, or in BEIR's or trec_eval's order."""
    if "query-id" in cells and "corpus-id" in cells:
        names = ("query-id", "corpus-id", "score")
        return {name: cells.index(name) for name in names if name in cells}
    if len(cells) == 4:
        return {"query-id": 0, "corpus-id": 2, "score": 3}
    return {"query-id": 0, "corpus-id": 1, "score": 2}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
