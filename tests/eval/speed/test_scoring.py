"""The comparison of scoring, small: both sides give the same scores; no speed is promised."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.speed import scoring
from eval.speed.scoring import (
    NAMES,
    Shape,
    bench_eval_scoring,
    draw_vectors,
    mteb_run,
    our_run,
    peak_of,
)
from unimodal.compare import in_fresh_process

SMALL = Shape("small", 60, 40, 8, ">= 20", "<= 0.2")
pytestmark = pytest.mark.usefixtures("mteb")


@pytest.mark.parametrize("shape", [SMALL, Shape("long", 20, 1_300, 256, ">= 4")])
def test_mteb_gives_our_scores_of_the_same_vectors(shape: Shape) -> None:
    (ours,), (theirs,) = our_run(shape)(), mteb_run(shape)()
    assert len(ours) == len(NAMES) == 42
    assert float((ours - theirs).abs().max()) < 5.1e-6  # mteb keeps five decimals
    assert 0.05 < float(ours[NAMES.index("ndcg_at_10")]) < 0.95


def test_queries_lie_near_their_document() -> None:
    queries, documents, relevant = draw_vectors(SMALL)
    cosines = np.einsum("qd,qd->q", queries, documents[relevant])
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-6)
    assert cosines.mean() > (queries @ documents.T).mean() + 0.05


def test_bench_has_a_row_for_time_and_one_for_memory_with_a_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peaks = {"ours": 1.0, "mteb": 8.0}
    monkeypatch.setattr(
        scoring, "in_fresh_process", lambda function, name, shape: peaks[name]
    )  # takes seconds
    rows = bench_eval_scoring(
        [SMALL, dataclasses.replace(SMALL, memory_target="")], rounds=1
    )
    assert [row.target for row in rows] == [">= 20", "<= 0.2", ">= 20"]
    assert rows[0].ratio == pytest.approx(rows[0].theirs / rows[0].ours)
    assert (rows[1].ratio, rows[1].unit) == (1 / 8, "MB")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux")
def test_scoring_takes_little_more_memory_than_a_block_of_scores() -> None:
    shape = Shape("large", 6_000, 6_000, 16, ">= 10")  # 144 MB of scores
    assert in_fresh_process(peak_of, "ours", shape) < 60


def test_mteb_is_silent_in_a_run_only() -> None:
    import logging

    from datasets.utils import are_progress_bars_disabled

    logger = logging.getLogger("mteb")
    before = (are_progress_bars_disabled(), logger.level)
    mteb_run(SMALL)()
    assert (are_progress_bars_disabled(), logger.level) == before


def test_other_scores_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*_: Any) -> Any:
        return lambda: [torch.full((len(NAMES),), 0.5)]

    monkeypatch.setattr(scoring, "our_run", other)
    with pytest.raises(
        FloatingPointError, match="the results of 'mteb' and 'ours' differ"
    ):
        bench_eval_scoring([SMALL], rounds=1)
