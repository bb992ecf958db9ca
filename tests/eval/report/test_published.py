from __future__ import annotations

from collections import Counter

import pytest

from eval.report.published import published_scores, read_published


def test_every_published_score_is_a_share_with_a_source_and_a_tolerance() -> None:
    assert len(read_published()) > 300
    for score in read_published():
        assert 0 < score.value <= 1, score
        assert 0 < score.tolerance <= 0.02, score
        assert score.source, score
        assert score.url.startswith("https://"), score
        assert score.model.count("/") == 1, score


def test_no_model_has_two_scores_in_one_cell() -> None:
    cells = Counter(
        (score.model, score.task, score.metric) for score in read_published()
    )
    assert [cell for cell, count in cells.items() if count > 1] == []


def test_scores_are_found_by_task_and_metric_exactly_and_stand_best_first() -> None:
    scores = published_scores("flickr30k/text->image", "hit_rate_at_1")
    assert {"jinaai/jina-clip-v1": 0.6782}.items() <= {
        score.model: score.value for score in scores
    }.items()
    assert [score.value for score in scores] == sorted(
        (score.value for score in scores), reverse=True
    )
    assert published_scores("flickr30k/text->image", "recall_at_1") == []
    assert published_scores("flickr30k", "hit_rate_at_1") == []


@pytest.mark.parametrize("task", ["flickr30k", "mscoco"])
def test_a_hit_rate_grows_with_k(task: str) -> None:
    for direction in ("text->image", "image->text"):
        at = {
            k: {
                one.model: one.value
                for one in published_scores(f"{task}/{direction}", f"hit_rate_at_{k}")
            }
            for k in (1, 5, 10)
        }
        for model in at[1].keys() & at[5].keys() & at[10].keys():
            assert at[1][model] < at[5][model] < at[10][model]
