"""A model's configuration is checked when it is read."""

from __future__ import annotations

from typing import Any

import pytest

from unimodal.config import apply_overrides, parse_config
from unimodal.model_config import ModelConfig, check_truncation, with_transparency


def model_config(**values: Any) -> ModelConfig:
    return parse_config(
        ModelConfig, {"embed_dim": 8, "text": {"name": "bert"}, **values}
    )


def test_a_model_without_towers_is_refused() -> None:
    with pytest.raises(ValueError, match="an image tower, a text tower or both"):
        parse_config(ModelConfig, {"embed_dim": 8})


@pytest.mark.parametrize("word", ["yes", "no", "On", "off", "n"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_boolean_word_of_yaml_1_1_is_not_the_name_of_weights(
    word: str, tower: str
) -> None:
    values = apply_overrides(
        {"embed_dim": 8, tower: {"name": "x"}}, [f"{tower}.pretrained={word}"]
    )
    with pytest.raises(
        ValueError, match=rf'{tower}\.pretrained: "{word}" .* true or false'
    ):
        parse_config(ModelConfig, values)


@pytest.mark.parametrize("dim", [9, 0, -1])
def test_a_matryoshka_dim_that_the_vectors_do_not_have_is_refused(dim: int) -> None:
    with pytest.raises(ValueError, match=f"matryoshka_dims has {dim}, .* embed_dim 8"):
        model_config(matryoshka_dims=[4, dim])


def test_matryoshka_dims_may_include_the_whole_vector() -> None:
    assert model_config(matryoshka_dims=[4, 8]).matryoshka_dims == (4, 8)


def test_only_a_model_with_matryoshka_dims_is_truncated() -> None:
    with pytest.raises(ValueError, match=r"truncate_dim 4: .* matryoshka_dims"):
        check_truncation(model_config(), 4)
    assert check_truncation(model_config(), 8) == 8
    assert check_truncation(model_config(matryoshka_dims=[4]), 6) == 6


@pytest.mark.parametrize("dim", [True, 4.0, "4", 0, 9])
def test_a_length_that_the_vectors_do_not_have_is_refused(dim: Any) -> None:
    with pytest.raises(ValueError, match=f"dims {dim!r}"):
        check_truncation(model_config(matryoshka_dims=[4]), dim, "dims")


def test_a_saved_model_without_the_key_drops_transparency() -> None:
    old = {"preprocess": {"image_size": 32}}
    assert with_transparency(old)["preprocess"] == {
        "image_size": 32,
        "transparency": "drop",
    }
    new = {"preprocess": {"transparency": "white"}}
    assert with_transparency(new) == new
    assert with_transparency({}) == {}
