"""The keys of --help and the JSON schema come from the fields' docstrings and types."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
import yaml
from pydantic import Field

from eval.prepare.table import DataSet
from eval.suites import Suite
from training.config import Stage, TrainConfig
from unimodal.config import Config
from unimodal.config_keys import Key, keys_of, recipe_schema, type_name
from unimodal.search.index.items import IndexConfig
from unimodal.serve.config import ServeConfig
from unimodal.shards.config import PackRecipe, ReadConfig

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS: dict[str, type[Config]] = {
    "train": TrainConfig,
    "shards": PackRecipe,
    "suites": Suite,
}
PROGRAMS = [*KINDS.values(), Stage, IndexConfig, ServeConfig, ReadConfig, DataSet]


class Inner(Config):
    """A configuration within another."""

    rate: float = Field(0.1, gt=0)
    """Share of something,
    on two lines.
    """


class Outer(Config):
    """A configuration with all kinds of values."""

    name: str
    """Name."""
    inner: Inner = Inner()
    """One of them."""
    many: dict[str, Inner] = Field({})
    """Some by name."""
    sizes: tuple[int, ...] = (1, 2)
    """Sizes."""
    mode: Literal["a", "b"] | None = None
    """Mode."""
    undescribed: bool = False


def subclasses(cls: type[Config]) -> Iterator[type[Config]]:
    for below in cls.__subclasses__():
        yield below
        yield from subclasses(below)


def test_every_field_of_a_configuration_is_described_in_one_line() -> None:
    assert PROGRAMS  # imported, so that their classes are known
    ours = [
        cls
        for cls in subclasses(Config)
        if cls.__module__.startswith(("unimodal.", "training.", "eval."))
    ]
    assert len(ours) > 30
    undescribed = [
        f"{cls.__module__}.{cls.__name__}.{name}"
        for cls in ours
        for name, field in cls.model_fields.items()
        if not field.description
    ]
    assert not undescribed


def test_keys_have_their_types_defaults_and_descriptions() -> None:
    rate = "Share of something, on two lines."
    assert list(keys_of(Outer)) == [
        Key("name", "text", "", "Name."),
        Key("inner.rate", "float", "0.1", rate),
        Key("many", "mapping", "", "Some by name."),
        Key("many.NAME.rate", "float", "0.1", rate),
        Key("sizes", "list of int", "[1,2]", "Sizes."),
        Key("mode", "a | b | null", "", "Mode."),
        Key("undescribed", "bool", "false", ""),
    ]


def test_keys_that_several_kinds_share_are_listed_once() -> None:
    names = [key.name for key in keys_of(Suite)]
    assert names.count("tasks.NAME.metrics") == 1
    assert names.count("tasks.NAME.kind") > 5


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (str, "text"),
        (str | None, "text | null"),
        (tuple[float, float], "list of float"),
        (dict[str, Any], "mapping"),
        (Literal["x"], "x"),
        (Any, "any"),
    ],
)
def test_a_type_is_named_in_the_words_of_yaml(annotation: Any, name: str) -> None:
    assert type_name(annotation) == name


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: path.stem
)
def test_a_shipped_recipe_fits_the_schema_of_its_folder(path: Path) -> None:
    schema = recipe_schema(KINDS[path.parent.name])
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)


@pytest.mark.parametrize(
    "values",
    [
        {"run": "r", "stepz": 1},
        {"run": "r", "steps": "many"},
        {"run": "r", "steps": 0},
        {"run": "r", "optim": {"lrr": 0.1}},
        {"steps": 1},
        {"base": "demo", "optim": {"lr": -1}},
    ],
)
def test_the_schema_refuses_a_wrong_recipe(values: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, recipe_schema(TrainConfig))


def test_a_recipe_over_a_base_may_give_a_part_and_take_away() -> None:
    values = {"base": "demo", "tasks": {"pairs": {"share": 2.0}, "pictures": None}}
    jsonschema.validate(values, recipe_schema(TrainConfig))
