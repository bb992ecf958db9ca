"""Gap, alignment, uniformity and the mixed index equal their definitions written out naively."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from eval.analysis import space
from eval.analysis.space import mixed_index, mixed_rows, space_rows
from eval.data.inputs import Deferred, Fused, Input
from eval.data.retrieval import RetrievalData
from eval.results import TaskResult
from eval.scoring.score_row import ScoreRow
from unimodal.calibration import fit_calibration
from unimodal.vectors import Vectors


def unit(vectors: npt.NDArray[Any]) -> Vectors:
    return np.asarray(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32
    )


def space_with_gap(
    matches: list[list[int]], num_images: int, gap: float = 3.0
) -> list[TaskResult]:
    """Both directions of a task: a text lies near its images, but for a step that all texts take
    aside.
    """
    rng = np.random.default_rng(0)
    images = rng.standard_normal((num_images, 8))
    texts = np.stack(
        [images[one].mean(axis=0) for one in matches]
    ) + 0.3 * rng.standard_normal((len(matches), 8))
    texts[:, 0] += gap
    images[:, 0] -= gap
    queries: list[Input] = [f"text {number}" for number in range(len(matches))]
    documents: list[Input] = [
        Deferred(f"image {number}", bytes) for number in range(num_images)
    ]
    data = RetrievalData(queries, documents, matches, both_ways=True)
    text_vectors = unit(texts)
    image_vectors = unit(images)
    return [
        TaskResult(
            "figures/text->image",
            "cross-modal",
            data,
            [],
            queries=text_vectors,
            documents=image_vectors,
        ),
        TaskResult(
            "figures/image->text",
            "cross-modal",
            data.swap_sides(),
            [],
            queries=image_vectors,
            documents=text_vectors,
        ),
    ]


MATCHES = [[number // 2] for number in range(24)]  # two captions an image
MATCHES[5] = [2, 7]  # and a caption of two images


@pytest.fixture
def results() -> list[TaskResult]:
    return space_with_gap(MATCHES, 12)


def numbers(rows: list[ScoreRow], variant: str = "") -> dict[str, float]:
    return {
        f"{row.task} {row.metric}": row.value
        for row in rows
        if row.variant == variant and row.value is not None
    }


def naive_uniformity(pairs: list[tuple[Vectors, Vectors]]) -> float:
    return math.log(
        sum(math.exp(-2 * float(((a - b) ** 2).sum())) for a, b in pairs) / len(pairs)
    )


def test_gap_alignment_and_uniformity_equal_their_formulas(
    results: list[TaskResult],
) -> None:
    texts = results[0].queries
    images = results[0].documents
    assert texts is not None
    assert images is not None
    found = numbers(space_rows(results))
    within = {
        name: [
            (a, b)
            for i, a in enumerate(vectors)
            for j, b in enumerate(vectors)
            if i != j
        ]
        for name, vectors in (("text", texts), ("image", images))
    }
    across = [
        (x, y)
        for i, x in enumerate(texts)
        for j, y in enumerate(images)
        if j not in MATCHES[i]
    ]
    matched = [
        float(((texts[i] - images[j]) ** 2).sum())
        for i, one in enumerate(MATCHES)
        for j in one
    ]
    expected = {
        "figures modality_gap": float(
            np.linalg.norm(texts.mean(axis=0) - images.mean(axis=0))
        ),
        "figures alignment": sum(matched) / len(matched),
        "figures uniformity_text": naive_uniformity(within["text"]),
        "figures uniformity_image": naive_uniformity(within["image"]),
        "figures uniformity_across": naive_uniformity(across),
    }
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(matched) == 25


def test_blocks_and_one_piece_agree(
    results: list[TaskResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [*space_rows(results), *mixed_rows(results)]
    monkeypatch.setattr(space, "BLOCK_SCORES", 100)
    cut = [*space_rows(results), *mixed_rows(results)]
    assert [row.value for row in cut] == pytest.approx(
        [row.value for row in whole], abs=1e-6
    )


def test_a_sample_of_a_large_space_comes_near_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = space_with_gap([[number] for number in range(400)], 400)
    whole = numbers([*space_rows(large), *mixed_rows(large)])
    monkeypatch.setattr(space, "MAX_ROWS", 150)
    monkeypatch.setattr(space, "MAX_QUERIES", 150)
    sampled = numbers([*space_rows(large), *mixed_rows(large)])
    assert sampled != whole
    assert sampled == pytest.approx(whole, abs=0.1)


def naive_mixture(
    pool: Vectors, first: int, relevant: list[set[int]], num_texts: int
) -> tuple[float, float]:
    """nDCG at 10 and the share of images in the top 10, each item of `relevant` asking without
    itself.
    """
    ndcg = []
    share = []
    for own, wanted in enumerate(relevant, start=first):
        order = [other for other in np.argsort(-(pool @ pool[own])) if other != own][
            :10
        ]
        dcg = sum(
            1 / math.log2(rank + 2)
            for rank, other in enumerate(order)
            if other in wanted
        )
        ndcg.append(
            dcg / sum(1 / math.log2(rank + 2) for rank in range(min(10, len(wanted))))
        )
        share.append(sum(other >= num_texts for other in order) / 10)
    return float(np.mean(ndcg)), float(np.mean(share))


def test_a_text_finds_its_images_and_their_other_texts_but_never_itself(
    results: list[TaskResult],
) -> None:
    pool = np.concatenate(
        [
            vectors
            for vectors in (results[0].queries, results[0].documents)
            if vectors is not None
        ]
    )
    relevant = [
        {other for other, theirs in enumerate(MATCHES) if set(theirs) & set(own)}
        - {text}
        | {24 + one for one in own}
        for text, own in enumerate(MATCHES)
    ]
    ndcg, share = naive_mixture(pool, 0, relevant, 24)
    rows = {
        row.metric: row
        for row in mixed_rows(results)
        if row.task == "figures/text->mixed" and not row.variant
    }
    assert rows["ndcg_at_10"].value == pytest.approx(ndcg, abs=1e-6)
    assert rows["image_share_at_10"].value == pytest.approx(share, abs=1e-6)
    assert rows["image_share_at_10"].chance == pytest.approx(12 / 35)


def test_an_image_finds_its_texts_and_their_other_images_but_never_itself(
    results: list[TaskResult],
) -> None:
    pool = np.concatenate(
        [
            vectors
            for vectors in (results[0].queries, results[0].documents)
            if vectors is not None
        ]
    )
    texts_of = [
        {text for text, own in enumerate(MATCHES) if image in own}
        for image in range(12)
    ]
    others = {2: {24 + 7}, 7: {24 + 2}}  # the two images of the caption of two
    relevant = [
        texts | others.get(image, set()) for image, texts in enumerate(texts_of)
    ]
    ndcg, share = naive_mixture(pool, 24, relevant, 24)
    rows = {
        row.metric: row
        for row in mixed_rows(results)
        if row.task == "figures/image->mixed" and not row.variant
    }
    assert rows["ndcg_at_10"].value == pytest.approx(ndcg, abs=1e-6)
    assert rows["image_share_at_10"].value == pytest.approx(share, abs=1e-6)
    assert rows["image_share_at_10"].chance == pytest.approx(11 / 35)


def test_centring_lets_texts_find_images_in_a_mixed_index() -> None:
    results = space_with_gap([[number] for number in range(60)], 60)
    rows = [*mixed_rows(results), *space_rows(results)]
    before = numbers(rows)
    after = numbers(rows, "centred")
    assert before["figures/text->mixed image_share_at_10"] < 0.1
    assert 0.4 < after["figures/text->mixed image_share_at_10"] < 0.6
    assert (
        after["figures/text->mixed ndcg_at_10"]
        > before["figures/text->mixed ndcg_at_10"] + 0.3
    )
    assert after["figures modality_gap"] < 0.2 < 1 < before["figures modality_gap"]


def test_the_calibration_of_a_model_is_a_variant_of_its_own(
    results: list[TaskResult],
) -> None:
    texts = results[0].queries
    images = results[0].documents
    assert texts is not None
    assert images is not None
    own = fit_calibration(texts, images)
    for analysis in (mixed_rows, space_rows):
        rows = analysis(results, own)
        assert {row.variant for row in rows} == {"", "centred", "calibrated"}
        assert numbers(rows, "calibrated") == numbers(rows, "centred")


def test_each_task_is_looked_at_once_and_only_where_texts_search_images(
    results: list[TaskResult],
) -> None:
    vectors = unit(np.eye(8)[:2])
    others: list[tuple[list[Input], list[Input]]] = [
        (["a", "b"], ["c", "d"]),
        (["a", "b"], [Fused("a", Path("a.jpg")), Fused("b", Path("b.jpg"))]),
    ]
    more = [
        TaskResult(
            f"other {number}",
            "text",
            RetrievalData(left, right, [[0], [1]]),
            [],
            queries=vectors,
            documents=vectors,
        )
        for number, (left, right) in enumerate(others)
    ]
    unscored = TaskResult("figures/text->image", "cross-modal", results[0].data, [])
    rows = space_rows([*results, *more, unscored])
    assert {row.task for row in rows} == {"figures"}
    assert len(rows) == 10


def test_what_is_relevant_with_a_gain_of_nothing_is_no_match() -> None:
    data = RetrievalData(
        ["a", "b"], [b"0", b"1"], [[0, 1], [1]], gains=[[1.0, 0.0], [1.0]]
    )
    vectors = unit(np.eye(4)[:2])
    rows = space_rows(
        [
            TaskResult(
                "shop", "cross-modal", data, [], queries=vectors, documents=vectors
            )
        ]
    )
    assert numbers(rows)["shop alignment"] == 0


def test_equal_texts_and_images_tie_in_a_mixed_index() -> None:
    rng = np.random.default_rng(0)
    some = rng.standard_normal((500, 384))
    place = rng.permutation(1000)  # where each of the two copies stands
    images = unit(np.concatenate([some, some])[np.argsort(place)])
    twins = [
        sorted((500 + int(place[number]), 500 + int(place[500 + number])), key=str)
        for number in range(500)
    ]
    texts = unit(
        images[[one - 500 for one, _ in twins]] + 0.01 * rng.standard_normal((500, 384))
    )
    pool = np.concatenate([texts, images])
    for twin, rank in (
        (0, 2),
        (1, 1),
    ):  # of two equal ones that of the higher id is ahead
        found, _ = mixed_index(
            pool, np.arange(500), [[one[twin]] for one in twins], 500
        )
        assert found.flat.tolist() == [rank] * 500


def test_a_text_that_equals_another_text_is_not_found_by_itself() -> None:
    pool = unit(np.eye(8)[[0, 0, 0, 1, 2]])  # three equal texts, then two images
    found, _ = mixed_index(pool, np.array([0, 1, 2]), [[1, 2], [0, 2], [0, 1]], 3)
    assert found.flat.tolist() == [2, 1, 2, 1, 2, 1]


def graded(
    relevant: list[list[int]], gains: list[list[float]], hit_gain: float
) -> TaskResult:
    """Text n has the vector of image n."""
    images: list[Input] = [b"%d" % number for number in range(4)]
    data = RetrievalData(
        ["a", "b", "c", "d"], images, relevant, gains=gains, hit_gain=hit_gain
    )
    vectors = unit(np.eye(4))
    return TaskResult(
        "shop", "cross-modal", data, [], queries=vectors, documents=vectors
    )


def test_of_graded_images_those_of_the_highest_grade_are_matches() -> None:
    same_category = [[number, *{0, 1, 2, 3} - {number}] for number in range(4)]
    task = graded(same_category, [[3.0, 2.0, 1.0, 1.0]] * 4, hit_gain=3.0)
    assert numbers(space_rows([task]))["shop alignment"] == 0
    found = numbers(mixed_rows([task]))
    assert (
        found["shop/text->mixed ndcg_at_10"] == 1
    )  # the image of the product, not one like it
    assert found["shop/image->mixed ndcg_at_10"] == 1


def test_texts_whose_product_has_no_image_are_not_asked() -> None:
    one = graded([[0], [1], [2], [3]], [[3.0], [1.0], [1.0], [1.0]], hit_gain=3.0)
    assert numbers(space_rows([one]))["shop alignment"] == 0
    assert numbers(mixed_rows([one]))["shop/text->mixed ndcg_at_10"] == 1
    none = graded([[0], [1], [2], [3]], [[1.0]] * 4, hit_gain=3.0)
    assert "shop alignment" not in numbers(space_rows([none]))
    assert mixed_rows([none]) == []


def test_a_collapsed_model_is_not_centred() -> None:
    data = RetrievalData(["a", "b"], [b"0", b"1"], [[0], [1]])
    vectors = unit(np.ones((2, 4)))
    rows = space_rows(
        [
            TaskResult(
                "shop", "cross-modal", data, [], queries=vectors, documents=vectors
            )
        ]
    )
    assert {row.variant for row in rows} == {""}
    assert numbers(rows)["shop uniformity_text"] == pytest.approx(0, abs=1e-6)
