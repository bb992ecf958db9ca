from __future__ import annotations

import numpy as np
import pytest

from eval.data.zero_shot import ZeroShotData
from eval.scoring.zero_shot import (
    ZERO_SHOT_METRICS,
    zero_shot_values,
)
from unimodal.vectors import Vectors

NAMES = [f"class {number}" for number in range(8)]


def random_task(seed: int = 0) -> tuple[ZeroShotData, Vectors, Vectors]:
    """Sixty images of six of eight classes, some of which look like theirs."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 6, 60)
    classes = random.standard_normal((8, 16))
    images = classes[labels] + 3 * random.standard_normal((60, 16))
    images, classes = (
        side / np.linalg.norm(side, axis=1, keepdims=True) for side in (images, classes)
    )
    data = ZeroShotData([b"jpeg"] * 60, labels.tolist(), NAMES, ["a photo of a {c}."])
    return data, images.astype(np.float32), classes.astype(np.float32)


def test_metrics_equal_their_formulas_from_all_scores() -> None:
    data, images, classes = random_task()
    scores = images @ classes.T
    labels = np.array(data.labels)
    guessed = scores.argmax(axis=1)
    first_five = np.argsort(-scores, axis=1)[:, :5]
    values = zero_shot_values(data.labels, ZERO_SHOT_METRICS, images, classes)
    assert 0.2 < values["accuracy"].mean() < 0.8
    assert (
        5
        in (np.argsort(np.argsort(-scores, axis=1), axis=1) + 1)[np.arange(60), labels]
    )  # one comes in fifth
    assert values["accuracy"].mean() == pytest.approx(np.mean(guessed == labels))
    assert values["accuracy_at_5"].mean() == pytest.approx(
        np.mean((first_five == labels[:, None]).any(axis=1))
    )
    recalls = [np.mean(guessed[labels == label] == label) for label in range(6)]
    assert values["mean_class_recall"].mean() == pytest.approx(np.mean(recalls))


def test_rows_have_chance_and_an_interval() -> None:
    data, images, classes = random_task()
    rows, values = data.score("shapes", ZERO_SHOT_METRICS, images, classes)
    assert [row.metric for row in rows] == list(ZERO_SHOT_METRICS)
    assert [row.chance for row in rows] == [1 / 8, 5 / 8, 1 / 8]
    for row in rows:
        assert row.value is not None
        assert row.low is not None
        assert row.high is not None
        assert row.value == values[row.metric].mean()
        assert row.num == 60
        assert row.low <= row.value <= row.high
    unscored, _ = data.score("shapes", ["accuracy"], None, None)
    assert [(row.value, row.chance) for row in unscored] == [(None, 1 / 8)]
