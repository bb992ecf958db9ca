from __future__ import annotations

import numpy as np
import pytest

from eval.datasets import PairData
from eval.sts import bm25_similarities, cosine_similarities, sts_rows
from unimodal.bm25 import bm25_scores

TEXTS = ["a red ball", "a blue ball", "the hat", "a red and a red and a blue ball"]
PAIRS = PairData(
    left=[TEXTS[0], TEXTS[0], TEXTS[2], TEXTS[3]],
    right=[TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[1]],
    scores=[5, 3, 0, 4],
    groups={"ends": [0, 2]},
)


def test_bm25_similarity_equals_its_formula() -> None:
    scores = bm25_scores(TEXTS, TEXTS).astype(np.float64)
    expected = [
        (scores[a, b] + scores[b, a]) / (2 * np.sqrt(scores[a, a] * scores[b, b]))
        for a, b in [(0, 0), (0, 1), (2, 0), (3, 1)]
    ]
    np.testing.assert_allclose(bm25_similarities(PAIRS), expected)
    assert expected[0] == pytest.approx(1.0)
    assert expected[2] == 0.0


def test_a_text_without_words_is_like_no_other() -> None:
    assert bm25_similarities(PairData(["...", "?"], ["...", "a ball"], [5, 0])).tolist() == [0.0, 0.0]


def test_the_similarity_of_a_pair_is_its_cosine() -> None:
    left, right = np.eye(3, dtype=np.float32)[[0, 0, 1]], np.eye(3, dtype=np.float32)[[0, 1, 2]]
    right[1] = [0.6, 0.8, 0.0]
    np.testing.assert_allclose(cosine_similarities("pairs", left, right), [1.0, 0.6, 0.0], atol=1e-7)


def test_groups_are_scored_apart() -> None:
    everything, ends = sts_rows("pairs", PAIRS, np.array([0.9, 0.2, 0.1, 0.3]), None)
    assert (everything.task, everything.value, everything.chance) == ("pairs", 1.0, 0.0)
    assert (ends.task, ends.value, ends.baseline) == ("pairs/ends", 1.0, None)
