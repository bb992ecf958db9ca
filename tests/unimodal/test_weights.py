"""Weights that do not fit are listed, shortly, and refused."""

from __future__ import annotations

import pytest
import torch

from unimodal.weights import check_finite, check_fit


def test_weights_that_fit_pass() -> None:
    check_fit("a file", (), (), {})
    check_finite("a file", {"a": torch.ones(2), "count": torch.tensor(3)})


def test_all_that_does_not_fit_is_one_short_sentence() -> None:
    missing = {f"layer.{number:03}" for number in range(500)}
    with pytest.raises(ValueError, match="lacks") as caught:
        check_fit("a file", missing, ["head"], {"b": ((3,), (2, 2)), "c": ((), (1,))})
    assert str(caught.value) == (
        "a file lacks 500 tensors, first 'layer.000', 'layer.001', 'layer.002', and has 1 "
        "unknown tensor, first 'head', and has 2 tensors of another shape, first 'b', which is "
        "(3,) but the configuration says (2, 2); these weights are incomplete or of another "
        "architecture; give the files that belong together."
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(
        ValueError,
        match=r"a file has 2 tensors with values that are not finite .*, first 'a', 'c'; ",
    ):
        check_finite(
            "a file",
            {
                "c": torch.tensor([1.0, value]),
                "a": torch.tensor(value),
                "b": torch.ones(1),
            },
        )
