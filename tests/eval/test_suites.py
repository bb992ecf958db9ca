from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.data.tasks import TaskRows
from eval.prepare.table import data_sets, names_of
from eval.suites import Suite, load_tasks, missing_of, read_suite
from tests.eval.layouts import write_classes
from unimodal.config import parse_config

DATA = Path(
    os.environ.get("UNIMODAL_DATA", Path(__file__).parents[3] / "shared" / "data")
)
PAIRS: dict[str, Any] = {
    "kind": "sts",
    "rows": {"input": "pairs.jsonl"},
    "splits": {
        "val": {"where": {"split": "val"}},
        "test": {"where": {"split": "test"}},
    },
    "left": "a",
    "right": "b",
    "groups": {"hard": {"kind": "hard"}},
}


def suite_of(**tasks: Any) -> Suite:
    return parse_config(Suite, {"tasks": tasks})


def write_rows(file: Path, *rows: dict[str, Any]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


SHIPPED = ("mini", "demo", "quick", "jina", "full", "shop")


@pytest.mark.parametrize("name", [*SHIPPED, "suite-mini"])
def test_a_shipped_suite_can_choose_and_report(name: str) -> None:
    suite = read_suite(name)
    for split in ("val", "test"):
        assert len(missing_of(suite, Path("nowhere"), split)) == len(suite.tasks)


@pytest.mark.parametrize("name", SHIPPED)
def test_what_a_shipped_suite_averages_is_there(name: str) -> None:
    suite = read_suite(name)
    for average in suite.averages.values():
        for task in average.tasks:
            assert suite.task_of(task) is not None


def test_the_small_suites_hold_val_and_test_apart() -> None:
    for name in ("mini", "demo"):
        for task in read_suite(name).tasks.values():
            assert isinstance(task, TaskRows)
            assert set(task.splits) == {"val", "test"}


def test_null_leaves_a_task_out() -> None:
    assert "shop" in read_suite("mini").tasks
    assert "shop" not in read_suite("mini", ["tasks.shop=null"]).tasks


def test_a_split_is_laid_over_the_rows_and_groups_narrow_it(tmp_path: Path) -> None:
    pair = {"b": "text", "score": 1}
    write_rows(
        tmp_path / "pairs.jsonl",
        {**pair, "a": "one", "split": "val", "kind": "hard"},
        {**pair, "a": "two", "split": "test", "kind": "easy"},
        {**pair, "a": "three", "split": "test", "kind": "hard"},
    )
    pairs = load_tasks(suite_of(pairs=PAIRS), tmp_path, "test")["pairs"]
    assert isinstance(pairs, PairData)
    assert pairs.left == ["two", "three"]
    assert pairs.groups == {"hard": [1]}


def test_where_of_a_split_adds_to_where_of_the_rows() -> None:
    rows = {"input": "pairs.jsonl", "where": {"lang": "en"}}
    task = suite_of(pairs={**PAIRS, "rows": rows}).tasks["pairs"]
    assert isinstance(task, TaskRows)
    assert task.rows_of("val").where == {"lang": "en", "split": "val"}


def test_held_out_queries_search_all_documents(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "rows.jsonl",
        *({"query": f"q{n}", "document": f"d{n}", "n": n} for n in range(50)),
    )
    task = {
        "kind": "text-retrieval",
        "rows": {"input": "rows.jsonl", "hash_field": "n"},
        "splits": {"train": {"hash_range": [0, 80]}, "test": {"hash_range": [80, 100]}},
    }
    held_out = suite_of(narrow=task, wide={**task, "pool": "all"})
    loaded = load_tasks(held_out, tmp_path, "test")
    train = load_tasks(held_out, tmp_path, "train")
    narrow = loaded["narrow"]
    all_documents = loaded["wide"]
    trained = train["narrow"]
    assert isinstance(narrow, RetrievalData)
    assert isinstance(all_documents, RetrievalData)
    assert isinstance(trained, RetrievalData)
    assert narrow.queries == all_documents.queries
    assert len(all_documents.documents) == 50
    assert not set(narrow.documents) & set(trained.documents)
    assert len(narrow.documents) + len(trained.documents) == 50


def test_everything_missing_is_named_in_one_error(tmp_path: Path) -> None:
    other = {**PAIRS, "rows": {"input": "more/pairs.tsv"}}
    with pytest.raises(
        ValueError,
        match=r"\(2\): .*more/pairs.tsv, .*pairs.jsonl; .*data_root.*tasks.NAME=null",
    ):
        load_tasks(suite_of(one=PAIRS, two=other), tmp_path, "test")


def test_missing_images_are_named_unless_they_are_not_wanted(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "rows.jsonl",
        {"image": "a.jpg", "text": "one"},
        {"image": "b.jpg", "text": "two"},
    )
    (tmp_path / "a.jpg").touch()
    suite = suite_of(images={"kind": "image-text", "rows": {"input": "rows.jsonl"}})
    with pytest.raises(ValueError, match=r"\(1\): .*b\.jpg; "):
        load_tasks(suite, tmp_path, "test")
    assert list(load_tasks(suite, tmp_path, "test", with_images=False)) == ["images"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "sst"}, r"task 'pairs' has the kind 'sst'; did you mean 'sts'\?"),
        ({"scor": "x"}, r"unknown key 'scor'; did you mean 'score'\?"),
        (
            {"splits": {"val": {"hash_rang": [0, 1]}}},
            r"splits.val: unknown key 'hash_rang'; did you mean 'hash_range'\?",
        ),
        ({"splits": {"val": {"hash_range": [0, 1]}}}, "needs a field to hash"),
    ],
)
def test_a_mistake_is_told_when_the_suite_is_read(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        suite_of(pairs={**PAIRS, **change})


def test_an_unknown_split_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"split 'tst' is not in this task; did you mean 'test'\?"
    ):
        load_tasks(suite_of(pairs=PAIRS), Path(), "tst")


def test_a_name_belongs_to_the_longest_task_that_it_begins_with() -> None:
    suite = suite_of(
        **{"beir": {"kind": "beir"}, "beir/nq": {"kind": "beir", "split": "dev"}}
    )
    assert suite.task_of("beir/nq/text->image") is suite.tasks["beir/nq"]
    assert suite.task_of("beir/nqs") is suite.tasks["beir"]
    with pytest.raises(ValueError, match=r"'bear' .*did you mean 'beir'\?"):
        suite.task_of("bear")


def test_languages_and_subsets_are_averaged_by_direction() -> None:
    suite = suite_of(
        xtd={"kind": "xtd10", "languages": ["de", "en"]},
        one={"kind": "xtd10", "languages": ["de"]},
        forums={"kind": "beir", "path": "{subset}", "subsets": ["tex", "unix"]},
        pairs=PAIRS,
    )
    names = [
        f"xtd/{one}/{way}"
        for one in ("de", "en")
        for way in ("text->image", "image->text")
    ]
    names += [
        "one/de/text->image",
        "forums/tex",
        "forums/unix",
        "pairs",
        "pairs/hard",
        "balance",
    ]
    assert suite.averages_of(names) == {
        "xtd/text->image": ["xtd/de/text->image", "xtd/en/text->image"],
        "xtd/image->text": ["xtd/de/image->text", "xtd/en/image->text"],
        "forums": ["forums/tex", "forums/unix"],
    }


def test_one_command_gets_all_that_is_missing() -> None:
    suite = suite_of(
        a={"kind": "webdataset", "get": "flickr30k"},
        b={"kind": "webdataset", "path": "flickr30k", "get": "flickr30k"},
        c={"kind": "beir", "get": "beir/nq"},
        d={"kind": "mteb", "task": "Food101ZeroShot", "path": "mteb/food101"},
        e={"kind": "beir"},
    )
    with pytest.raises(ValueError, match="lacks files") as told:
        load_tasks(suite, Path("my data"), "test")
    assert str(told.value) == (
        "the suite lacks files (5): my data/a, my data/c, my data/e, my "
        "data/flickr30k, my data/mteb/food101; get them with `unimodal prepare flickr30k "
        "beir/nq --data 'my data' && for set in mteb/food101; do hf download --repo-type "
        "dataset $set --local-dir 'my data'/$set; done` (at least 646 MB), put them below "
        "data_root 'my data', set another data_root, or leave a task out with tasks.NAME=null."
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_what_a_shipped_suite_gets_can_be_prepared(name: str) -> None:
    for task in read_suite(name).tasks.values():
        assert not task.get or names_of(task.get, data_sets())


def test_data_that_cannot_be_scored_is_refused_by_the_task_s_name(
    tmp_path: Path,
) -> None:
    write_classes(tmp_path / "pets", ["0", "7"])
    with pytest.raises(
        ValueError, match=r"^pets: label 7 is of none of its 2 classes; "
    ):
        load_tasks(suite_of(pets={"kind": "webdataset"}), tmp_path, "test")


def test_rows_with_an_empty_query_are_counted_and_those_of_another_split_are_not(
    tmp_path: Path,
) -> None:
    rows = [
        {"query": query, "document": query or "one", "split": "test"}
        for query in ("one", "", "two", "three")
    ]
    write_rows(
        tmp_path / "rows.jsonl",
        *rows,
        {"query": "", "document": "four", "split": "val"},
    )
    texts: dict[str, Any] = {
        "kind": "text-retrieval",
        "rows": {"input": "rows.jsonl"},
        "splits": PAIRS["splits"],
    }
    with pytest.warns(
        UserWarning, match=r"^rows\.jsonl: 1 of 4 rows left out: empty 'query'\.$"
    ):
        load_tasks(suite_of(texts=texts), tmp_path, "test")
    with pytest.raises(
        ValueError, match=r"^rows\.jsonl: the only row has an empty 'query'; "
    ):
        load_tasks(suite_of(texts={**texts, "pool": "all"}), tmp_path, "val")


def test_an_unknown_way_to_change_queries_is_told_when_the_suite_is_read() -> None:
    with pytest.raises(
        ValueError,
        match=r"analysis.robustness: 'typo' .* did you mean 'typos'\?",
    ):
        parse_config(
            Suite, {"tasks": {"pairs": PAIRS}, "analysis": {"robustness": ["typo"]}}
        )


@pytest.mark.skipif(
    not (DATA / "openstax_text").is_dir(), reason=f"no openstax_text below {DATA}"
)
def test_the_mini_suite_has_the_known_sizes() -> None:
    loaded = load_tasks(read_suite("mini"), DATA, "test")
    figures = loaded["figures"]
    sections = loaded["sections"]
    pairs = loaded["cxc"]
    assert isinstance(figures, RetrievalData)
    assert isinstance(sections, RetrievalData)
    assert isinstance(pairs, PairData)
    assert (len(figures.queries), len(figures.documents)) == (998, 998)
    assert (len(sections.queries), len(sections.documents)) == (1182, 2069)
    assert (len(pairs.scores), len(pairs.groups["cross-picture"])) == (3222, 257)


@pytest.mark.skipif(
    not (DATA / "luma_shop").is_dir(), reason=f"no luma_shop below {DATA}"
)
def test_the_shop_suite_has_the_known_sizes_and_no_photo_on_both_sides() -> None:
    loaded = load_tasks(read_suite("shop"), DATA, "test")
    sizes = {}
    for name, data in loaded.items():
        assert isinstance(data, RetrievalData)
        sizes[name] = (len(data.queries), len(data.documents))
        assert not {one for one in data.queries if isinstance(one, Path)} & set(
            data.documents
        )
    assert sizes["garments/text->fused"] == (44, 461)
    assert sizes["garments/photo->image"] == (25, 461)
    assert sizes["garments/photo+text->image"] == (42, 461)
    assert sizes["groceries/text->text"] == (81, 81)
    assert (
        sizes["groceries/photo->fused"]
        == sizes["groceries/photo+text->text"]
        == (1204, 81)
    )
