"""An item is a text, an image or both with shares that add up to one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unimodal.inputs import Part, parts_of

BOTH = frozenset({"text", "image"})


@pytest.mark.parametrize(
    ("item", "parts"),
    [
        ("a hat", [Part("text", "a hat", 1)]),
        (Path("hat.png"), [Part("image", Path("hat.png"), 1)]),
        ({"text": "a hat", "image": None, "weight": 1}, [Part("text", "a hat", 1)]),
        (
            {"text": "a hat", "image": b"GIF"},
            [Part("text", "a hat", 0.5), Part("image", b"GIF", 0.5)],
        ),
        (
            {"text": "a hat", "image": b"GIF", "weight": None},
            [Part("text", "a hat", 0.5), Part("image", b"GIF", 0.5)],
        ),
        (
            {"text": "a hat", "image": b"GIF", "weight": 0.25},
            [Part("text", "a hat", 0.75), Part("image", b"GIF", 0.25)],
        ),
    ],
)
def test_an_item_is_its_parts_with_their_shares(item: Any, parts: list[Part]) -> None:
    assert parts_of(item, BOTH) == parts


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), "much", [1]])
def test_a_weight_that_is_no_share_is_refused(weight: Any) -> None:
    with pytest.raises(ValueError, match=r"is not between 0 .text alone. and 1"):
        parts_of({"text": "a", "image": b"GIF", "weight": weight}, BOTH)
