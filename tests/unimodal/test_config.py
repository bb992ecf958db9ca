"""Recipes are checked before anything is loaded, and every error names the way out."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

from eval.suites import Suite
from training.config import TrainConfig
from unimodal.config import (
    Config,
    apply_overrides,
    merge,
    parse_config,
    read_config,
    recipe_names,
)
from unimodal.shards.config import PackRecipe

RECIPES = Path(__file__).parents[2] / "configs"


class Inner(Config):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)


class Layer(Config):
    optim: Inner = Inner()
    names: dict[str, Inner] = Field({})


class Recipe(Config):
    steps: int = 10
    optim: Inner = Inner()
    layers: tuple[Layer, ...] = ()
    extra: dict[str, Any] = Field({})


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, "recipe: unknown key 'step'; did you mean 'steps'?"),
        ({"optim": {"l": 3}}, "recipe: optim: unknown key 'l'; did you mean 'lr'?"),
        (
            {"layers": [{}, {"optim": {"beta": 3}}]},
            "layers.1.optim: unknown key 'beta'; did you mean 'betas'?",
        ),
        (
            {"layers": [{"names": {"a": {"zzz": 3}}}]},
            "layers.0.names.a: unknown key 'zzz'; there is: betas, lr.",
        ),
    ],
)
def test_an_unknown_key_at_any_depth_names_its_place_and_the_nearest_valid_one(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # compared whole below
        parse_config(Recipe, values, source="recipe")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_of_the_wrong_type_is_named_with_its_place() -> None:
    with pytest.raises(
        ValueError, match=r'recipe: optim\.lr: .*number.*\(got "fast"\)'
    ):
        parse_config(Recipe, {"optim": {"lr": "fast"}}, source="recipe")


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe().steps = 3  # type: ignore[misc]  # that is the point


BELOW = {"optim": {"lr": 1.0, "betas": [0.9, 0.98]}, "layers": [{"a": 1}, {"b": 1}]}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("steps=7", {"steps": 7}),
        ("optim.lr=3e-4", {"optim": {"lr": 3e-4, "betas": [0.9, 0.98]}}),
        ("optim.betas=[0.9, 0.95]", {"optim": {"lr": 1.0, "betas": [0.9, 0.95]}}),
        ("optim.betas.1=0.5", {"optim": {"lr": 1.0, "betas": [0.9, 0.5]}}),
        ("optim.lr=null", {"optim": {"betas": [0.9, 0.98]}}),
        ("layers.0.c.d=2", {"layers": [{"a": 1, "c": {"d": 2}}, {"b": 1}]}),
        ("layers.1=null", {"layers": [{"a": 1}]}),
        ("extra.path=a=b", {"extra": {"path": "a=b"}}),
        ("extra.on=true", {"extra": {"on": True}}),
    ],
)
def test_an_override_is_yaml_laid_over_one_place(
    override: str, changed: dict[str, Any]
) -> None:
    below = copy.deepcopy(BELOW)
    assert apply_overrides(below, [override]) == {**BELOW, **changed}
    assert below == BELOW


@pytest.mark.parametrize(
    "override",
    ["optm=null", "optim.betsa=null", "extra.deep.er=null", "extra.empty=null"],
)
def test_null_for_what_is_not_there_is_refused(override: str) -> None:
    with pytest.raises(ValueError, match="is not there to be taken away; "):
        apply_overrides(copy.deepcopy(BELOW), [override])


def test_null_takes_a_whole_branch_away() -> None:
    assert apply_overrides(BELOW, ["optim=null"]) == {"layers": BELOW["layers"]}


@pytest.mark.parametrize("number", ["3e-4", "1E5", "-2e3", "1.5e-12", "1.e+3"])
def test_a_number_with_an_exponent_is_a_number_where_no_type_says_so(
    tmp_path: Path, number: str
) -> None:
    assert apply_overrides({}, [f"extra.eps={number}"]) == {
        "extra": {"eps": float(number)}
    }
    path = write(tmp_path, "a.yaml", f"extra: {{eps: {number}, tag: 3e-4b}}")
    assert read_config(Recipe, path).extra == {"eps": float(number), "tag": "3e-4b"}


def test_overrides_are_applied_in_order() -> None:
    assert apply_overrides({"a": {"b": 1}}, ["a=null", "a.c=2"]) == {"a": {"c": 2}}
    assert apply_overrides({"a": {"b": 1}}, ["a=null", "a={c: 2}", "a.d=3"]) == {
        "a": {"c": 2, "d": 3}
    }


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["steps=1", "steps=2"],
            "'steps=1' and 'steps=2' both set steps; keep one of them.",
        ),
        (
            ["steps=1", "optim.lr=1", "steps=1"],
            "'steps=1' and 'steps=1' both set steps; keep one of them.",
        ),
        (
            ["optim={lr: 1}", "optim.lr=2"],
            "'optim={lr: 1}' and 'optim.lr=2' both set optim.lr; keep one of them.",
        ),
        (
            ["optim.lr=2", "optim={lr: 1}"],
            "'optim.lr=2' and 'optim={lr: 1}' both set optim.lr; keep one of them.",
        ),
        (
            ["optim.lr=2", "optim=null"],
            "'optim.lr=2' and 'optim=null' both set optim.lr; keep one of them.",
        ),
        (
            ["optim.lr=2", "optim=fast"],
            "'optim.lr=2' and 'optim=fast' both set optim.lr; keep one of them.",
        ),
        (["layers=[{}, {}]", "layers.1.a=2"], "both set layers.1.a; keep one of them."),
        (["extra.a.b=1", "extra.a.b.c=2"], "both set extra.a.b.c; keep one of them."),
    ],
)
def test_two_overrides_of_one_place_are_refused(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        apply_overrides(copy.deepcopy(BELOW), overrides)


def test_overrides_of_neighbouring_places_stand_side_by_side() -> None:
    overrides = [
        "optim={lr: 3}",
        "optim.eps=2",
        "layers.0.c=1",
        "layers.1=null",
        "optimist=1",
    ]
    assert apply_overrides(copy.deepcopy(BELOW), overrides) == {
        "optim": {"lr": 3, "eps": 2, "betas": [0.9, 0.98]},
        "layers": [{"a": 1, "c": 1}],
        "optimist": 1,
    }


def test_a_tilde_is_not_taken_for_null() -> None:
    with pytest.raises(
        ValueError,
        match=r"'optim\.lr=~': ~ is null in YAML; write null, or the path of your home folder",
    ):
        apply_overrides({"optim": {"lr": 1}}, ["optim.lr=~"])
    assert apply_overrides({}, ["run=~/runs/a"]) == {"run": "~/runs/a"}


@pytest.mark.parametrize("override", ["steps=", "steps= ", "optim.lr=\t"])
def test_an_override_without_a_value_is_refused_and_its_advice_works(
    override: str,
) -> None:
    with pytest.raises(ValueError, match="has no value; write") as caught:
        apply_overrides({"steps": 3, "optim": {"lr": 1}}, [override])
    null, empty = re.findall(r"'([a-z.]+=(?:null|\"\"))'", str(caught.value))
    path = override.partition("=")[0]
    assert (null, empty) == (f"{path}=null", f'{path}=""')

    taken_away = apply_overrides({"steps": 3, "optim": {"lr": 1}}, [null])
    assert parse_config(Recipe, taken_away).steps == (10 if path == "steps" else 3)
    emptied = apply_overrides({"steps": 3, "optim": {"lr": 1}}, [empty])
    assert "" in (emptied["steps"], emptied["optim"]["lr"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "'steps' is not an override; write key=value"),
        ("=3", "'=3' is not an override"),
        ("steps=[1", r"'steps=\[1': column 3 is not YAML: expected ',' or '\]'"),
        (
            "path=**/*.tar",
            r"'path=\*\*/\*.tar': column 2 is not YAML: .*; put a text in quotes$",
        ),
        (
            "extra.a={b:3}",
            r"'extra.a={b:3}': {b:3} has the one key 'b:3' .* after the colon, {b: 3}, or",
        ),
        (
            "extra.a={title}",
            "'extra.a={title}': .* put a text in quotes, '{title}', or write a value",
        ),
        (
            "extra.a=red #5",
            "'extra.a=red #5': what comes from '#5' on is a comment in YAML; put the "
            "text in quotes",
        ),
        ("extra.a=#5", "'extra.a=#5': what comes from '#5' on is a comment"),
        ("extra.a={b: 1, b: 2}", "the key 'b' is written twice; keep one"),
        ("layers.5.x=1", "index 5 is past the end of a list of 1"),
    ],
)
def test_a_bad_override_is_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply_overrides({"layers": [{}]}, [override])


def test_a_recipe_is_laid_over_its_base_mapping_by_mapping(tmp_path: Path) -> None:
    write(
        tmp_path,
        "ground.yaml",
        "steps: 1\noptim: {lr: 0.5, betas: [0.1, 0.2]}\nextra: {a: 1, b: {c: 2}}",
    )
    write(tmp_path, "middle.yaml", "base: ground.yaml\nsteps: 2\nextra: {b: {d: 3}}")
    top = write(
        tmp_path, "top.yaml", "base: middle\noptim: {lr: 0.25}\nextra: {a: null}"
    )
    recipe = read_config(Recipe, top, ["extra.b.c=9"])
    assert recipe == Recipe(
        steps=2, optim=Inner(lr=0.25, betas=(0.1, 0.2)), extra={"b": {"c": 9, "d": 3}}
    )


def test_one_entry_of_a_list_in_the_base_is_changed_by_its_number(
    tmp_path: Path,
) -> None:
    write(tmp_path, "ground.yaml", "layers: [{optim: {lr: 1}}, {optim: {lr: 2}}]")
    top = write(tmp_path, "top.yaml", "base: ground\nlayers: {1: {optim: {lr: 5}}}")
    assert [layer.optim.lr for layer in read_config(Recipe, top).layers] == [1, 5]


def test_a_recipe_may_lie_over_a_shipped_one(tmp_path: Path) -> None:
    top = write(
        tmp_path, "mine.yaml", "base: openstax-mini\nseed: 5\ntasks: {texts: null}"
    )
    config = read_config(TrainConfig, top)
    assert config.seed == 5
    assert list(config.tasks) == ["pictures"]


def test_a_recipe_that_is_its_own_base_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "base: b")
    write(tmp_path, "b.yaml", "base: a")
    with pytest.raises(ValueError, match=r"a\.yaml is its own base"):
        read_config(Recipe, tmp_path / "a.yaml")


def test_merging_leaves_both_sides_as_they_were() -> None:
    below = {"a": {"b": 1}, "l": [{"x": 1}]}
    above = {"a": {"c": 2}, "l": {"0": {"x": 2}}}
    assert merge(below, above) == {"a": {"b": 1, "c": 2}, "l": [{"x": 2}]}
    assert below == {"a": {"b": 1}, "l": [{"x": 1}]}
    assert above == {"a": {"c": 2}, "l": {"0": {"x": 2}}}


def test_a_missing_recipe_names_the_nearest_shipped_one() -> None:
    with pytest.raises(
        ValueError,
        match=r"'openstax-mni' is neither a file nor .*did you mean 'openstax-mini'",
    ):
        read_config(TrainConfig, "openstax-mni")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not YAML"),
        ("- 1\n- 2", r"holds \[1, 2\]; a recipe is a mapping"),
        ("7", "holds 7"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_config(Recipe, write(tmp_path, "bad.yaml", text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.yaml", "b.yaml"])
def test_a_key_that_is_written_twice_is_refused_with_both_lines_also_in_a_base(
    tmp_path: Path, name: str
) -> None:
    text = "steps: 1\noptim: {lr: 0.5}\n\noptim:\n  lr: 0.25\n"
    write(tmp_path, "a.yaml", text)
    write(tmp_path, "b.yaml", "base: a\nsteps: 2")
    with pytest.raises(
        ValueError,
        match=r"a\.yaml, line 4: the key 'optim' is written twice, in lines 2 and 4",
    ):
        read_config(Recipe, tmp_path / name)


@pytest.mark.parametrize("base", ["3", "[a, b]", "''", "{a: 1}"])
def test_a_base_that_is_not_a_name_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(
        ValueError,
        match=r"top\.yaml: base is .*; give the name of one recipe, or take it out",
    ):
        read_config(Recipe, write(tmp_path, "top.yaml", f"base: {base}"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": None}, "recipe: steps: Input should be a valid integer (got null)"),
        ({"optim": {"betas": [1]}}, "recipe: optim.betas.1: Field required"),
        (
            {"optim": {"betas": 3}},
            "recipe: optim.betas: Input should be a list (got 3)",
        ),
        (
            {"optim": "lr:3"},
            'recipe: optim: Input should be a mapping, as of Inner (got "lr:3"); write '
            "a blank after",
        ),
        ({"names": 12}, "recipe: names: Input should be a text or a list (got 12)"),
        (
            {"names": [True]},
            "recipe: names.0: Input should be a text (got true); put a text in quotes.",
        ),
        ({None: 3}, "recipe: unknown key null; "),
        ({"steps": "x" * 5000}, '(got "' + "x" * 99 + "...)"),
    ],
)
def test_a_fault_is_told_in_the_words_of_yaml(
    values: dict[Any, Any], message: str
) -> None:
    class Recipe(Config):
        steps: int = 10
        optim: Inner = Inner()
        names: str | tuple[str, ...] = ()

    with pytest.raises(ValueError) as caught:  # noqa: PT011  # compared below
        parse_config(Recipe, values, source="recipe")
    assert message in str(caught.value)


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert read_config(Recipe, write(tmp_path, "empty.yaml", "")) == Recipe()


def test_every_recipe_in_the_folder_ships() -> None:
    assert recipe_names() == sorted(path.stem for path in RECIPES.glob("*/*.yaml"))
    assert recipe_names()


def test_names_of_shipped_recipes_are_unique() -> None:
    assert len(set(recipe_names())) == len(list(RECIPES.glob("*/*.yaml")))


def test_the_former_path_of_a_shipped_recipe_leads_to_it() -> None:
    by_path = read_config(TrainConfig, "configs/demo.yaml")
    assert by_path == read_config(TrainConfig, "demo")


@pytest.mark.parametrize(
    "path", sorted(RECIPES.glob("*/*.yaml")), ids=lambda path: path.stem
)
def test_every_recipe_parses(path: Path) -> None:
    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem.startswith("suite-"):
        read_config(Suite, path)
    elif "sets" in keys:
        read_config(PackRecipe, path)
    else:
        assert read_config(TrainConfig, path).total_steps > 0
