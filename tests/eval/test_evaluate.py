from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from eval.cache import EmbeddingCache
from eval.data.inputs import Fused, Input, Side
from eval.data.retrieval import RetrievalData
from eval.data.zero_shot import ZeroShotData
from eval.evaluate import encode_side, evaluate, score_task
from eval.results import rows_of
from eval.scoring.retrieval import vector_values
from eval.scoring.score_row import ScoreRow
from eval.suites import Suite, read_suite
from unimodal.config import parse_config
from unimodal.encoder import Encoder

if TYPE_CHECKING:
    from unimodal.embedder import Embedder

    def the_embedder_is_an_encoder(embedder: Embedder) -> Encoder:
        return embedder


COLOURS = ("red", "green", "blue")
THINGS = ("ball", "hat", "cup", "shoe", "lamp")


class WordEncoder:
    """Adds up one fixed random vector a word; an image is seen as the words of its file name."""

    prompts: Mapping[str, str] = {}

    def __init__(self, *modalities: str, broken: str = "") -> None:
        self.modalities = frozenset(modalities)
        self.broken = broken
        self.encoded: list[Input] = []

    def fingerprint(self) -> str:
        return ""

    def encode(
        self, inputs: Sequence[Input], *, show_progress: bool | None = None
    ) -> npt.NDArray[np.float32]:
        self.encoded += inputs
        vectors = np.zeros((len(inputs), 64), dtype=np.float32)
        for row, one in enumerate(inputs):
            words = (
                one.stem
                if isinstance(one, Path)
                else one.decode()
                if isinstance(one, bytes)
                else str(one)
            )
            for word in words.replace("-", " ").split():
                vectors[row] += np.random.default_rng(
                    zlib.crc32(word.encode())
                ).standard_normal(64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) if len(vectors) else 1
        change = {
            "nan": np.float32("nan"),
            "long": np.float32(1.5),
            "": np.float32(1),
            "same": np.float32(0),
        }
        return vectors * change[self.broken] + np.float32(self.broken == "same") / 8

    encode_query = encode_document = encode


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    rows = []
    for colour in COLOURS:
        for thing in THINGS:
            image = f"images/{colour}-{thing}.jpg"
            (tmp_path / image).write_text(image)  # no two files are the same
            captions = [f"{colour} {thing}", "not used"]
            description = f"one {thing} that is {colour}"
            rows.append(
                {
                    "image": image,
                    "captions": captions,
                    "query": f"{colour} {thing}",
                    "description": description,
                }
            )
    for split in ("val", "test"):
        (tmp_path / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
    return tmp_path


def with_dims(suite: Suite, *dims: int) -> Suite:
    return suite.model_copy(
        update={"analysis": suite.analysis.model_copy(update={"dims": list(dims)})}
    )


def with_sts(catalogue: Path) -> Suite:
    pairs = [
        {"a": "red ball", "b": "red ball", "score": 5, "kind": "easy"},
        {"a": "red ball", "b": "blue ball", "score": 3, "kind": "hard"},
        {"a": "red ball", "b": "green lamp", "score": 0, "kind": "easy"},
        {"a": "green hat", "b": "green cup", "score": 2, "kind": "hard"},
    ]
    (catalogue / "pairs.jsonl").write_text(
        "".join(json.dumps(pair) + "\n" for pair in pairs)
    )
    sts: dict[str, Any] = {
        "kind": "sts",
        "rows": {"input": "pairs.jsonl"},
        "left": "a",
        "right": "b",
    }
    demo = read_suite("demo").model_dump()
    return parse_config(
        Suite,
        {
            "tasks": {
                **demo["tasks"],
                "pairs": {**sts, "groups": {"hard": {"kind": "hard"}}},
            }
        },
    )


def test_every_task_is_scored_beside_chance_and_bm25(catalogue: Path) -> None:
    rows = rows_of(
        evaluate(WordEncoder("text", "image"), with_sts(catalogue), catalogue)
    )
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
    chance: Any = pytest.approx(1 / 15)
    low: Any = pytest.approx(15 / (15 + 1.96**2), abs=1e-4)
    plain = ScoreRow(
        "pictures/text->image", "hit_rate_at_1", 1.0, chance, None, low, 1.0, num=15
    )
    assert rows[0] == plain
    assert rows[2].chance == pytest.approx(10 / 15)
    assert rows[6].value == 1.0
    assert rows[6].baseline == 1.0
    assert rows[8].value is not None
    assert rows[8].value > 0.7
    assert rows[8].baseline is not None
    assert rows[8].baseline > 0.7


def test_each_input_is_encoded_once_for_both_directions(catalogue: Path) -> None:
    encoder = WordEncoder("text", "image")
    suite = parse_config(
        Suite,
        {"tasks": {"pictures": read_suite("demo").tasks["pictures"].model_dump()}},
    )
    evaluate(encoder, suite, catalogue)
    assert len(encoder.encoded) == len(set(encoder.encoded)) == 30


def test_a_text_model_skips_images_and_needs_none(catalogue: Path) -> None:
    for image in (catalogue / "images").iterdir():
        image.unlink()
    rows = rows_of(evaluate(WordEncoder("text"), read_suite("demo"), catalogue))
    assert [row.value is None for row in rows] == [True] * 6 + [False] * 2
    assert rows[0].chance == pytest.approx(1 / 15)


def test_evaluation_stops_between_tasks_when_asked(catalogue: Path) -> None:
    asked = iter([False, True])
    results = evaluate(
        WordEncoder("text"),
        read_suite("demo"),
        catalogue,
        should_stop=lambda: next(asked),
    )
    assert {result.name for result in results} == {
        "pictures/text->image",
        "pictures/image->text",
    }


def test_evaluation_stops_within_a_task_and_keeps_those_before_it(
    catalogue: Path,
) -> None:
    encoder = WordEncoder("text", "image")
    store = EmbeddingCache(encoder, should_stop=lambda: len(encoder.encoded) >= 30)
    results = evaluate(encoder, with_sts(catalogue), catalogue, cache=store)
    assert [result.name for result in results] == [
        "pictures/text->image",
        "pictures/image->text",
    ]
    assert len(encoder.encoded) == 30


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("nan", "queries of pictures/text->image: 15 of 15 vectors hold NaN"),
        (
            "long",
            r"queries of pictures/text->image: a vector has the length 1\.5, not 1",
        ),
        ("same", "queries of pictures/text->image: all 15 vectors are nearly equal"),
    ],
)
def test_a_broken_model_is_refused_by_the_name_of_the_task(
    catalogue: Path, broken: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(
            WordEncoder("text", "image", broken=broken), read_suite("demo"), catalogue
        )


def test_validation_warns_of_a_collapsed_model_and_has_no_intervals(
    catalogue: Path,
) -> None:
    with pytest.warns(RuntimeWarning, match="vectors are nearly equal"):
        results = evaluate(
            WordEncoder("text", "image", broken="same"),
            read_suite("demo"),
            catalogue,
            validation=True,
        )
    assert all(row.value is not None and row.low is None for row in rows_of(results))


def test_dims_are_scored_from_the_same_vectors(catalogue: Path) -> None:
    encoder = WordEncoder("text", "image")
    suite = with_sts(catalogue)
    plain = rows_of(evaluate(encoder, suite, catalogue))
    encoded = len(encoder.encoded)
    store = EmbeddingCache(encoder)
    with pytest.warns(
        UserWarning, match="65 dims are left out: the model's vectors have 64"
    ):
        results = evaluate(encoder, with_dims(suite, 4, 64, 65), catalogue, cache=store)
    assert len(encoder.encoded) == 2 * encoded
    rows = {
        variant: [row for row in rows_of(results) if row.variant == variant]
        for variant in ("", "4 dims", "64 dims")
    }
    assert rows[""] == plain
    assert [replace(row, variant="") for row in rows["64 dims"]] == plain
    queries = results[2].queries
    documents = results[2].documents
    assert queries is not None
    assert documents is not None
    cut, cut_documents = (
        side[:, :4] / np.linalg.norm(side[:, :4], axis=1, keepdims=True)
        for side in (queries, documents)
    )
    data = results[2].data
    assert isinstance(data, RetrievalData)
    expected = vector_values(data.judgements, ["ndcg_at_10"], cut, cut_documents)[
        "ndcg_at_10"
    ].mean()
    assert 0.3 < expected < 1
    found = next(
        row
        for row in rows["4 dims"]
        if (row.task, row.metric) == ("descriptions", "ndcg_at_10")
    )
    assert found.value == pytest.approx(expected)
    assert not any("65" in row.variant for row in rows_of(results))


def test_values_come_with_the_vectors_that_they_are_of(catalogue: Path) -> None:
    for result in evaluate(
        WordEncoder("text", "image"), with_sts(catalogue), catalogue
    ):
        assert result.queries is not None
        assert result.documents is not None
        subset = result.data.score_subset(
            result.metrics,
            np.arange(len(result.queries)),
            result.queries,
            result.documents,
        )
        assert subset is not None
        again = subset.values
        assert set(again) == set(result.values)
        for metric, values in result.values.items():
            np.testing.assert_array_equal(again[metric], values)
            assert len(values) == len(result.queries)


def test_halves_are_told_by_the_modalities(catalogue: Path) -> None:
    results = evaluate(WordEncoder("text", "image"), with_sts(catalogue), catalogue)
    assert [result.half for result in results] == [
        "cross-modal",
        "cross-modal",
        "text",
        "text",
    ]


def test_images_that_nobody_asks_for_are_searched_and_ask_nothing() -> None:
    images: list[Input] = [b"green ball", b"blue shoe", b"red hat"]
    data = RetrievalData(["red hat", "blue shoe"], images, [[2], [1]], both_ways=True)
    forward, back = score_task(
        EmbeddingCache(WordEncoder("text", "image")), "hats", data, ["hit_rate_at_1"]
    )
    assert [len(one.queries) for one in (forward, back) if one.queries is not None] == [
        2,
        2,
    ]
    assert (forward.rows[0].value, back.rows[0].value) == (1.0, 1.0)
    assert forward.documents is not None
    assert back.queries is not None
    np.testing.assert_array_equal(back.queries, forward.documents[[1, 2]])
    assert forward.rows[0].chance == pytest.approx(1 / 3)
    assert back.rows[0].chance == pytest.approx(1 / 2)


def test_a_photo_and_words_find_a_product_by_graded_relevance() -> None:
    data = RetrievalData(
        queries=[Fused("red", b"green hat"), b"blue ball"],
        documents=[
            Fused("red", b"hat"),
            Fused("green", b"hat"),
            Fused("blue", b"ball"),
        ],
        relevant=[[0, 1], [2]],
        gains=[[3.0, 1.0], [3.0]],
        hit_gain=3.0,
    )
    store = EmbeddingCache(WordEncoder("text", "image"))
    (result,) = score_task(
        store, "shop/photo->fused", data, ["ndcg_at_10", "hit_rate_at_1"]
    )
    assert result.half == "cross-modal"
    assert result.values["ndcg_at_10"][1] == 1.0
    assert 0.6 < result.values["ndcg_at_10"][0] <= 1.0


def test_images_are_classified_by_the_words_of_their_class() -> None:
    images: list[Input] = [
        f"{colour} {thing}".encode() for colour in COLOURS for thing in THINGS
    ]
    labels = [number % len(THINGS) for number in range(len(images))]
    data = ZeroShotData(images, labels, list(THINGS), ["one {c}", "a {c}"])
    encoder = WordEncoder("text", "image")
    (result,) = score_task(EmbeddingCache(encoder), "things", data, ["accuracy"])
    assert {str(one) for one in encoder.encoded if isinstance(one, str)} == {
        f"{template} {thing}" for template in ("one", "a") for thing in THINGS
    }
    assert (result.half, result.rows[0].chance) == ("cross-modal", 0.2)
    assert result.rows[0].value is not None
    assert result.rows[0].value > 0.9
    assert result.documents is not None
    assert result.documents.shape == (5, 64)
    (unscored,) = score_task(
        EmbeddingCache(WordEncoder("text")), "things", data, ["accuracy"]
    )
    assert unscored.rows[0].value is None


def test_a_task_has_the_metrics_that_it_asks_for(catalogue: Path) -> None:
    suite = read_suite("demo", ["tasks.descriptions.metrics=[recall_at_3, map_at_10]"])
    rows = rows_of(evaluate(WordEncoder("text", "image"), suite, catalogue))
    assert [row.metric for row in rows if row.task == "descriptions"] == [
        "recall_at_3",
        "map_at_10",
    ]


def test_a_metric_that_a_task_cannot_have_is_told_before_anything_is_encoded(
    catalogue: Path,
) -> None:
    encoder = WordEncoder("text", "image")
    suite = read_suite("demo", ["tasks.descriptions.metrics=[spearman]"])
    with pytest.raises(
        ValueError,
        match=r"tasks\.descriptions\.metrics: there is no metric 'spearman' of a ranking; ",
    ):
        evaluate(encoder, suite, catalogue)
    assert encoder.encoded == []


def test_missing_data_is_told_before_anything_is_encoded(catalogue: Path) -> None:
    (catalogue / "images" / "red-ball.jpg").unlink()
    encoder = WordEncoder("text", "image")
    with pytest.raises(ValueError, match=r"red-ball\.jpg"):
        evaluate(encoder, read_suite("demo"), catalogue)
    assert encoder.encoded == []


class Given:
    """Texts that spell their vectors."""

    modalities = frozenset({"text"})
    prompts: Mapping[str, str] = {}

    def fingerprint(self) -> str:
        return ""

    def encode(
        self, inputs: Sequence[Input], *, show_progress: bool | None = None
    ) -> npt.NDArray[np.float32]:
        return np.array([str(text).split() for text in inputs], dtype=np.float32)

    encode_query = encode
    encode_document = encode


def test_inputs_of_a_group_share_their_normalized_mean() -> None:
    side = Side(["1 0", "0 1", "0.6 0.8", "0.60 0.80"], group_size=2)
    vectors = encode_side(EmbeddingCache(Given()), side)
    np.testing.assert_allclose(vectors, [[0.5**0.5, 0.5**0.5], [0.6, 0.8]], atol=1e-6)
