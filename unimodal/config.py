"""Typed, frozen configuration: YAML files and `key=value` overrides.

Errors name the nearest valid key.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from .yaml_text import parse_value, read_yaml

_SHOWN = 100  # characters of a value in a message
# How pydantic calls what YAML and JSON have other words for.
_WORDS = {
    "a valid dictionary or instance of": "a mapping, as of",
    "a valid dictionary": "a mapping",
    "a valid tuple": "a list",
    "a valid string": "a text",
    "Tuple should": "The list should",
    "Dictionary should": "The mapping should",
    "None": "null",
}


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys refused."""

    # The docstring below a field describes it in --help and in the JSON schema.
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(
                        f"unknown key {_show_key(key)}; {nearest(str(key), cls.model_fields)}"
                    )
        return values


def _show_key(key: Any) -> str:
    return f"{key!r:.80}" if isinstance(key, str) else show(key)


ConfigT = TypeVar("ConfigT", bound=Config)

_LISTED = 40  # names that a message lists in full
_NEAREST = 5


def nearest(word: str, valid: Sequence[str] | Mapping[str, Any]) -> str:
    """The way out of a misspelt name: "did you mean 'x'?", or the list of what there is.

    A long list is not printed: of more than a few names the nearest ones stand for all.
    """
    names = list(valid)
    close = difflib.get_close_matches(word[:80], names, n=1, cutoff=0.5)

    if close:
        return f"did you mean {close[0]!r}?"

    if len(names) <= _LISTED:
        return f"there is: {', '.join(sorted(names)) or 'nothing'}."

    nearest_names = difflib.get_close_matches(word[:80], names, n=_NEAREST, cutoff=0.0)
    return f"there are {len(names):,}; the nearest are {', '.join(nearest_names)}."


def read_config(
    cls: type[ConfigT], name: str | Path, overrides: Sequence[str] = ()
) -> ConfigT:
    """Read a YAML file, apply `key=value` overrides and check the result.

    name: a path, or the name of a recipe that ships with the package.

    A file may say `base: OTHER`: it is then laid over that recipe (found beside it, or by name),
    mapping by mapping; a value of null takes an entry of the base away.

    Raises ValueError (one sentence) for a missing file, an unknown key or a bad value.
    """
    return parse_config(
        cls, apply_overrides(_read_yaml(name, Path()), overrides), source=str(name)
    )


def parse_config(
    cls: type[ConfigT], values: Mapping[str, Any], source: str = "config"
) -> ConfigT:
    """Check a mapping against a Config class.

    Raises ValueError with the first fault as one sentence.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise ValueError(f"{source}: {_describe(error.errors(), values)}") from None


def show(value: Any) -> str:
    """A value in the words of YAML and JSON (null, true), for a message; a long one is cut."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _describe(errors: Sequence[ErrorDetails], values: Mapping[str, Any]) -> str:
    """The first fault; where a place takes values of several types, what each of them wants."""
    places = [_place(error, values) for error in errors]
    # Of a union the branch that got furthest; `max` takes the first of several.
    below_first = [path for path in places if f"{path}.".startswith(f"{places[0]}.")]
    place = max(below_first, key=len)
    same = [
        error for error, other in zip(errors, places, strict=True) if other == place
    ]
    first = same[0]
    messages = [error["msg"] for error in same]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error":
        unique = dict.fromkeys(messages)
        wanted = [text.removeprefix("Input should be ") for text in unique]
        message = first["msg"]
        if wanted[0] != message:
            message = f"Input should be {' or '.join(wanted)}"
        for word, ours in _WORDS.items():
            message = message.replace(word, ours)
    value = ""
    if first["type"] not in ("value_error", "missing"):
        value = f" (got {show(first['input'])})"
    prefix = f"{place}: " if place else ""
    return f"{prefix}{message}{value}{_advice(first)}"


def _place(error: ErrorDetails, values: Any) -> str:
    """Where a fault is; pydantic also names the branches of a union, which are not keys."""
    place: list[str] = []
    for part in error["loc"]:
        is_key = isinstance(values, Mapping) and part in values
        if is_key or (
            isinstance(values, (list, tuple))
            and isinstance(part, int)
            and part < len(values)
        ):
            values = values[part]
            place.append(str(part))
        elif error["type"] == "missing" and part == error["loc"][-1]:
            place.append(str(part))
    return ".".join(place)


def _advice(error: ErrorDetails) -> str:
    """The way out where YAML reads a text as something else, or something else as a text."""
    if error["type"] == "string_type" and error["input"] is not None:
        return "; put a text in quotes."
    if (
        error["type"] in ("dict_type", "model_type")
        and isinstance(error["input"], str)
        and ":" in error["input"]
    ):
        return "; write a blank after each colon."
    return ""


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay `a.b.c=value` over a nested mapping.

    Values are YAML: null takes an entry away, and an integer in the path indexes a list.

    Raises ValueError for an override that is not YAML, has no value, or sets what another one sets.
    """
    patches = [_patch_of(override) for override in overrides]
    for (first, earlier), (second, later) in combinations(
        zip(overrides, patches, strict=True), 2
    ):
        _refuse_twice(first, earlier, second, later)
    for patch in patches:
        values = merge(values, patch)
    return values


def _patch_of(override: str) -> dict[str, Any]:
    """The nested mapping that an override stands for."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ValueError(
            f"{override!r} is not an override; write key=value, for example optim.lr=3e-4."
        )
    if not text.strip():
        raise ValueError(
            f"{override!r} has no value; write '{path}=null' to take away what was given and "
            f"have the default, or '{path}=\"\"' for an empty text."
        )
    if text.strip() == "~":
        raise ValueError(
            f"{override!r}: ~ is null in YAML; write null, or the path of your home folder."
        )
    try:
        patch: Any = parse_value(text)
    except ValueError as error:
        raise ValueError(f"{override!r}: {error}") from None
    for part in reversed(path.split(".")):
        patch = {part: patch}
    found: dict[str, Any] = patch
    return found


def _refuse_twice(
    first: str, earlier: Mapping[str, Any], second: str, later: Mapping[str, Any]
) -> None:
    """Raise ValueError where the later of two overrides undoes the earlier.

    What was taken away may be given again.
    """
    for path, value in _leaves(earlier):
        for other, _ in _leaves(later):
            shared = min(len(path), len(other))
            is_filled = value is None and len(path) <= len(other)
            if path[:shared] == other[:shared] and not is_filled:
                longer = path if len(path) > len(other) else other
                raise ValueError(
                    f"{first!r} and {second!r} both set {'.'.join(longer)}; keep one of them."
                )


def _leaves(
    values: Any, above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The path of every value in nested mappings, and the value; a list is one."""
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from _leaves(value, (*above, str(key)))
    else:
        yield above, values


def recipe_names() -> list[str]:
    """List the names of the recipes that ship with the package (`unimodal.configs`)."""
    return sorted(_shipped_recipes())


def _shipped_recipes() -> dict[str, Path]:
    """Name -> file of train/, shards/ and suites/; a name is in one of them only."""
    return {path.stem: path for path in _recipe_folder().glob("*/*.yaml")}


def _recipe_folder() -> Path:
    try:
        return Path(str(resources.files("unimodal.configs")))
    except ModuleNotFoundError:  # a checkout on the path without an install
        return Path(__file__).resolve().parent.parent / "configs"


def _find_recipe(name: str, beside: Path, shipped: Mapping[str, Path]) -> Path | None:
    """Find a file by its path or name in a folder, or a shipped recipe by its name."""
    for candidate in (beside / name, beside / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    if name.startswith("configs/"):  # where shipped recipes lay before they had folders
        name = name.removeprefix("configs/").removesuffix(".yaml")
    return shipped.get(name)


def _read_yaml(
    name: str | Path, beside: Path, above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    shipped = _shipped_recipes()
    path = _find_recipe(str(name), beside, shipped)
    if path is None:
        raise ValueError(
            f"recipe {str(name)!r} is neither a file nor a shipped recipe; "
            f"{nearest(str(name), sorted(shipped))}"
        )
    if path.resolve() in above:
        raise ValueError(
            f"{path} is its own base; give the base another name, or its full path."
        )
    values = read_yaml(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(
            f"{path} holds {show(values)}; a recipe is a mapping of keys to values, such "
            "as `steps: 100`."
        )
    base = values.pop("base", None)
    if base is not None and not (isinstance(base, str) and base):
        raise ValueError(
            f"{path}: base is {show(base)}; give the name of one recipe, or take it out."
        )
    if not base:
        return values
    below = _read_yaml(base, path.parent, (*above, path.resolve()))
    merged: dict[str, Any] = merge(below, values)
    return merged


def merge(below: Any, above: Any) -> Any:
    """Lay one nested mapping over another.

    null takes an entry away, and an integer key indexes a list.
    """
    if (
        isinstance(below, list)
        and isinstance(above, dict)
        and all(str(key).isdecimal() for key in above)
    ):
        merged_list = list(below)
        for key, value in above.items():
            if int(key) >= len(merged_list):
                raise ValueError(
                    f"index {key} is past the end of a list of {len(merged_list)}."
                )
            merged_list[int(key)] = merge(merged_list[int(key)], value)
        taken_away = {int(key) for key, value in above.items() if value is None}
        return [
            entry for index, entry in enumerate(merged_list) if index not in taken_away
        ]
    if not isinstance(above, dict):
        return above
    merged = dict(below) if isinstance(below, dict) else {}
    for key, value in above.items():
        if value is None:
            if key not in merged:
                raise ValueError(
                    f"{key!r} is not there to be taken away; {nearest(str(key), merged)}"
                )
            del merged[key]
        else:
            merged[key] = merge(merged.get(key), value)
    return merged
