"""What was planted in the training shards is found and nothing else; scores without it are those of
the rest.
"""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eval.analysis.contamination import contamination, overlap_rows
from eval.data.inputs import Deferred, Fused, Input
from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.data.zero_shot import ZeroShotData
from eval.results import TaskResult
from eval.scoring.metrics import spearman
from eval.scoring.score_row import ScoreRow
from unimodal.config import parse_config
from unimodal.shards.config import PackConfig, StorageConfig
from unimodal.shards.write import pack

LONG = (
    "the quick brown fox jumps over the lazy dog while twenty small birds sing in tall old "
    "trees near the river"
)


def jpeg(seed: int, size: tuple[int, int] = (160, 120), quality: int = 90) -> bytes:
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(cells).resize((160, 120), Image.Resampling.BICUBIC).resize(
        size
    ).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@pytest.fixture
def shards(tmp_path: Path) -> Callable[[list[str], list[tuple[bytes, str]]], Path]:
    """A function from documents, and from images with captions, to a folder of
    training shards.
    """

    def make(documents: list[str], images: list[tuple[bytes, str]]) -> Path:
        (tmp_path / "train").mkdir()
        for number, (content, _) in enumerate(images):
            (tmp_path / f"{number}.jpg").write_bytes(content)
        tables: dict[str, list[dict[str, Any]]] = {
            "texts": [
                {"query": f"number {n}", "document": text}
                for n, text in enumerate(documents)
            ],
            "pictures": [
                {"image": f"{n}.jpg", "captions": [text]}
                for n, (_, text) in enumerate(images)
            ],
        }
        fields = {
            "texts": {"query": "query", "document": "document"},
            "pictures": {"image": "image", "captions": "captions"},
        }
        for name, rows in tables.items():
            if rows:
                (tmp_path / f"{name}.jsonl").write_text(
                    "".join(json.dumps(row) + "\n" for row in rows)
                )
                config = {
                    "input": f"{name}.jsonl",
                    "samples_per_shard": 40,
                    "shuffle": False,
                    **fields[name],
                }
                pack(parse_config(PackConfig, config), tmp_path / name, tmp_path)
                for tar in (tmp_path / name).glob("*.tar"):
                    tar.rename(tmp_path / "train" / f"{name}-{tar.name}")
        return tmp_path / "train"

    return make


Shards = Callable[[list[str], list[tuple[bytes, str]]], Path]


def texts_task(queries: list[str], documents: list[str]) -> TaskResult:
    relevant = [[number] for number in range(len(queries))]
    data = RetrievalData([*queries], [*documents], relevant)
    return scored("texts", data, [float(number % 2) for number in range(len(queries))])


def scored(
    name: str,
    data: RetrievalData | ZeroShotData,
    found: list[float],
    metric: str = "hit_rate_at_1",
) -> TaskResult:
    """A result with vectors that give each query the value it should have in `found`."""
    relevant = (
        [one[0] for one in data.relevant]
        if isinstance(data, RetrievalData)
        else data.labels
    )
    documents = np.eye(
        len(data.documents if isinstance(data, RetrievalData) else data.class_names),
        dtype=np.float32,
    )
    wrong = (np.array(relevant) + 1) % len(documents)
    queries = documents[np.where(np.array(found) == 1, relevant, wrong)]
    rows = [ScoreRow(name, metric, float(np.mean(found)), None, None)]
    return TaskResult(
        name, "text", data, rows, {metric: np.array(found)}, queries, documents
    )


def test_planted_texts_are_found_and_no_others(shards: Shards) -> None:
    words = LONG.split()
    documents = [
        f"nothing of note number {n} " + " ".join(words[n % 5 : n % 5 + 12])
        for n in range(300)
    ]
    planted = {
        7: "A RED hat, on the table!",
        130: "before it " + " ".join(words[:13]),
        250: " ".join(words[7:]) + " there",
    }
    for place, text in planted.items():
        documents[place] = text
    queries = [
        "a red hat on the table",  # the same but for case and punctuation
        "A red hat",  # a short phrase that stands in one
        "hat",
        LONG,  # shares 13 words
        " ".join(words[1:13]) + " differently",  # shares 12
        "nothing of note",
    ]
    task = texts_task(
        queries,
        [
            "unseen",
            "unseen 2",
            "unseen 3",
            "unseen 4",
            "red hat on the table",
            "unseen 6",
        ],
    )
    (overlap,) = contamination([task], shards(documents, []), show_progress=False)
    assert {query: match.kind for query, match in overlap.queries.items()} == {
        0: "same text",
        3: "13 words",
    }
    assert overlap.documents == {}
    assert overlap.tainted == [0, 3]
    match = overlap.queries[0]
    assert match.item == queries[0]
    assert Path(match.shard).name == "texts-000000.tar"
    assert match.key == "000000007"
    assert (overlap.queries[3].shard[-10:], overlap.queries[3].key) == (
        "000003.tar",
        "000000130",
    )
    assert overlap.query_share == 2 / 6
    assert [example.item for example in overlap.examples()] == [queries[0], LONG]


def test_a_whole_text_beats_a_shared_run_wherever_they_stand(shards: Shards) -> None:
    folder = shards([LONG + " again", *["filler"] * 100, LONG], [])
    (overlap,) = contamination(
        [texts_task([LONG], ["unseen"])], folder, show_progress=False
    )
    assert (overlap.queries[0].kind, overlap.queries[0].key) == (
        "same text",
        "000000101",
    )


def test_runs_of_many_long_texts_are_all_compared(shards: Shards) -> None:
    """More words than are compared at once."""
    filler = " ".join(f"word{n}" for n in range(30_000))
    documents = [f"{n} {filler}" for n in range(12)]
    documents[2] += " " + LONG
    documents[11] += " " + " ".join(f"end{n}" for n in range(13))
    task = texts_task(
        [LONG, " ".join(f"end{n}" for n in range(14))], ["unseen", "unseen 2"]
    )
    (overlap,) = contamination([task], shards(documents, []), show_progress=False)
    assert {query: match.key for query, match in overlap.queries.items()} == {
        0: "000000002",
        1: "000000011",
    }


def test_planted_images_are_found_and_no_others(shards: Shards, tmp_path: Path) -> None:
    images = [(jpeg(seed), f"caption {seed}") for seed in range(100, 200)]
    images[13] = jpeg(1), "one"
    images[77] = jpeg(2, (90, 70), 60), "two"  # encoded again, and smaller
    (tmp_path / "two.jpg").write_bytes(jpeg(2))
    documents: list[Input] = [
        jpeg(1),
        tmp_path / "two.jpg",
        Deferred("three", lambda: jpeg(3)),
        b"no image",
    ]
    data = RetrievalData(["a", "b", "c", "d"], documents, [[0], [1], [2], [3]])
    task = scored("pictures", data, [1.0, 1.0, 0.0, 1.0])
    (overlap,) = contamination([task], shards([], images), show_progress=False)
    found = {
        document: (match.kind, match.key)
        for document, match in overlap.documents.items()
    }
    assert found == {0: ("same bytes", "000000013"), 1: ("same image", "000000077")}
    assert overlap.queries == {}
    assert overlap.tainted == [0, 1]  # their image was seen
    rows = {(row.metric, row.variant): row.value for row in overlap_rows(task, overlap)}
    assert rows == {
        ("overlapping_queries", "contamination"): 0.0,
        ("overlapping_documents", "contamination"): 0.5,
        ("hit_rate_at_1", "without overlap"): 0.5,
    }


def test_the_same_bytes_beat_a_likeness_that_was_met_before(shards: Shards) -> None:
    folder = shards(
        [],
        [
            (jpeg(1, (90, 70)), "smaller"),
            (jpeg(1), "the same"),
            (jpeg(1, (80, 60)), "smaller still"),
        ],
    )
    task = TaskResult(
        "pictures", "cross-modal", RetrievalData(["a"], [jpeg(1)], [[0]]), []
    )
    (overlap,) = contamination([task], folder, show_progress=False)
    assert (overlap.documents[0].kind, overlap.documents[0].key) == (
        "same bytes",
        "000000001",
    )


def test_only_documents_that_are_an_answer_are_looked_for(shards: Shards) -> None:
    task = TaskResult(
        "texts",
        "text",
        RetrievalData(["a query"], ["an answer", "seen in training"], [[0]]),
        [],
    )
    (overlap,) = contamination(
        [task], shards(["seen in training"], []), show_progress=False
    )
    assert (overlap.num_documents, overlap.documents) == (1, {})


def test_what_has_a_gain_of_nothing_is_no_answer(shards: Shards) -> None:
    data = RetrievalData(
        ["one", "two"],
        ["x", "seen", "y"],
        [[0, 1], [2, 1]],
        gains=[[1.0, 0.0], [1.0, -1.0]],
    )
    (overlap,) = contamination(
        [TaskResult("texts", "text", data, [])],
        shards(["seen"], []),
        show_progress=False,
    )
    assert (overlap.num_documents, overlap.documents, overlap.tainted) == (2, {}, [])


def test_images_that_are_not_there_are_counted_and_not_looked_for(
    shards: Shards, tmp_path: Path
) -> None:
    """A model of texts alone is scored without the images of its suite."""
    documents: list[Input] = [tmp_path / "gone.jpg", jpeg(1), tmp_path / "gone too.jpg"]
    task = TaskResult(
        "pictures",
        "cross-modal",
        RetrievalData(["a", "b", "c"], documents, [[0], [1], [2]]),
        [],
    )
    with pytest.warns(
        UserWarning,
        match=r"2 of 3 images .*not looked for \(.*gone.jpg first\)",
    ):
        (overlap,) = contamination(
            [task], shards([], [(jpeg(1), "caption")]), show_progress=False
        )
    assert list(overlap.documents) == [1]


def test_what_has_a_text_and_an_image_is_seen_if_either_is(shards: Shards) -> None:
    queries = [
        Fused("unseen", jpeg(1)),
        Fused("seen text", jpeg(2)),
        Fused("unseen too", jpeg(3)),
    ]
    task = TaskResult(
        "fused",
        "cross-modal",
        RetrievalData([*queries], ["x", "y", "z"], [[0], [1], [2]]),
        [],
    )
    (overlap,) = contamination(
        [task], shards(["Seen text."], [(jpeg(1), "caption")]), show_progress=False
    )
    assert {query: match.kind for query, match in overlap.queries.items()} == {
        0: "same bytes",
        1: "same text",
    }


def test_images_of_a_zero_shot_task_are_looked_for_and_names_of_classes_are_not(
    shards: Shards,
) -> None:
    data = ZeroShotData(
        [jpeg(1), jpeg(2), jpeg(3)], [0, 1, 1], ["hat", "shoe"], ["a photo of a {c}."]
    )
    task = scored("classes", data, [1.0, 0.0, 0.0], "accuracy")
    (overlap,) = contamination(
        [task], shards(["hat", "shoe"], [(jpeg(2), "a shoe")]), show_progress=False
    )
    assert (list(overlap.queries), overlap.num_documents) == ([1], 0)
    assert [
        row.value
        for row in overlap_rows(task, overlap)
        if row.variant == "without overlap"
    ] == [0.5]


def test_the_correlation_without_overlap_is_that_of_the_other_pairs(
    shards: Shards,
) -> None:
    draw = np.random.default_rng(0)
    left, right = (draw.normal(size=(6, 8)).astype(np.float32) for _ in range(2))
    pairs = PairData(
        [f"left {n}" for n in range(6)],
        [f"right {n}" for n in range(6)],
        [3.0, 1.0, 4.0, 1.5, 5.0, 2.0],
    )
    row = ScoreRow("sts", "spearman", 0.0, 0.0, None)
    task = TaskResult("sts", "text", pairs, [row], queries=left, documents=right)
    (overlap,) = contamination(
        [task], shards(["left 2", "RIGHT 5!"], []), show_progress=False
    )
    assert overlap.tainted == [2, 5]
    rest = [0, 1, 3, 4]
    (row,) = [
        row for row in overlap_rows(task, overlap) if row.variant == "without overlap"
    ]
    assert (row.metric, row.num) == ("spearman", 4)
    assert row.low is not None
    assert row.high is not None
    assert row.value == pytest.approx(
        spearman((left * right).sum(axis=1)[rest], np.array(pairs.scores)[rest])
    )


def test_no_score_is_left_where_all_was_seen(shards: Shards) -> None:
    task = texts_task(["one", "two"], ["x", "y"])
    (overlap,) = contamination([task], shards(["One", "Two"], []), show_progress=False)
    assert [row.value for row in overlap_rows(task, overlap)] == [1.0, 0.0, None]


def test_a_model_that_cannot_do_the_task_has_the_shares_alone(shards: Shards) -> None:
    data = RetrievalData(["one", "two"], ["x", "y"], [[0], [1]])
    task = TaskResult(
        "texts", "text", data, [ScoreRow("texts", "ndcg_at_10", None, None, None)]
    )
    (overlap,) = contamination([task], shards(["One"], []), show_progress=False)
    assert [row.value for row in overlap_rows(task, overlap)] == [0.5, 0.0]


def test_broken_samples_and_foreign_fields_do_not_stop_it(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        parts = {
            "a.json": b"{not json",
            "a.jpg": b"no image",
            "b.json": b"[1]",
            "c.txt": b"\xff\xfe",
            "d.json": json.dumps({"negatives": ["seen", 3], "caption": None}).encode(),
            "e.cls": b"3",
        }
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    queries: list[Input] = ["seen", jpeg(1)]
    data = RetrievalData(queries, ["x"], [[0], [0]])
    (overlap,) = contamination(
        [TaskResult("t", "text", data, [])], tmp_path / "odd.tar", show_progress=False
    )
    assert {query: match.key for query, match in overlap.queries.items()} == {0: "d"}


def test_shards_elsewhere_are_read_through_the_cache(
    shards: Shards, tmp_path: Path
) -> None:
    folder = shards(["a red hat"], [])
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/texts-000000.tar"
    storage = StorageConfig(cache=str(tmp_path / "cache"))
    try:
        task = texts_task(["A red hat.", "a blue hat"], ["x", "y"])
        (overlap,) = contamination([task], url, storage=storage, show_progress=False)
    finally:
        server.shutdown()
        server.server_close()
    assert [match.shard for match in overlap.queries.values()] == [url]


def test_missing_shards_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere"):
        contamination([texts_task(["a"], ["b"])], tmp_path / "nowhere")
