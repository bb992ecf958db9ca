from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from unimodal.bm25 import Bm25Index, bm25_scores, words
from unimodal.config import parse_config
from unimodal.tables.readers import RowsConfig, read_rows

DOCUMENTS = [
    "the cat sat on the mat",
    "the dog sat",
    "a red ball and a blue ball, by the dog",
    "",
    "zebra",
]
DATA = Path(
    os.environ.get("UNIMODAL_DATA", Path(__file__).parents[3] / "shared" / "data")
)


def naive_bm25(
    query: str, document: str, documents: list[str], k1: float = 1.2, b: float = 0.75
) -> float:
    """Sum over the distinct query words of ln(1 + (N - n + .5) / (n + .5)) f / (f + k1 (1 - b + b L
    / mean L)).
    """
    mean_length = sum(len(words(one)) for one in documents) / len(documents)
    score = 0.0
    for word in set(words(query)):
        found_in = sum(word in words(one) for one in documents)
        times = words(document).count(word)
        idf = math.log(1 + (len(documents) - found_in + 0.5) / (found_in + 0.5))
        score += (
            idf
            * times
            / (times + k1 * (1 - b + b * len(words(document)) / mean_length))
        )
    return score


def test_scores_equal_the_formula() -> None:
    queries = ["dog", "The BALL of the dog", "sat mat cat", "the the the"]
    expected = [
        [naive_bm25(query, document, DOCUMENTS) for document in DOCUMENTS]
        for query in queries
    ]
    scores = bm25_scores(queries, DOCUMENTS)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_a_document_without_a_common_word_scores_exactly_zero() -> None:
    assert (bm25_scores(["unheard of"], DOCUMENTS) == 0).all()
    assert (bm25_scores([""], DOCUMENTS) == 0).all()
    assert (bm25_scores(["zebra"], DOCUMENTS)[0, :4] == 0).all()


def test_a_collection_without_words_scores_zero() -> None:
    assert bm25_scores(["dog"], ["", "..."]).tolist() == [[0.0, 0.0]]


def test_a_repeated_query_word_counts_once() -> None:
    np.testing.assert_array_equal(
        bm25_scores(["dog dog dog ball"], DOCUMENTS),
        bm25_scores(["ball dog"], DOCUMENTS),
    )


def test_blocks_put_together_are_the_whole() -> None:
    queries = ["dog", "cat", "ball", "the", "zebra"]
    index = Bm25Index(DOCUMENTS)
    np.testing.assert_array_equal(
        np.concatenate(list(index.score_blocks(queries, 2))), index.scores(queries)
    )


def test_words_of_any_script_are_lower_case_runs_of_letters_and_digits() -> None:
    assert words("L'été, 2 ÄPFEL—Кот_1!") == ["l", "été", "2", "äpfel", "кот_1"]


def test_without_bm25s_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r'pip install "unimodal\[eval\]"'):
        Bm25Index(["a dog"])


@pytest.mark.skipif(
    not (DATA / "openstax_figures").is_dir(), reason=f"no openstax_figures below {DATA}"
)
def test_a_caption_finds_its_alt_text_as_often_as_is_known() -> None:
    config = parse_config(
        RowsConfig,
        {"input": "openstax_figures/figures.jsonl", "where": {"split": "test"}},
    )
    rows = [row for row in read_rows(config, DATA) if row["caption"]]
    scores = bm25_scores(
        [row["caption"][0] for row in rows], [row["alt"][0] for row in rows]
    )
    assert (scores.argmax(axis=1) == np.arange(len(rows))).mean() == pytest.approx(
        0.530, abs=0.001
    )
