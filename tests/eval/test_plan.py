"""The plan counts what will be encoded, before it is."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from eval.cache import EmbeddingCache
from eval.data.inputs import Fused, Input
from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.data.task_data import TaskData
from eval.data.zero_shot import ZeroShotData
from eval.plan import Counts, make_plan, plan_table

from .test_cache import HashEncoder, make_image

IMAGES: list[Input] = [make_image(number) for number in range(30)]
CAPTIONS: list[Input] = [f"caption {number}" for number in range(30)]
TASKS: dict[str, TaskData] = {
    "pictures": RetrievalData(
        CAPTIONS, IMAGES, [[number] for number in range(30)], both_ways=True
    ),
    "shop": RetrievalData(
        ["a", Fused("b", IMAGES[0])],  # type: ignore[arg-type]  # bytes
        [*IMAGES[:5], "a"],
        [[0], [5]],
    ),
    "pairs": PairData(["caption 0", "x"], ["y", "x"], [0.0, 1.0]),
    "classes": ZeroShotData(
        IMAGES[:4], [0, 1, 0, 1], ["cat", "dog"], ["a {c}", "the {c}"]
    ),
}


def test_distinct_inputs_are_counted_by_task_and_once_in_all(tmp_path: Path) -> None:
    encoder = HashEncoder(prompts={"query": "q: "})
    found = make_plan(EmbeddingCache(encoder), TASKS, measure=False)
    assert found.tasks == {
        "pictures": Counts(30, 30, 30, 30),
        "shop": Counts(3, 5, 3, 5),  # "q: a", "q: b", "a"
        "pairs": Counts(3, 0, 3, 0),
        "classes": Counts(4, 4, 4, 4),
    }
    assert found.total == Counts(39, 30, 39, 30)
    assert found.seconds is None
    assert not encoder.asked


def test_what_the_store_has_is_not_to_be_encoded(tmp_path: Path) -> None:
    EmbeddingCache(HashEncoder(), tmp_path).encode([*CAPTIONS[:10], *IMAGES[:3]])
    found = make_plan(EmbeddingCache(HashEncoder(), tmp_path), TASKS, measure=False)
    assert found.tasks["pictures"] == Counts(30, 30, 20, 27)


def test_a_task_that_the_model_cannot_do_needs_nothing() -> None:
    assert [bool(data.inputs_for(["text"])) for data in TASKS.values()] == [
        False,
        False,
        True,
        False,
    ]
    assert [bool(data.inputs_for(["text", "image"])) for data in TASKS.values()] == [
        True
    ] * 4


def test_what_is_asked_is_all_that_is_encoded() -> None:
    """With the prompts of the roles."""
    assert [
        side.prompt for side in TASKS["pictures"].inputs_for(["text", "image"])
    ] == [
        "",
        "",
    ]
    assert [side.prompt for side in TASKS["shop"].inputs_for(["text", "image"])] == [
        "query",
        "document",
    ]
    assert TASKS["classes"].inputs_for(["text", "image"])[1] == (
        ["a cat", "the cat", "a dog", "the dog"],
        "",
        2,
    )


def test_two_timed_batches_tell_how_long_the_rest_takes_and_are_kept() -> None:
    encoder = HashEncoder(seconds=0.002)
    texts: list[Input] = [f"text {number:04}" for number in range(1000)]
    store = EmbeddingCache(encoder)
    found = make_plan(
        store,
        {"one": RetrievalData(texts, texts, [[number] for number in range(1000)])},
    )
    assert found.seconds is not None
    assert 1.9 < found.seconds < 20  # 968 of 2 ms, and more where the machine is busy
    assert len(encoder.asked) == 32
    assert found.total == Counts(1000, 0, 1000, 0)
    store.encode(texts)
    assert len(encoder.asked) == 1000


def test_the_table_has_a_line_a_task_and_the_time() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(plan_table(make_plan(EmbeddingCache(HashEncoder()), TASKS), "mini"))
    printed = console.export_text()
    assert "mini: 38 texts and 30 images to encode, about 0 s" in printed
    assert ["pictures", "30", "30", "30", "30"] in [
        line.split() for line in printed.splitlines()
    ]
    assert any(
        line.strip().startswith("all, each once") for line in printed.splitlines()
    )


def test_all_broken_images_are_named_before_the_others_are_encoded() -> None:
    encoder = HashEncoder()
    broken: list[Input] = [b"broken %d" % number for number in range(10)]
    data = RetrievalData(
        CAPTIONS,
        [*IMAGES[:20], *broken],
        [[number] for number in range(30)],
        both_ways=True,
    )
    with pytest.raises(
        ValueError,
        match=r"10 of \d+ images cannot be decoded: .* and 2 more; .*still to be encoded",
    ):
        make_plan(EmbeddingCache(encoder), {"task": data})
