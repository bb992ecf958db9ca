from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytrec_eval

from eval.data.beir import read_beir
from eval.data.inputs import Deferred, Fused
from eval.data.retrieval import RetrievalData
from eval.scoring.retrieval import chances, vector_values
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
    (tmp_path / "qrels" / "train.jsonl").write_text(
        lines({"query-id": "q3", "corpus-id": "d1", "score": 1.0})
    )
    configs = [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "qrels/train.jsonl"},
                {"split": "test", "path": "qrels/test.jsonl"},
            ],
        },
        {
            "config_name": "corpus",
            "data_files": [{"split": "corpus", "path": "corpus.jsonl"}],
        },
        {
            "config_name": "queries",
            "data_files": [{"split": "queries", "path": "queries.jsonl"}],
        },
    ]
    (tmp_path / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    assert read_beir(tmp_path) == EXPECTED
    assert read_beir(tmp_path, "train").queries == ["of train"]


def test_nanobeir_has_no_scores_and_its_split_is_train(tmp_path: Path) -> None:
    qrels = [{"query-id": q, "corpus-id": d} for q, d, s in QRELS if s]
    corpus = [
        {"_id": row["_id"], "text": row["text"] or row["title"]} for row in CORPUS
    ]
    data = read_beir(write_tables(tmp_path, corpus, QUERIES[:2], qrels), "train")
    assert data.relevant == [[1, 0], [1]]
    assert data.gains is None
    assert data.documents == ["Cells are small.", "Atoms are smaller.", "Quarks"]


def test_pages_are_found_as_images(tmp_path: Path) -> None:
    corpus = [
        {"corpus-id": n, "image": {"bytes": b"page %d" % n, "path": None}}
        for n in range(3)
    ]
    queries = [{"query-id": n, "query": f"question {n}"} for n in range(2)]
    qrels = [{"query-id": n, "corpus-id": 2 - n, "score": 1} for n in range(2)]
    data = read_beir(write_tables(tmp_path, corpus, queries, qrels))
    assert data.queries == ["question 0", "question 1"]
    assert data.relevant == [[2], [1]]
    assert data.document_ids == ["0", "1", "2"]
    assert [one.read() for one in data.documents if isinstance(one, Deferred)] == [
        b"page 0",
        b"page 1",
        b"page 2",
    ]


def test_an_image_with_a_text_is_both_together(tmp_path: Path) -> None:
    corpus = [{"id": "a", "text": "a page", "image": {"bytes": b"page", "path": None}}]
    data = read_beir(
        write_tables(
            tmp_path,
            corpus,
            [{"id": "q", "text": "x"}],
            [{"query-id": "q", "corpus-id": "a"}],
        )
    )
    assert isinstance(data.documents[0], Fused)
    assert data.documents[0].text == "a page"


def test_a_language_is_a_subset_of_the_repository(tmp_path: Path) -> None:
    for name, rows in (
        ("de-corpus", [{"id": "a", "text": "Zelle"}]),
        ("de-queries", [{"id": "q", "text": "klein"}]),
        ("de-qrels", [{"query-id": "q", "corpus-id": "a", "score": 1}]),
    ):
        (tmp_path / name).mkdir()
        pq.write_table(
            pa.Table.from_pylist(rows), tmp_path / name / "test-00000-of-00001.parquet"
        )
    assert read_beir(tmp_path, subset="de").documents == ["Zelle"]


def test_a_query_does_not_search_the_document_of_its_id(tmp_path: Path) -> None:
    assert read_beir(write_beir(tmp_path / "set"), without_itself=True).excluded == [
        [],
        [2],
    ]


def test_what_is_left_out_or_stands_for_nothing_is_counted(tmp_path: Path) -> None:
    corpus = [*CORPUS, {"_id": "d4", "title": "", "text": " "}]
    qrels = [*QRELS, ("q3", "d1", 0)]
    with pytest.warns(UserWarning, match="documents|queries") as told:
        data = read_beir(write_beir(tmp_path / "set", corpus, QUERIES, qrels))
    assert [str(one.message).replace(str(tmp_path), "") for one in told] == [
        "/set: 1 documents are empty and stand as '.'",
        "/set: 1 queries have no relevant document and are left out",
    ]
    assert data.documents == [*EXPECTED.documents, "."]
    assert (data.queries, data.relevant, data.gains) == (
        EXPECTED.queries,
        EXPECTED.relevant,
        EXPECTED.gains,
    )


def test_an_empty_document_is_read_without_torch(tmp_path: Path) -> None:
    folder = write_beir(
        tmp_path / "set", [*CORPUS, {"_id": "d4", "title": "", "text": ""}]
    )
    program = f"""import sys, pathlib; from eval.data.beir import read_beir
print(read_beir(pathlib.Path({str(folder)!r})).documents[-1], "torch" in sys.modules)"""
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert finished.stdout.split() == [".", "False"]


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels", "message"),
    [
        (
            [*CORPUS, CORPUS[0]],
            QUERIES,
            QRELS,
            "document of .*: id 'd1' is there twice",
        ),
        (CORPUS, [*QUERIES, QUERIES[0]], QRELS, "query of .*: id 'q1' is there twice"),
        (
            CORPUS,
            QUERIES,
            [*QRELS, ("q1", "D1", 1)],
            "qrels of .* name the document 'D1', which is there as 'd1'; ",
        ),
        (
            CORPUS,
            QUERIES,
            [*QRELS, ("Q2", "d1", 1)],
            "qrels of .* name the query 'Q2', which is there as 'q2'; ",
        ),
        (
            CORPUS,
            QUERIES,
            [*QRELS, ("q2", "d2", 2)],
            "judge document 'd2' for query 'q2' as 1 and as 2; keep one",
        ),
        (
            CORPUS,
            QUERIES,
            [("q1", "x1", 1)],
            "fit none of its queries and documents: they name query 'q1' and docum",
        ),
        (
            CORPUS,
            QUERIES,
            [("x1", "d1", 1)],
            "fit none of its queries and documents: they name query 'x1' and docum",
        ),
        (CORPUS, QUERIES, [("q1", "d1", 0)], "hold no grade above 0; check the split"),
        (
            CORPUS,
            QUERIES,
            [("q1", "d1", "high")],
            "query-id, corpus-id and score; repair the row",
        ),
        (
            CORPUS,
            QUERIES,
            [("q1", "d1", "nan")],
            "the score of .* is not a number; repair the row",
        ),
        (
            [{"name": "x", "text": "y"}],
            QUERIES,
            QRELS,
            r"has no _id, id or corpus-id; it has \['name', 'text'\]",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(
    tmp_path: Path,
    corpus: list[dict[str, Any]],
    queries: list[dict[str, Any]],
    qrels: list[Any],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        read_beir(write_beir(tmp_path / "set", corpus, queries, qrels))


def test_what_is_lost_counts_as_not_found_and_is_said(tmp_path: Path) -> None:
    qrels = [*QRELS, ("q1", "d9", 3), ("q9", "d1", 1), ("q3", "d8", 1), ("q2", "d2", 1)]
    with pytest.warns(UserWarning, match="d9|q9|twice"):
        data = read_beir(write_beir(tmp_path / "set", qrels=qrels))
    assert data.query_ids == ["q1", "q2", "q3"]
    assert data.relevant == [[1, 0], [1], []]
    assert data.gains == [[2, 1], [1], []]
    assert data.lost == [[3], [], [1]]
    assert data.notes == (
        "1 judgements are there twice and count once",
        "1 judged queries are not among the queries and are left out (first 'q9')",
        "2 relevant documents (of 2 queries) are not in the corpus and count as not "
        "found (first 'd9')",
    )


@pytest.mark.filterwarnings("ignore:.*not in the corpus")
def test_a_set_with_lost_documents_scores_as_trec_eval_does(tmp_path: Path) -> None:
    data = read_beir(
        write_beir(tmp_path / "set", qrels=[*QRELS, ("q1", "d9", 3), ("q3", "d8", 1)])
    )
    vectors = np.eye(4, dtype=np.float32)
    queries = vectors[[0, 1, 2]]
    documents = vectors[[0, 1, 2]]  # each query's best is the document of its number
    metrics = ["ndcg_at_2", "recall_at_2", "map_at_2", "hit_rate_at_2"]
    values = vector_values(data.judgements, metrics, queries, documents)
    run = {
        query: {
            document: float(score)
            for document, score in zip(data.document_ids or [], row, strict=True)
        }
        for query, row in zip(data.query_ids or [], queries @ documents.T, strict=True)
    }
    judged = {
        "q1": {"d2": 2, "d1": 1, "q2": 0, "d9": 3},
        "q2": {"d2": 1},
        "q3": {"d8": 1},
    }
    theirs = pytrec_eval.RelevanceEvaluator(
        judged, {"ndcg_cut.2", "recall.2", "map_cut.2", "success.2"}
    ).evaluate(run)
    for metric, name in zip(
        metrics, ["ndcg_cut_2", "recall_2", "map_cut_2", "success_2"], strict=True
    ):
        expected = [theirs[query][name] for query in ("q1", "q2", "q3")]
        np.testing.assert_allclose(values[metric], expected, atol=1e-6)
    by_chance = 2 / 3 * np.mean([2 / 3, 1, 0])  # two of three documents are drawn
    assert chances(data.judgements, ["recall_at_2"]) == {
        "recall_at_2": pytest.approx(by_chance)
    }


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\r\nq1\td2\t2\r\nq1\td1\t1\r\nq1\tq2\t0\r\nq2\td2\t1\r\n",
        "\ufeffquery-id\tcorpus-id\tscore\nq1\td2\t2\nq1\td1 \t1\n q1\tq2\t-1\nq2\td2\t1\n\n",
        "q1\td2\t2\nq1\td1\t1\nq1\tq2\t0\nq2\td2\t1\n",
        "q1\t0\td2\t2\nq1\t0\td1\t1\nq1\t0\tq2\t0\nq2\t0\td2\t1\n",
        "q1 Q0 d2 2\nq1 Q0 d1 1\nq1 Q0 q2 0\nq2 Q0 d2 1\n",
        "qid\tdocid\trel\nq1\td2\t2\nq1\td1\t1\nq1\tq2\t0\nq2\td2\t1\n",
        "corpus-id\tquery-id\tscore\nd2\tq1\t2\nd1\tq1\t1\nq2\tq1\t0\nd2\tq2\t1\n",
    ],
    ids=[
        "Windows",
        "mark, blanks, negative",
        "no header",
        "trec",
        "trec with blanks",
        "other names",
        "other order",
    ],
)
def test_qrels_are_read_as_the_world_writes_them(tmp_path: Path, text: str) -> None:
    folder = write_beir(tmp_path / "set")
    (folder / "qrels/test.tsv").write_bytes(text.encode())
    assert read_beir(folder) == EXPECTED


def test_numbers_and_their_texts_are_one_id(tmp_path: Path) -> None:
    corpus = [{"_id": 1, "text": "Zelle"}, {"_id": 2, "text": "Atom"}]
    queries = [{"_id": " 7 ", "text": "klein"}]
    qrels = [{"query-id": 7.0, "corpus-id": "2", "score": 1}]
    data = read_beir(write_tables(tmp_path, corpus, queries, qrels))
    assert (data.query_ids, data.document_ids, data.relevant) == (
        ["7"],
        ["1", "2"],
        [[1]],
    )


def test_a_quote_in_qrels_is_a_letter(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "set", [*CORPUS, {"_id": '"d4', "text": "x"}])
    with (folder / "qrels/test.tsv").open("a") as file:
        file.write('q2\t"d4\t1\n')
    assert read_beir(folder).relevant == [[1, 0], [1, 3]]


def test_a_broken_row_of_qrels_is_named_by_its_line(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "set")
    with (folder / "qrels/test.tsv").open("a") as file:
        file.write("q2\td2\n")
    with pytest.raises(
        ValueError, match=r"test\.tsv, line 6: .* is not query-id, corpus-id and score"
    ):
        read_beir(folder)


def test_what_is_not_relevant_need_not_be_there(tmp_path: Path) -> None:
    assert (
        read_beir(write_beir(tmp_path / "set", qrels=[*QRELS, ("q1", "d9", 0)]))
        == EXPECTED
    )


def test_a_missing_text_or_title_is_not_a_word_and_a_missing_id_is_refused(
    tmp_path: Path,
) -> None:
    corpus: list[dict[str, Any]] = [
        {"_id": 1, "title": float("nan"), "text": "Cells."},
        {"_id": 2, "title": None, "text": ["Atoms", None, "quarks"]},
        {"_id": 3, "title": "Quarks", "text": float("nan")},
    ]
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq\t1\t1\n"
    )
    (tmp_path / "queries.jsonl").write_text(
        lines({"_id": "q", "text": None, "query": "what is small"})
    )
    (tmp_path / "corpus.jsonl").write_text(lines(*corpus))
    data = read_beir(tmp_path)
    assert data.documents == ["Cells.", "Atoms, quarks", "Quarks"]
    assert data.queries == ["what is small"]
    (tmp_path / "corpus.jsonl").write_text(lines(*corpus, {"_id": None, "text": "a"}))
    with pytest.raises(
        ValueError,
        match=r"in row 3 of corpus.jsonl the id is empty, and an id is a text or a whole",
    ):
        read_beir(tmp_path)


def test_empty_qrels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"qrels of .* are empty; check the split"):
        read_beir(write_beir(tmp_path / "set", qrels=[]))
