from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.data.beir import read_beir
from eval.data.datasets import Deferred, Fused, RetrievalData
from tests.eval.layouts import CORPUS, QRELS, QUERIES, lines, write_beir, write_tables

EXPECTED = RetrievalData(
    queries=["what is small", "quarks"],
    documents=["Cells Cells are small.", "Atoms are smaller.", "Quarks"],
    relevant=[[1, 0], [1]],
    gains=[[2, 1], [1]],
    query_ids=["q1", "q2"],
    document_ids=["d1", "d2", "q2"],
)


def test_a_folder_of_beir_is_read_with_grades_and_ids(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_beir(write_beir(tmp_path / "set")) == EXPECTED


def test_the_hub_s_layout_of_mteb_gives_the_same(tmp_path: Path) -> None:
    write_beir(tmp_path)
    qrels = [{"query-id": q, "corpus-id": d, "score": float(s)} for q, d, s in QRELS]
    (tmp_path / "qrels" / "test.tsv").unlink()
    (tmp_path / "qrels" / "test.jsonl").write_text(lines(*qrels))
    (tmp_path / "qrels" / "train.jsonl").write_text(lines({"query-id": "q3", "corpus-id": "d1", "score": 1.0}))
    configs = [
        {"config_name": "default", "data_files": [
            {"split": "train", "path": "qrels/train.jsonl"}, {"split": "test", "path": "qrels/test.jsonl"},
        ]},
        {"config_name": "corpus", "data_files": [{"split": "corpus", "path": "corpus.jsonl"}]},
        {"config_name": "queries", "data_files": [{"split": "queries", "path": "queries.jsonl"}]},
    ]  # fmt: skip
    (tmp_path / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    assert read_beir(tmp_path) == EXPECTED
    assert read_beir(tmp_path, "train").queries == ["of train"]


def test_nanobeir_has_no_scores_and_its_split_is_train(tmp_path: Path) -> None:
    qrels = [{"query-id": q, "corpus-id": d} for q, d, s in QRELS if s]
    corpus = [{"_id": row["_id"], "text": row["text"] or row["title"]} for row in CORPUS]
    data = read_beir(write_tables(tmp_path, corpus, QUERIES[:2], qrels), "train")
    assert data.relevant == [[1, 0], [1]]
    assert data.gains is None
    assert data.documents == ["Cells are small.", "Atoms are smaller.", "Quarks"]


def test_pages_are_found_as_pictures(tmp_path: Path) -> None:
    corpus = [{"corpus-id": n, "image": {"bytes": b"page %d" % n, "path": None}} for n in range(3)]
    queries = [{"query-id": n, "query": f"question {n}"} for n in range(2)]
    qrels = [{"query-id": n, "corpus-id": 2 - n, "score": 1} for n in range(2)]
    data = read_beir(write_tables(tmp_path, corpus, queries, qrels))
    assert data.queries == ["question 0", "question 1"]
    assert data.relevant == [[2], [1]]
    assert data.document_ids == ["0", "1", "2"]
    assert [one.read() for one in data.documents if isinstance(one, Deferred)] == [b"page 0", b"page 1", b"page 2"]


def test_a_picture_with_a_text_is_both_together(tmp_path: Path) -> None:
    corpus = [{"id": "a", "text": "a page", "image": {"bytes": b"page", "path": None}}]
    data = read_beir(write_tables(tmp_path, corpus, [{"id": "q", "text": "x"}], [{"query-id": "q", "corpus-id": "a"}]))
    assert isinstance(data.documents[0], Fused)
    assert data.documents[0].text == "a page"


def test_a_language_is_a_subset_of_the_repository(tmp_path: Path) -> None:
    for name, rows in (
        ("de-corpus", [{"id": "a", "text": "Zelle"}]),
        ("de-queries", [{"id": "q", "text": "klein"}]),
        ("de-qrels", [{"query-id": "q", "corpus-id": "a", "score": 1}]),
    ):
        (tmp_path / name).mkdir()
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name / "test-00000-of-00001.parquet")
    assert read_beir(tmp_path, subset="de").documents == ["Zelle"]


def test_a_query_does_not_search_the_document_of_its_id(tmp_path: Path) -> None:
    assert read_beir(write_beir(tmp_path / "set"), without_itself=True).excluded == [[], [2]]


def test_what_is_left_out_or_stands_for_nothing_is_counted(tmp_path: Path) -> None:
    corpus = [*CORPUS, {"_id": "d4", "title": "", "text": " "}]
    qrels = [*QRELS, ("q3", "d1", 0)]
    with pytest.warns(UserWarning, match="documents|queries") as told:
        data = read_beir(write_beir(tmp_path / "set", corpus, QUERIES, qrels))
    assert [str(one.message).replace(str(tmp_path), "") for one in told] == [
        "1 documents of /set are empty and stand as '.'",
        "1 queries of /set have no relevant document and are left out",
    ]
    assert data.documents == [*EXPECTED.documents, "."]
    assert (data.queries, data.relevant, data.gains) == (EXPECTED.queries, EXPECTED.relevant, EXPECTED.gains)


def test_an_empty_document_is_read_without_torch(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "set", [*CORPUS, {"_id": "d4", "title": "", "text": ""}])
    program = f"""import sys, pathlib; from eval.data.beir import read_beir
print(read_beir(pathlib.Path({str(folder)!r})).documents[-1], "torch" in sys.modules)"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == [".", "False"]


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels", "message"),
    [
        ([*CORPUS, CORPUS[0]], QUERIES, QRELS, "document of .*: id 'd1' is there twice"),
        (CORPUS, [*QUERIES, QUERIES[0]], QRELS, "query of .*: id 'q1' is there twice"),
        (CORPUS, QUERIES, [*QRELS, ("q1", "d9", 1)], "qrels of .* name the document 'd9', which is not there"),
        (CORPUS, QUERIES, [*QRELS, ("q9", "d1", 1)], "qrels of .* name the query 'q9', which is not there"),
        (CORPUS, QUERIES, [*QRELS, ("q2", "d2", 1)], "qrels of .* judge document 'd2' for query 'q2' twice"),
        (CORPUS, [*QUERIES, {"_id": "q4", "text": ""}], [("q4", "d1", 1)], "query 'q4' of .* is empty"),
        (CORPUS, QUERIES, [("q1", "d1", "high")], "query-id, corpus-id and score; repair the row"),
        ([{"name": "x", "text": "y"}], QUERIES, QRELS, r"has no _id, id or corpus-id; it has \['name', 'text'\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_named(
    tmp_path: Path, corpus: list[dict[str, Any]], queries: list[dict[str, Any]], qrels: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_beir(write_beir(tmp_path / "set", corpus, queries, qrels))


def test_what_is_not_relevant_need_not_be_there(tmp_path: Path) -> None:
    assert read_beir(write_beir(tmp_path / "set", qrels=[*QRELS, ("q1", "d9", 0)])) == EXPECTED


def test_empty_qrels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 of 0 rows are left"):
        read_beir(write_beir(tmp_path / "set", qrels=[]))
