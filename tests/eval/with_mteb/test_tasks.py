from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from eval.data.inputs import NO_TEXT, Deferred, Fused
from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.data.zero_shot import ZeroShotData
from eval.with_mteb.tables import table_images, table_inputs
from eval.with_mteb.tasks import (
    find_mteb_task,
    import_mteb,
    list_mteb_tasks,
    load_mteb_task,
    read_mteb_task,
)
from tests.eval.mteb_hub import image_rows, jpeg, write_retrieval


def retrieval(name: str, hub: Path) -> RetrievalData:
    data = load_mteb_task(name, folder=hub)
    assert isinstance(data, RetrievalData)
    return data


@pytest.mark.filterwarnings("ignore:.*stand as")
def test_a_text_task_keeps_ids_grades_and_titles_and_leaves_out_unjudged_queries(
    hub: Path,
) -> None:
    data = retrieval("SciFact", hub)
    assert (len(data.queries), len(data.documents)) == (20, 60)
    assert data.query_ids is not None
    assert data.document_ids is not None
    assert data.gains is not None
    first = {
        data.document_ids[n]: gain
        for n, gain in zip(data.relevant[1], data.gains[1], strict=True)
    }
    assert (data.query_ids[1], first) == ("q1", {"d3": 2.0, "d2": 1.0})
    assert str(data.documents[3]).startswith("title 3 ")
    data.check("SciFact")


def test_an_empty_document_becomes_a_dot_with_a_warning(hub: Path) -> None:
    with pytest.warns(
        UserWarning,
        match=r"SciFact/test document: 1 of 60 texts are empty .*'\.'",
    ):
        assert retrieval("SciFact", hub).documents[7] == NO_TEXT


def test_images_are_the_bytes_in_the_table_and_named_after_their_task(
    hub: Path,
) -> None:
    data = retrieval("Flickr30kT2IRetrieval", hub)
    image = data.documents[2]
    assert isinstance(image, Deferred)
    assert image.name == "Flickr30kT2IRetrieval/test document 2.jpg"
    assert image.read() == jpeg(2, "blue")
    assert data.gains is None
    turned = retrieval("Flickr30kI2TRetrieval", hub).queries[2]
    assert isinstance(turned, Deferred)
    assert turned.read() == image.read()


def test_sts_and_zero_shot_tasks_are_read(hub: Path) -> None:
    pairs, classes = (
        load_mteb_task(name, folder=hub) for name in ("STSBenchmark", "CIFAR10ZeroShot")
    )
    assert isinstance(pairs, PairData)
    assert isinstance(classes, ZeroShotData)
    assert (len(pairs.left), pairs.scores[:4]) == (50, [0.0, 1.0, 2.0, 3.0])
    assert classes.class_names[0] == "a photo of a red."
    assert classes.templates == ["{c}"]
    assert (len(classes.images), classes.labels[:4]) == (40, [0, 1, 0, 1])


def test_a_query_does_not_search_itself_where_mteb_ignores_equal_ids(
    mteb: Any, tmp_path: Path
) -> None:
    import datasets

    corpus = datasets.Dataset.from_dict(
        {"_id": ["a", "b", "c"], "text": ["one", "two", "three"]}
    )
    queries = datasets.Dataset.from_dict({"_id": ["b", "x"], "text": ["two", "four"]})
    write_retrieval(
        tmp_path / "arguana", corpus, queries, {"b": {"c": 1}, "x": {"a": 1}}
    )
    assert retrieval("ArguAna", tmp_path).excluded == [[1], []]


def test_an_image_does_not_search_itself_where_mteb_skips_the_first_result(
    mteb: Any, tmp_path: Path
) -> None:
    shown = image_rows([jpeg(n, "red") for n in range(4)], id=["d0", "d1", "d2", "d3"])
    asked = image_rows([jpeg(2, "red"), jpeg(9, "red")], id=["q0", "q1"])
    write_retrieval(
        tmp_path / "cub200_retrieval", shown, asked, {"q0": {"d1": 1}, "q1": {"d3": 1}}
    )
    with pytest.warns(UserWarning, match="1 of 2 queries are not among the documents"):
        assert retrieval("CUB200I2IRetrieval", tmp_path).excluded == [[2], []]


def test_qrels_of_missing_documents_give_a_warning(mteb: Any, tmp_path: Path) -> None:
    import datasets

    corpus = datasets.Dataset.from_dict({"_id": ["a", "b"], "text": ["one", "two"]})
    queries = datasets.Dataset.from_dict({"_id": ["x", "y"], "text": ["three", "four"]})
    write_retrieval(
        tmp_path / "scifact", corpus, queries, {"x": {"a": 1, "z": 1}, "y": {"z": 1}}
    )
    with pytest.warns(
        UserWarning,
        match=r"1 relevant documents \(of 2 queries\) are not in the corpus",
    ):
        data = retrieval("SciFact", tmp_path)
    assert (data.query_ids, data.relevant, data.lost) == (
        ["x", "y"],
        [[0], []],
        [[1.0], [1.0]],
    )
    assert data.notes == (
        "1 relevant documents (of 2 queries) are not in the corpus and count as not "
        "found (first 'z')",
    )


def test_ids_that_are_there_twice_are_refused(mteb: Any, tmp_path: Path) -> None:
    import datasets

    corpus = datasets.Dataset.from_dict({"_id": ["a", "a"], "text": ["one", "two"]})
    queries = datasets.Dataset.from_dict({"_id": ["x"], "text": ["three"]})
    write_retrieval(tmp_path / "scifact", corpus, queries, {"x": {"a": 1}})
    with pytest.raises(
        ValueError, match="documents of SciFact/test: the id 'a' occurs twice"
    ):
        retrieval("SciFact", tmp_path)


def test_a_folder_that_changed_is_read_anew(mteb: Any, tmp_path: Path) -> None:
    import datasets

    queries = datasets.Dataset.from_dict({"_id": ["x"], "text": ["three"]})
    for text in ("one", "two"):
        write_retrieval(
            tmp_path / "scifact",
            datasets.Dataset.from_dict({"_id": ["a"], "text": [text]}),
            queries,
            {"x": {"a": 1}},
        )
        assert retrieval("SciFact", tmp_path).documents == [text]


def test_one_task_that_reads_a_folder_leaves_others_on_the_hub(hub: Path) -> None:
    moved = find_mteb_task("SciFact", folder=hub)
    usual = find_mteb_task("SciFact")
    assert moved.metadata.dataset["path"] == str(hub / "mteb/scifact")
    assert moved.metadata.dataset["revision"].startswith("local-")
    assert usual.metadata.dataset["path"] == "mteb/scifact"


def test_a_row_may_have_a_text_an_image_or_both(mteb: Any) -> None:
    import datasets

    cells = [
        {"bytes": jpeg(0, "red"), "path": None},
        {"bytes": jpeg(1, "red"), "path": None},
        None,
    ]
    rows = datasets.Dataset.from_dict(
        {"id": ["a", "b", "c"], "text": ["a mug", "", "a lamp"], "image": cells},
        features=datasets.Features(
            {
                "id": datasets.Value("string"),
                "text": datasets.Value("string"),
                "image": datasets.Image(),
            }
        ),
    )
    found = table_inputs(rows, "x", ["text", "image"], "query")
    assert [type(one) for one in found] == [Fused, Deferred, str]
    with pytest.raises(ValueError, match="x has a row without an image"):
        table_inputs(rows, "x", ["image"], "query")


def test_a_table_without_what_the_task_asks_for_is_refused(mteb: Any) -> None:
    with pytest.raises(ValueError, match="none of them for image"):
        table_inputs(
            image_rows([jpeg(0, "red")]).rename_column("image", "img"),
            "x",
            ["image"],
            "query",
        )


def test_an_instruction_follows_its_query_and_a_title_precedes_its_text(
    mteb: Any,
) -> None:
    import datasets

    rows = datasets.Dataset.from_dict(
        {"id": ["a"], "text": [" b "], "title": ["t"], "instruction": ["i"]}
    )
    assert table_inputs(rows, "x", ["text"], "query") == [" b  i"]
    assert table_inputs(rows, "x", ["text"], "document") == ["t  b"]
    assert table_inputs(rows, "x", ["text"], "") == [" b "]


def test_a_conversation_becomes_one_text(mteb: Any) -> None:
    import datasets

    turns = [
        [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    ]
    rows = datasets.Dataset.from_dict({"id": ["a"], "text": turns})
    assert table_inputs(rows, "x", ["text"], "query") == ["user: one; assistant: two"]


def test_an_image_in_a_selected_table_is_its_own(mteb: Any) -> None:
    rows = image_rows([jpeg(n, "red") for n in range(5)], id=list("abcde")).select(
        [3, 1]
    )
    found = table_images(rows, "image", "x")
    assert [one.name for one in found if one] == ["x d", "x b"]
    assert [one.read() for one in found if one] == [jpeg(3, "red"), jpeg(1, "red")]


def test_benchmarks_are_lists_of_tasks_and_aggregates_are_their_parts(
    mteb: Any,
) -> None:
    assert len(list_mteb_tasks("NanoBEIR")) == 13
    assert "STSBenchmarkMultilingualVisualSTS" in list_mteb_tasks("MIEB(lite)")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "Scifact",
            {},
            "mteb has no task 'Scifact'; 'Scifact' not found. Did you mean: 'SciFact'",
        ),
        ("SciFact", {"split": "dev"}, "has no split 'dev'; .*test"),
        ("STS17", {"subset": "en-xx"}, "has no subset 'en-xx'; .*en-en"),
        (
            "NFCorpus",
            {},
            "'NFCorpus' is missing at .*: hf download --repo-type dataset mteb/nfcorpus --revision",
        ),
        (
            "VisualSTS-b-Eng",
            {},
            "is an average; read STSBenchmarkMultilingualVisualSTS",
        ),
    ],
)
def test_what_cannot_be_read_is_an_error_with_the_way_out(
    name: str, options: dict[str, str], message: str, hub: Path
) -> None:
    folder = None if name == "VisualSTS-b-Eng" else hub
    with pytest.raises(ValueError, match=message):
        load_mteb_task(name, folder=folder, **options)


def test_missing_data_is_an_error_with_the_command_to_fetch_it(
    mteb: Any,
) -> None:
    with pytest.raises(
        ValueError,
        match=r"cannot be read from 'mteb/nfcorpus' \(.*--local-dir DATA/mteb/nfcorpus",
    ):
        load_mteb_task("NFCorpus")


def test_a_folder_of_another_layout_is_an_error_with_the_command_to_fetch_the_right_one(
    mteb: Any, tmp_path: Path
) -> None:
    (tmp_path / "nfcorpus").mkdir()
    (tmp_path / "nfcorpus/notes.txt").write_text("nothing")
    with pytest.raises(
        ValueError,
        match=r"NFCorpus.* cannot be read from .*--repo-type dataset mteb/nfcorpus --rev",
    ):
        load_mteb_task("NFCorpus", folder=tmp_path)


def test_a_task_of_another_kind_is_left_to_mteb(mteb: Any) -> None:
    task = mteb.get_task("Banking77Classification")
    task.dataset = {"test": None}
    with pytest.raises(
        ValueError,
        match="'Banking77Classification' is of the type Classification; retrieval, STS",
    ):
        read_mteb_task(task, "test", "default")


def test_an_unknown_benchmark_is_refused_with_the_nearest_name(mteb: Any) -> None:
    with pytest.raises(ValueError, match=r"no benchmark 'NanoBER'; .*NanoBEIR"):
        list_mteb_tasks("NanoBER")


def test_mtebs_cache_is_the_users_own(
    mteb: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MTEB_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    import_mteb()
    assert Path(os.environ["MTEB_CACHE"]) == tmp_path / ".cache/unimodal/mteb"


def test_without_mteb_the_error_has_the_command_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.setenv("MTEB_CACHE", "anywhere")
    with pytest.raises(ImportError, match=r'pip install "unimodal\[mteb\]"'):
        import_mteb()
