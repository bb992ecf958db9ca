"""Zero-shot data: classes and their names."""

from __future__ import annotations

import pytest

from eval.data.zero_shot import ZeroShotData


def test_classes_of_one_name_are_told() -> None:
    data = ZeroShotData([b"x", b"y"], [0, 1], ["crane", "crane", "dog"], ["a {c}"])
    with pytest.warns(
        UserWarning,
        match="'crane' is the name of several classes .*, which no model can tell apart",
    ):
        data.check("task")
