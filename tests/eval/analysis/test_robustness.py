"""Changed queries are changed as said, the same way every time, and scored against documents that
stay.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval.analysis.robustness import (
    IMAGE_CHANGES,
    KINDS,
    TEXT_CHANGES,
    changed,
    first_half,
    robustness,
    typos,
)
from eval.cache import EmbeddingCache
from eval.data.inputs import Deferred, Fused, Input
from eval.data.pairs import PairData
from eval.data.retrieval import RetrievalData
from eval.data.zero_shot import ZeroShotData
from eval.evaluate import evaluate
from eval.results import TaskResult
from eval.scoring.metrics import spearman
from eval.scoring.score_row import ScoreRow
from eval.scoring.sts import cosines
from eval.suites import read_suite
from unimodal.preprocess.images import decode_image
from unimodal.vectors import Vectors


def make_image(seed: int = 0, size: tuple[int, int] = (320, 240)) -> bytes:
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


class Words:
    """Embeds a text as the bag of its words, with the prompt as one of them, and an image as its
    mean colour.
    """

    modalities = frozenset({"text", "image"})
    prompts: Mapping[str, str] = {"query": "ask", "document": "tell"}

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.places: dict[str, int] = {}

    def fingerprint(self) -> str:
        return ""

    def encode(
        self, inputs: Sequence[object], *, show_progress: bool | None = None
    ) -> Vectors:
        return np.stack([self._vector(one) for one in inputs])

    def encode_query(
        self, inputs: Sequence[object], *, show_progress: bool | None = None
    ) -> Vectors:
        return self.encode(
            [f"ask {one}" if isinstance(one, str) else one for one in inputs]
        )

    def encode_document(
        self, inputs: Sequence[object], *, show_progress: bool | None = None
    ) -> Vectors:
        return self.encode(
            [f"tell {one}" if isinstance(one, str) else one for one in inputs]
        )

    def _vector(self, one: object) -> Vectors:
        self.seen.append(one)
        vector = np.full(64, 1e-3, dtype=np.float32)
        if isinstance(one, str):
            for word in one.split():
                vector[self.places.setdefault(word, len(self.places))] += 1
        else:
            assert isinstance(one, (bytes, Path))
            vector[60:63] = (
                np.asarray(decode_image(one), dtype=np.float32).mean(axis=(0, 1)) / 255
            )
        return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


SENTENCE = (
    "the quick brown fox jumps over the lazy dog beside another animal of the forest"
)


def test_a_typo_is_in_every_fifth_word_of_three_letters() -> None:
    wrong = typos(SENTENCE)
    differing = [
        (a, b) for a, b in zip(SENTENCE.split(), wrong.split(), strict=True) if a != b
    ]
    able = [word for word in SENTENCE.split() if len(word) >= 3]
    assert len(differing) == round(len(able) / 5)
    for right, other in differing:
        assert right[0] == other[0]
        assert abs(len(right) - len(other)) <= 1


def test_a_short_text_has_one_typo_and_one_without_words_has_none() -> None:
    assert typos("red hat") != "red hat"
    assert typos("a b 12") == "a b 12"
    assert typos("") == ""


def test_every_kind_of_typo_happens() -> None:
    lengths = set()
    swapped = 0
    neighbours = 0
    for number in range(300):
        word = f"wonderful{number}"
        wrong = typos(word)
        lengths.add(len(wrong) - len(word))
        if len(wrong) == len(word):
            swapped += sorted(wrong) == sorted(word)
            neighbours += sorted(wrong) != sorted(word)
    assert lengths == {-1, 0, 1}
    assert swapped > 30
    assert neighbours > 30


def test_other_scripts_have_typos_too() -> None:
    assert typos("красная шапка на столе") != "красная шапка на столе"


@pytest.mark.parametrize(
    ("text", "half"),
    [("one two three four five", "one two three"), ("one", "one"), ("a b", "a")],
)
def test_the_first_half_is_of_words(text: str, half: str) -> None:
    assert first_half(text) == half


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_always_becomes_the_same(kind: str) -> None:
    query: Input = (
        SENTENCE.title() + " and a couch" if kind in TEXT_CHANGES else make_image()
    )
    first = changed(query, kind)
    second = changed(query, kind)
    assert first is not None
    assert first == second
    if isinstance(first, Deferred) and isinstance(second, Deferred):
        assert first.read() == second.read()


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        (make_image(), "typos"),
        ("red hat", "blur"),
        ("hat", "first half"),
        ("hat", "lower case"),
        ("zebra", "paraphrase"),
        ("12", "typos"),
    ],
)
def test_what_a_kind_cannot_change_is_left_out(query: Input, kind: str) -> None:
    assert changed(query, kind) is None


@pytest.mark.parametrize("kind", IMAGE_CHANGES)
@pytest.mark.parametrize("form", ["bytes", "path", "deferred"])
def test_a_changed_image_is_a_poorer_one_of_the_same(
    kind: str, form: str, tmp_path: Path
) -> None:
    content = make_image()
    (tmp_path / "a.png").write_bytes(content)
    queries: dict[str, Input] = {
        "bytes": content,
        "path": tmp_path / "a.png",
        "deferred": Deferred("a", lambda: content),
    }
    other = changed(queries[form], kind)
    assert isinstance(other, Deferred)
    before = decode_image(content)
    after = decode_image(other.read())
    assert (
        min(after.size)
        == {"small": 56, "blur": 240, "noise": 240, "poor jpeg": 240}[kind]
    )
    small = [
        np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=np.float64)
        for image in (before, after)
    ]
    assert np.abs(small[0] - small[1]).mean() < 12
    assert other.read() != content


def test_large_images_are_noisy_at_the_size_that_towers_see() -> None:
    other = changed(make_image(size=(1600, 1200)), "noise")
    assert isinstance(other, Deferred)
    assert decode_image(other.read()).size == (341, 256)


def test_two_images_changed_alike_have_two_names(tmp_path: Path) -> None:
    queries: list[Input] = [
        make_image(1),
        make_image(2),
        tmp_path / "a",
        Deferred("b", bytes),
        Deferred("c", bytes),
    ]
    names = {
        one.name
        for query in queries
        if isinstance(one := changed(query, "blur"), Deferred)
    }
    assert len(names) == 5


def test_of_a_text_with_an_image_one_is_changed() -> None:
    query = Fused("a red couch", make_image())
    assert changed(query, "paraphrase") == Fused("a red sofa", query.image)
    other = changed(query, "small")
    assert isinstance(other, Fused)
    assert other.text == query.text
    assert isinstance(other.image, Deferred)


def scored(
    tmp_path: Path, store: EmbeddingCache, texts: list[tuple[str, str]]
) -> TaskResult:
    """A task of text retrieval, scored as every task is."""
    rows = [{"query": query, "document": document} for query, document in texts]
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    (tmp_path / "suite.yaml").write_text(
        "tasks: {texts: {kind: text-retrieval, rows: {input: rows.jsonl}}}"
    )
    (result,) = evaluate(
        store.encoder, read_suite(tmp_path / "suite.yaml"), tmp_path, cache=store
    )
    return result


TEXTS = [
    ("red couch", "red couch of wool"),
    ("zebra", "zebra in africa"),
    ("large lamp", "large lamp on oak"),
    ("green parrot", "green parrot and rice"),
]


def test_scores_are_those_of_the_changed_queries_against_the_same_documents(
    tmp_path: Path,
) -> None:
    words = Words()
    store = EmbeddingCache(words)
    result = scored(tmp_path, store, TEXTS)
    words.seen.clear()
    rows = robustness(result, store, ["paraphrase"])
    asked = [
        "ask red sofa",
        "ask big lamp",
    ]  # the others have no phrase that the table knows
    assert sorted(map(str, words.seen)) == sorted(asked)
    by = {(row.metric, row.variant): row for row in rows}
    assert {variant for _, variant in by} == {"paraphrase", "paraphrase, difference"}
    queries = words.encode(asked)
    assert result.documents is not None
    hits = (queries @ result.documents.T).argmax(axis=1) == np.array([0, 2])
    row = by["hit_rate_at_1", "paraphrase"]
    assert row.value == hits.mean()
    assert row.low is not None
    difference = by["hit_rate_at_1", "paraphrase, difference"]
    assert difference.value == pytest.approx(
        hits.mean() - result.values["hit_rate_at_1"][[0, 2]].mean()
    )
    assert (
        difference.low is None
    )  # both queries lost alike, which says nothing of a third
    assert (row.num, difference.num) == (2, 2)
    assert {row.metric for row in rows} == {"ndcg_at_10", "hit_rate_at_1"}


def test_queries_that_nothing_changes_have_no_rows(tmp_path: Path) -> None:
    store = EmbeddingCache(Words())
    result = scored(tmp_path, store, TEXTS)
    assert robustness(result, store, ["lower case", "blur"]) == []


def test_a_change_that_a_model_does_not_see_makes_no_difference(tmp_path: Path) -> None:
    class Deaf(Words):
        def _vector(self, one: object) -> Vectors:
            return super()._vector(one.lower() if isinstance(one, str) else one)

    store = EmbeddingCache(Deaf())
    result = scored(tmp_path, store, TEXTS)
    rows = robustness(result, store, ["upper case"])
    assert [row.value for row in rows if row.variant.endswith("difference")] == [
        0.0,
        0.0,
    ]
    assert {(row.metric, row.value) for row in rows if row.variant == "upper case"} == {
        (metric, values.mean()) for metric, values in result.values.items()
    }


def test_changed_queries_without_a_vector_are_refused_and_not_scored_as_perfect(
    tmp_path: Path,
) -> None:
    class Overflows(Words):
        def _vector(self, one: object) -> Vectors:
            return super()._vector(one) * np.float32(
                np.nan if str(one).isupper() else 1
            )

        def encode_query(
            self, inputs: Sequence[object], *, show_progress: bool | None = None
        ) -> Vectors:
            return self.encode(inputs)

    store = EmbeddingCache(Overflows())
    result = scored(tmp_path, store, TEXTS)
    with pytest.raises(
        ValueError, match="queries of texts after upper case: 4 of 4 vectors hold NaN"
    ):
        robustness(result, store, ["upper case"])


def test_gains_and_documents_that_are_not_searched_stay_with_their_query() -> None:
    store = EmbeddingCache(Words())
    data = RetrievalData(
        ["zebra", "red couch", "big lamp"],
        ["red lamp", "zebra", "large lamp", "red sofa"],
        [[1], [0, 3], [0]],
        gains=[[1.0], [3.0, 1.0], [1.0]],
        excluded=[[0], [1], [2]],
        query_ids=["a", "b", "c"],
    )
    queries = store.encode(data.queries, "query")
    documents = store.encode(data.documents, "document")
    result = TaskResult(
        "graded",
        "text",
        data,
        [ScoreRow("graded", "ndcg_at_10", 1.0, None, None)],
        {"ndcg_at_10": np.ones(3)},
        queries,
        documents,
    )
    score, _ = robustness(result, store, ["paraphrase"])
    # "red sofa" finds the one of gain 1 before that of gain 3; "large lamp" does not search the one
    # that says so.
    best = 3 + 1 / np.log2(3)
    assert score.value == pytest.approx(((1 + 3 / np.log2(3)) / best + 1) / 2)


def test_pairs_are_correlated_again(tmp_path: Path) -> None:
    store = EmbeddingCache(Words())
    left = ["a red couch", "a zebra runs", "a large lamp", "the green couch"]
    pairs = PairData(
        left, ["a red sofa", "a zebra", "a big lamp", "blue bird"], [5.0, 3.0, 4.0, 0.0]
    )
    vectors = store.encode(left), store.encode(pairs.right)
    rows = [ScoreRow("sts", "spearman", 0.0, 0.0, None)]
    result = TaskResult("sts", "text", pairs, rows, {"cosine": np.zeros(4)}, *vectors)
    score, difference = robustness(result, store, ["first half"])
    after = cosines(
        store.encode(["a red", "a zebra", "a large", "the green"]), vectors[1]
    )
    before = cosines(*vectors)
    human = np.array(pairs.scores)
    assert score.value == pytest.approx(spearman(after, human))
    assert difference.value == pytest.approx(
        spearman(after, human) - spearman(before, human)
    )
    assert difference.low is None


def test_images_are_classified_again() -> None:
    store = EmbeddingCache(Words())
    images: list[Input] = [make_image(seed) for seed in range(4)]
    data = ZeroShotData(images, [0, 1, 0, 1], ["hat", "shoe"], ["a {c}"])
    vectors = store.encode(images), store.encode(["a hat", "a shoe"])
    result = TaskResult(
        "classes",
        "cross-modal",
        data,
        [ScoreRow("classes", "accuracy", 0.0, None, None)],
        {"accuracy": np.zeros(4)},
        *vectors,
    )
    rows = robustness(result, store, ["poor jpeg", "typos"])
    assert [(row.metric, row.variant) for row in rows] == [
        ("accuracy", "poor jpeg"),
        ("accuracy", "poor jpeg, difference"),
    ]


def test_a_task_that_was_not_scored_has_no_rows() -> None:
    result = TaskResult("texts", "text", RetrievalData(["red couch"], ["x"], [[0]]), [])
    assert robustness(result, EmbeddingCache(Words())) == []


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    result = TaskResult("texts", "text", RetrievalData(["red couch"], ["x"], [[0]]), [])
    with pytest.raises(ValueError, match=r"'typo'.*did you mean 'typos'"):
        robustness(result, EmbeddingCache(Words()), ["typo"])
