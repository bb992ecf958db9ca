"""Retrieval sets in BEIR's form: a corpus, queries, and qrels that say which document is how relevant to which query.

Either BEIR's own folders (corpus.jsonl, queries.jsonl, qrels/test.tsv; Thakur et al., 2021) or a repository of the
hub: mteb/scifact, zeta-alpha-ai/NanoSciFact, and with pictures vidore/docvqa_test_subsampled_beir.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterable
from pathlib import Path

from unimodal.rows import Row

from .datasets import NO_TEXT, Deferred, Fused, Input, RetrievalData
from .hub import table_files, table_rows


def read_beir(folder: Path, split: str = "test", subset: str = "", *, without_itself: bool = False) -> RetrievalData:
    """Queries and documents, texts or pictures, with graded relevance and the ids of the set.

    split: of the qrels. subset: a language or another part of a repository that holds several ("en" has the
        configurations en-corpus, en-queries and en-qrels).
    without_itself: a query does not search the document that has its id (mteb's `ignore_identical_ids`).

    A document is its title and its text, as mteb joins them; without either it stands as ".", and a warning counts
    those. Queries that the split does not judge are those of other splits and are left out; of those that it judges
    without finding anything relevant a warning says how many were left out.

    Raises ValueError, naming the folder: an id twice, qrels that name a query or a document that is not there, no
    qrels at all, an empty query.
    """
    prefix = f"{subset}-" if subset else ""
    qrels = table_files(folder, [f"{prefix}qrels"] if subset else ["default", "qrels"], split)
    documents = _inputs(table_files(folder, [f"{prefix}corpus"], split), "corpus-id", f"document of {folder}")
    names = [f"{prefix}queries", *([] if subset else ["query"])]
    queries = _inputs(table_files(folder, names, split), "query-id", f"query of {folder}")
    judged = _judgements(table_rows(qrels), queries, documents, folder)
    if silent := next((query for query in judged if queries.get(query) == ""), None):
        raise ValueError(f"query {silent!r} of {folder} is empty; remove it from the qrels.")
    if empty := [name for name, document in documents.items() if not document]:
        warnings.warn(f"{len(empty)} documents of {folder} are empty and stand as {NO_TEXT!r}", stacklevel=2)
        documents.update(dict.fromkeys(empty, NO_TEXT))
    positions = {name: number for number, name in enumerate(documents)}
    found = {query: {one: grade for one, grade in grades.items() if grade > 0} for query, grades in judged.items()}
    asked_for = [query for query in queries if found.get(query)]
    if len(asked_for) < len(judged):
        left_out = len(judged) - len(asked_for)
        warnings.warn(f"{left_out} queries of {folder} have no relevant document and are left out", stacklevel=2)
    gains = [list(found[query].values()) for query in asked_for]
    return RetrievalData(
        queries=[queries[query] for query in asked_for],
        documents=list(documents.values()),
        relevant=[[positions[document] for document in found[query]] for query in asked_for],
        gains=None if all(gain == 1 for of_query in gains for gain in of_query) else gains,
        query_ids=asked_for,
        document_ids=list(documents),
        excluded=[[positions[query]] if query in positions else [] for query in asked_for] if without_itself else None,
    )


def _inputs(files: list[Path], id_column: str, what: str) -> dict[str, Input]:
    """Id -> text, picture or both; of those that are neither an empty text."""
    inputs: dict[str, Input] = {}
    for number, row in enumerate(table_rows(files)):
        column = next((name for name in ("_id", "id", id_column) if name in row), None)
        if column is None:
            raise ValueError(f"{what}: row {number} of {files[0].name} has no _id, id or {id_column}; it has {[*row]}.")
        name = str(row[column])
        if name in inputs:
            raise ValueError(f"{what}: id {name!r} is there twice; ids must be distinct.")
        inputs[name] = _input(row)
    return inputs


def _input(row: Row) -> Input:
    text, picture = str(row.get("text") or row.get("query") or ""), row.get("image")
    if row.get("title"):
        text = f"{row['title']} {text}"
    text = text.strip()
    if isinstance(picture, Deferred):
        return Fused(text, picture) if text else picture
    return text


def _judgements(
    rows: Iterable[Row], queries: Container[str], documents: Container[str], folder: Path
) -> dict[str, dict[str, float]]:
    """Query -> the documents judged and how relevant each is; 0 or less says that it is not, wherever it is."""
    judged: dict[str, dict[str, float]] = {}
    for row in rows:
        try:
            query, document = str(row["query-id"]), str(row["corpus-id"])
            grade = float(row.get("score", 1))
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"qrels of {folder}: {row} is not query-id, corpus-id and score; repair the row."
            ) from None
        for name, known, what in ((query, queries, "query"), (document, documents, "document")):
            if name not in known and grade > 0:
                raise ValueError(
                    f"qrels of {folder} name the {what} {name!r}, which is not there; fetch the set again."
                )
        of_query = judged.setdefault(query, {})
        if document in of_query:
            raise ValueError(f"qrels of {folder} judge document {document!r} for query {query!r} twice; keep one.")
        of_query[document] = grade
    if not judged:
        raise ValueError(f"qrels of {folder} are empty; check the split.")
    return judged
