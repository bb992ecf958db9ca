from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.data.beir import read_beir
from eval.data.formats import read_hub_pairs
from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.evaluate import evaluate
from eval.results import rows_of
from eval.scoring.score_row import ScoreRow
from eval.suites import Suite, load_tasks
from eval.with_mteb.tasks import load_mteb_task
from tests.eval.layouts import (
    QRELS,
    make_image,
    write_beir,
    write_captioned,
    write_classes,
    write_crossmodal3600,
    write_xtd10,
)
from unimodal.config import parse_config
from unimodal.embedder import Embedder
from unimodal.shards.config import PackConfig
from unimodal.shards.write import pack

TASKS: dict[str, dict[str, Any]] = {
    "flickr": {"kind": "webdataset"},
    "half": {
        "kind": "webdataset",
        "path": "flickr",
        "splits": {"val": {"images": [2, 4]}, "test": {"images": [0, 2]}},
    },
    "classes": {"kind": "webdataset"},
    "texts": {"kind": "beir"},
    "forums": {"kind": "beir", "path": "forums/{subset}", "subsets": ["tex", "unix"]},
    "sts": {
        "kind": "hub-sts",
        "splits": {"val": {"split": "validation"}, "test": {"split": "test"}},
    },
    "xm3600": {"kind": "crossmodal3600", "languages": ["de", "en"], "captions": "all"},
    "xtd10": {"kind": "xtd10", "languages": ["en", "jp"]},
    "pictures": {"kind": "shards", "splits": {"test": "shards/pictures"}},
    "pairs": {"kind": "shards", "splits": {"test": ["shards/pairs"]}},
}  # fmt: skip


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data of all of TASKS."""
    folder = tmp_path_factory.mktemp("data")
    write_captioned(
        folder / "flickr",
        [["a red mug", "mug"], ["blue shoe"], ["green ball"], ["yellow lamp"]],
    )
    write_classes(folder / "classes", ["0", "1", "1"])
    write_beir(folder / "texts")
    for name in ("tex", "unix"):
        write_beir(
            folder / "forums" / name,
            qrels=[row for row in QRELS if row[0] == "q1" or name == "tex"],
        )
    (folder / "sts").mkdir()
    for name in ("test", "validation"):
        with gzip.open(
            folder / "sts" / f"{name}.jsonl.gz", "wt", encoding="utf-8"
        ) as file:
            for number, words in enumerate(("red mug", "blue shoe", "green ball")):
                row = {
                    "sentence1": words,
                    "sentence2": f"{name} {words[:4]}",
                    "score": number,
                }
                file.write(json.dumps(row) + "\n")
    write_crossmodal3600(folder / "xm3600")
    write_xtd10(folder / "xtd10")
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(make_image(number))
    rows = [
        {"image": f"{number}.jpg", "captions": [f"mug {number}"]} for number in range(3)
    ]
    (folder / "pictures.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    rows = [
        {"query": f"mug {number}", "document": f"lamp {number}"} for number in range(3)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, fields in (
        ("pictures", {"image": "image", "captions": "captions"}),
        ("pairs", {"query": "query", "document": "document"}),
    ):
        pack(
            parse_config(PackConfig, {"input": f"{name}.jsonl", **fields}),
            folder / "shards" / name,
            folder,
        )
    return folder


def suite_of(tasks: dict[str, Any]) -> Suite:
    return parse_config(Suite, {"tasks": tasks})


def test_each_language_subset_and_split_is_read(root: Path) -> None:
    loaded = load_tasks(suite_of(TASKS), root, "test")
    assert list(loaded) == [
        "flickr",
        "half",
        "classes",
        "texts",
        "forums/tex",
        "forums/unix",
        "sts",
        "xm3600/de",
        "xm3600/en",
        "xtd10/en",
        "xtd10/jp",
        "pictures",
        "pairs",
    ]
    half = loaded["half"]
    forum = loaded["forums/unix"]
    sts = loaded["sts"]
    assert isinstance(half, RetrievalData)
    assert half.queries == ["a red mug", "mug", "blue shoe"]
    assert isinstance(forum, RetrievalData)
    assert forum.query_ids == ["q1"]
    assert isinstance(sts, PairData)
    assert sts.right == ["test red ", "test blue", "test gree"]
    no_shards = {name: task for name, task in TASKS.items() if task["kind"] != "shards"}
    validation = load_tasks(suite_of(no_shards), root, "val")
    assert isinstance(validation["half"], RetrievalData)
    assert validation["half"].queries == ["green ball", "yellow lamp"]
    assert isinstance(validation["sts"], PairData)
    assert validation["sts"].right[0] == "validation red "


def test_a_model_is_scored_on_every_kind(
    root: Path, tiny_embedder: Callable[[int], Embedder]
) -> None:
    results = evaluate(tiny_embedder(0), suite_of(TASKS), root)
    assert [result.name for result in results] == [
        "flickr/text->image",
        "flickr/image->text",
        "half/text->image",
        "half/image->text",
        "classes",
        "texts",
        "forums/tex",
        "forums/unix",
        "sts",
        "xm3600/de/text->image",
        "xm3600/de/image->text",
        "xm3600/en/text->image",
        "xm3600/en/image->text",
        "xtd10/en/text->image",
        "xtd10/en/image->text",
        "xtd10/jp/text->image",
        "xtd10/jp/image->text",
        "pictures/text->image",
        "pictures/image->text",
        "pairs",
    ]
    assert all(
        row.value is not None and np.isfinite(row.value) for row in rows_of(results)
    )


def test_shards_have_the_splits_that_are_named(root: Path) -> None:
    with pytest.raises(
        ValueError, match=r"split 'val' is not in this task; there is: test"
    ):
        load_tasks(suite_of({"pairs": TASKS["pairs"]}), root, "val")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            {"kind": "webdataset", "images": "first"},
            r"tasks\.task\.images: Input should be a list",
        ),
        (
            {"kind": "webdataset", "splits": {"val": {"image": [0, 1]}}},
            r"unknown key 'image'; did you mean 'images'",
        ),
        ({"kind": "xtd10", "languages": []}, "languages"),
        (
            {"kind": "webdatasets"},
            r"task 'task' has the kind 'webdatasets'; did you mean 'webdataset'",
        ),
    ],
)
def test_a_mistake_is_told_when_the_suite_is_read(
    task: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        suite_of({"task": task})


def test_tasks_of_mteb_are_scored_by_their_name(
    hub: Path, tiny_embedder: Callable[[int], Embedder]
) -> None:
    tasks = {
        "pictures": {
            "kind": "mteb",
            "task": "Flickr30kT2IRetrieval",
            "path": "mteb/flickr30kt2i",
        },
        "classes": {"kind": "mteb", "task": "CIFAR10ZeroShot", "path": "mteb/cifar10"},
        "sts": {
            "kind": "mteb",
            "task": "STSBenchmark",
            "path": "mteb/stsbenchmark-sts",
        },
    }
    rows: list[ScoreRow] = rows_of(evaluate(tiny_embedder(0), suite_of(tasks), hub))
    assert {row.task for row in rows} == {"pictures", "classes", "sts"}
    assert all(row.value is not None for row in rows)


@pytest.mark.filterwarnings("ignore:.*(empty|queries of)")
def test_a_set_reads_as_mteb_reads_it(hub: Path) -> None:
    ours = read_beir(hub / "mteb" / "scifact")
    theirs = load_mteb_task("SciFact", folder=hub, split="test")
    assert isinstance(theirs, RetrievalData)
    assert ours.documents == theirs.documents
    assert ours.document_ids == theirs.document_ids
    assert dict(zip(ours.query_ids or [], ours.queries, strict=True)) == dict(
        zip(theirs.query_ids or [], theirs.queries, strict=True)
    )
    assert _grades(ours) == _grades(theirs)


def _grades(data: RetrievalData) -> dict[str, dict[int, float]]:
    assert data.query_ids is not None
    assert data.gains is not None
    return {
        query: dict(zip(relevant, gains, strict=True))
        for query, relevant, gains in zip(
            data.query_ids, data.relevant, data.gains, strict=True
        )
    }


def test_pairs_of_the_hub_read_as_mteb_reads_them(hub: Path) -> None:
    theirs = load_mteb_task("STSBenchmark", folder=hub, split="test")
    assert read_hub_pairs(hub / "mteb" / "stsbenchmark-sts", "test") == theirs


def test_the_former_key_of_a_range_of_images_is_read(root: Path) -> None:
    former = {"kind": "webdataset", "path": "flickr", "pictures": [1, 2]}
    data = load_tasks(suite_of({"flickr": former}), root, "test")["flickr"]
    assert isinstance(data, RetrievalData)
    assert data.queries == ["blue shoe"]
    with pytest.raises(ValueError, match=r"pictures.*images"):
        suite_of({"flickr": {**former, "images": [1, 2]}})
