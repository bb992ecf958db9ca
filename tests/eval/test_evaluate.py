from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from eval.datasets import Input
from eval.evaluate import evaluate, rows_of
from eval.results import Encoder, Row
from eval.suites import Suite, read_suite
from unimodal.config import parse_config

if TYPE_CHECKING:
    from unimodal.embedder import Embedder

    def the_embedder_is_an_encoder(embedder: Embedder) -> Encoder:
        return embedder


COLOURS, THINGS = ("red", "green", "blue"), ("ball", "hat", "cup", "shoe", "lamp")


class WordEncoder:
    """Adds up one fixed random vector a word; a picture is seen as the words of its file name."""

    def __init__(self, *modalities: str, broken: bool = False) -> None:
        self.modalities = frozenset(modalities)
        self.broken = broken
        self.prompts: dict[str, str] = {}
        self.encoded: list[Input] = []

    def encode(self, inputs: Sequence[Input], *, show_progress: bool | None = None) -> npt.NDArray[np.float32]:
        self.encoded += inputs
        vectors = np.zeros((len(inputs), 64), dtype=np.float32)
        for row, one in enumerate(inputs):
            assert not isinstance(one, bytes)
            for word in (one.stem if isinstance(one, Path) else one).replace("-", " ").split():
                vectors[row] += np.random.default_rng(zlib.crc32(word.encode())).standard_normal(64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors * np.float32("nan") if self.broken else vectors

    encode_query = encode_document = encode

    def fingerprint(self) -> str:
        return ""


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    rows = []
    for colour in COLOURS:
        for thing in THINGS:
            image = f"images/{colour}-{thing}.jpg"
            (tmp_path / image).write_text(image)
            captions, description = [f"{colour} {thing}", "not used"], f"one {thing} that is {colour}"
            rows.append(
                {"image": image, "captions": captions, "query": f"{colour} {thing}", "description": description}
            )
    for split in ("val", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def with_sts(catalogue: Path) -> Suite:
    pairs = [
        {"a": "red ball", "b": "red ball", "score": 5, "kind": "easy"},
        {"a": "red ball", "b": "blue ball", "score": 3, "kind": "hard"},
        {"a": "red ball", "b": "green lamp", "score": 0, "kind": "easy"},
        {"a": "green hat", "b": "green cup", "score": 2, "kind": "hard"},
    ]
    (catalogue / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    sts: dict[str, Any] = {"kind": "sts", "rows": {"input": "pairs.jsonl"}, "left": "a", "right": "b"}
    demo = read_suite("demo").model_dump()
    return parse_config(Suite, {"tasks": {**demo["tasks"], "pairs": {**sts, "groups": {"hard": {"kind": "hard"}}}}})


def test_every_task_is_scored_beside_chance_and_bm25(catalogue: Path) -> None:
    rows = rows_of(evaluate(WordEncoder("text", "image"), with_sts(catalogue), catalogue))
    assert [(row.task, row.metric) for row in rows] == [
        ("pictures/text->image", "hit_rate_at_1"),
        ("pictures/text->image", "hit_rate_at_5"),
        ("pictures/text->image", "hit_rate_at_10"),
        ("pictures/image->text", "hit_rate_at_1"),
        ("pictures/image->text", "hit_rate_at_5"),
        ("pictures/image->text", "hit_rate_at_10"),
        ("descriptions", "ndcg_at_10"),
        ("descriptions", "hit_rate_at_1"),
        ("pairs", "spearman"),
        ("pairs/hard", "spearman"),
    ]
    assert rows[0] == Row("pictures/text->image", "hit_rate_at_1", 1.0, pytest.approx(1 / 15), None)  # type: ignore[arg-type]  # approx
    assert rows[2].chance == pytest.approx(10 / 15)
    assert rows[6].value == 1.0
    assert rows[6].baseline == 1.0
    assert rows[8].value is not None
    assert rows[8].value > 0.7
    assert rows[8].baseline is not None
    assert rows[8].baseline > 0.7


def test_each_input_is_encoded_once_for_both_directions(catalogue: Path) -> None:
    encoder = WordEncoder("text", "image")
    suite = parse_config(Suite, {"tasks": {"pictures": read_suite("demo").tasks["pictures"].model_dump()}})
    evaluate(encoder, suite, catalogue)
    assert len(encoder.encoded) == len(set(encoder.encoded)) == 30


def test_a_text_model_skips_pictures_and_needs_none(catalogue: Path) -> None:
    for picture in (catalogue / "images").iterdir():
        picture.unlink()
    rows = rows_of(evaluate(WordEncoder("text"), read_suite("demo"), catalogue))
    assert [row.value is None for row in rows] == [True] * 6 + [False] * 2
    assert rows[0].chance == pytest.approx(1 / 15)


def test_evaluation_stops_between_tasks_when_asked(catalogue: Path) -> None:
    asked = iter([False, True])
    results = evaluate(WordEncoder("text"), read_suite("demo"), catalogue, should_stop=lambda: next(asked))
    assert {result.name for result in results} == {"pictures/text->image", "pictures/image->text"}


def test_a_broken_model_is_refused_by_the_name_of_the_task(catalogue: Path) -> None:
    with pytest.raises(ValueError, match="queries of pictures/text->image: 15 of 15 vectors hold NaN"):
        evaluate(WordEncoder("text", "image", broken=True), read_suite("demo"), catalogue)


def test_missing_data_is_told_before_anything_is_encoded(catalogue: Path) -> None:
    (catalogue / "images" / "red-ball.jpg").unlink()
    encoder = WordEncoder("text", "image")
    with pytest.raises(ValueError, match=r"red-ball\.jpg"):
        evaluate(encoder, read_suite("demo"), catalogue)
    assert encoder.encoded == []
