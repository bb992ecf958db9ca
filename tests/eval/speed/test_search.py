"""The comparison of search, small: both sides find the same rows; no speed is promised."""

from __future__ import annotations

import numpy as np
import pytest

from eval.speed.search import SearchSizes, bench_search, draw_clusters, exact

pytest.importorskip("lancedb")

SMALL = SearchSizes(rows=1_000, dim=64, queries=5, prefix=32)


def test_each_way_of_searching_has_a_row_of_time_and_one_of_recall() -> None:
    rows = bench_search(SMALL, rounds=1, threads=1)
    ways = [
        "one query",
        "filter that keeps 2 %",
        "prefix of 32, re-ranked",
        "binary, re-ranked",
    ]
    expected = [
        f"{way}, 1,000 x 64: {what}" for way in ways for what in ("p50", "recall@10")
    ]
    assert [row.name for row in rows] == [*expected, "build of the indexes", "on disk"]
    assert [row.target for row in rows[:2]] == ["<= 0.2", ">= 0.95"]
    assert rows[1].ratio == rows[3].ratio == 1  # without an index the search is exact
    assert all(row.ours > 0 and row.theirs > 0 for row in rows)


def test_exact_search_finds_the_nearest_of_the_rows_that_are_kept() -> None:
    vectors, queries = draw_clusters(500, 16, 3)
    kept = np.arange(7, 500, 50)
    for query in queries:
        order = np.argsort(-(vectors @ query))
        assert exact(vectors)(query) == order[:10].tolist()
        assert exact(vectors, kept)(query) == [
            row for row in order.tolist() if row in kept
        ]


def test_vectors_are_the_same_each_time_of_length_one_and_in_clusters() -> None:
    vectors, queries = draw_clusters(1_000, 64, 20)
    assert all(
        np.array_equal(*pair)
        for pair in zip(draw_clusters(1_000, 64, 20), (vectors, queries), strict=True)
    )
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    similar = np.sort(queries @ vectors.T, axis=1)
    assert similar[:, -10:].mean() > similar.mean() + 0.3
