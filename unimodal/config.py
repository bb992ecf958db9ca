"""Typed, frozen configuration: YAML files, `key=value` overrides, and errors that name the nearest
valid key.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import combinations
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
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

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    """Read a YAML file (a path, or the name of a recipe that ships with the package), apply
    `key=value`, check it.

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
    """Check a mapping against a Config class; raises ValueError with the first fault as one
    sentence.
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
    place = max(
        (each for each in places if f"{each}.".startswith(f"{places[0]}.")), key=len
    )
    same = [
        error for error, other in zip(errors, places, strict=True) if other == place
    ]
    first = same[0]
    messages = [error["msg"] for error in same]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] != "value_error":
        wanted = [
            said.removeprefix("Input should be ") for said in dict.fromkeys(messages)
        ]
        message = (
            f"Input should be {' or '.join(wanted)}"
            if wanted[0] != first["msg"]
            else first["msg"]
        )
        for word, ours in _WORDS.items():
            message = message.replace(word, ours)
    value = (
        ""
        if first["type"] in ("value_error", "missing")
        else f" (got {show(first['input'])})"
    )
    return f"{place + ': ' if place else ''}{message}{value}{_advice(first)}"


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
    """The way out of a text that YAML reads as something else, and of something else that it reads
    as a text.
    """
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
    """Lay `a.b.c=value` over a nested mapping. Values are YAML; null takes away, an integer indexes
    a list.

    Raises ValueError for one that is not YAML, has no value, or sets what another one sets.
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
    """Raise ValueError where the later of two overrides undoes the earlier; what was taken away may
    be given again.
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
    """Names of the recipes that ship with the package (`unimodal.configs`)."""
    return sorted(path.stem for path in _recipe_folder().glob("*.yaml"))


def _recipe_folder() -> Path:
    try:
        return Path(str(resources.files("unimodal.configs")))
    except ModuleNotFoundError:  # a checkout on the path without an install
        return Path(__file__).resolve().parent.parent / "configs"


def _read_yaml(
    name: str | Path, beside: Path, above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    candidates = [
        beside / name,
        beside / f"{name}.yaml",
        _recipe_folder() / f"{name}.yaml",
    ]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise ValueError(
            f"recipe {str(name)!r} is neither a file nor a shipped recipe; "
            f"{nearest(str(name), recipe_names())}"
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
    return (
        merge(_read_yaml(base, path.parent, (*above, path.resolve())), values)
        if base
        else values
    )


def merge(below: Any, above: Any) -> Any:
    """Lay one nested mapping over another; null takes an entry away. An integer
    key indexes a list.
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


class PreprocessConfig(Config):
    """How an image becomes pixels; saved with the model and used by training, evaluation and
    serving alike.
    """

    image_size: int = Field(default=224, gt=0)
    resize: Literal["crop", "squash", "pad"] = (
        "crop"  # shorter edge + centre crop | both edges | longer edge + borders
    )
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = (
        0.48145466,
        0.4578275,
        0.40821073,
    )  # CLIP's (Radford et al., 2021, code)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    # Transparent pixels: laid over white or black before the resize | drop: the colours that they
    # hide are shown | open_clip: the image is resized as it is stored (with alpha, palette, CMYK)
    # and then made RGB by Pillow.
    transparency: Literal["white", "black", "drop", "open_clip"] = "white"


def with_transparency(model: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a saved model's configuration; one that lacks `preprocess.transparency` dropped
    alpha.

    Models were saved without the key before there was a choice, and their vectors stay what they
    were. In a recipe the absent key means the default.
    """
    preprocess = model.get("preprocess")
    if not isinstance(preprocess, Mapping) or "transparency" in preprocess:
        return dict(model)
    return {**model, "preprocess": {**preprocess, "transparency": "drop"}}


def _refuse_words_of_old_yaml(value: Any) -> Any:
    """`yes` was true in YAML 1.1; as a text it would be taken for the name of
    pretrained weights.
    """
    if isinstance(value, str) and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        raise ValueError(
            f"{show(value)} is a text in YAML 1.2; write true or false, or the name of "
            "pretrained weights."
        )
    return value


Pretrained = Annotated[bool | str, BeforeValidator(_refuse_words_of_old_yaml)]


class ImageTowerConfig(Config):
    """An image backbone by name, how its tokens are pooled, and its projection into the shared
    space.
    """

    library: Literal["timm", "open_clip"] = "timm"
    name: str  # a timm model, or the open_clip model whose image tower is taken
    pretrained: Pretrained = (
        False  # timm: true or a tag; open_clip: a tag such as "openai"
    )
    kwargs: dict[
        str, Any
    ] = {}  # passed to the library's constructor, e.g. {embed_dim: 192, depth: 6}
    pooling: Literal["native", "cls", "mean", "attention"] = "native"
    projection: Literal["linear", "mlp", "none"] = "linear"


class TextTowerConfig(Config):
    """A text backbone by name, its tokenizer, how its tokens are pooled, and its projection into
    the shared space.
    """

    library: Literal["transformers", "open_clip"] = "transformers"
    name: str  # a hub id, a folder, a transformers model type ("bert"), or an open_clip model
    pretrained: Pretrained = False  # transformers: true; open_clip: a tag
    kwargs: dict[
        str, Any
    ] = {}  # values of the backbone's own config, e.g. {hidden_size: 192}
    # a hub id, a folder or a tokenizer.json; empty: the one that belongs to `name`
    tokenizer: str = ""
    max_length: int = Field(default=77, gt=2)  # tokens, special ones included
    pad_id: int = 0
    pad_to_max_length: bool = (
        False  # for towers that take one length only (open_clip's)
    )
    # Before the tokenizer: as is | lower case | open_clip's: CLIP's repair of html and unicode in
    # lower case, the same without lower case, and SigLIP's without punctuation.
    clean: Literal["none", "lower", "clip", "whitespace", "canonicalize"] = "none"
    pooling: Literal["native", "cls", "mean", "last", "attention"] = "mean"
    projection: Literal["linear", "mlp", "none"] = "linear"


class ModelConfig(Config):
    """A dual encoder. Either tower may be absent: a text-only model still embeds, searches and is
    evaluated.
    """

    format_version: Literal[1] = 1
    embed_dim: int = Field(gt=0)
    image: ImageTowerConfig | None = None
    text: TextTowerConfig | None = None
    preprocess: PreprocessConfig = PreprocessConfig()
    # Put before a text by encode_query and encode_document, and by encode where there is a
    # "default".
    prompts: dict[str, str] = {"query": "", "document": ""}
    logit_scales: tuple[
        str, ...
    ] = ()  # tasks whose logit scale is saved with the model
    logit_biases: tuple[str, ...] = ()  # tasks whose loss has a bias (sigmoid)
    matryoshka_dims: tuple[
        int, ...
    ] = ()  # lengths that the vectors were trained to be cut to

    @model_validator(mode="after")
    def _has_a_tower(self) -> ModelConfig:
        if self.image is None and self.text is None:
            raise ValueError(
                "a model needs an image tower, a text tower or both; set image.name or text.name."
            )
        return self


def check_truncation(config: ModelConfig, dim: int, name: str = "truncate_dim") -> int:
    """Return the length that vectors are to be cut to, if they may be cut to it.

    A model that was trained to be cut has `matryoshka_dims` and may be cut to any length, also
    between those; a model without them gives its whole vectors only.

    config: the model's configuration.
    dim: the wanted length.
    name: what the caller's users call it, for the message.

    Raises ValueError for a length that the vectors do not have, or that the model was not trained
    for.
    """
    whole = config.embed_dim

    if isinstance(dim, bool) or not isinstance(dim, Integral):
        raise ValueError(
            f"{name} {dim!r} is of type {type(dim).__name__}; give a whole number from 1 "
            f"to {whole}."
        )

    if not 0 < dim <= whole:
        raise ValueError(f"{name} {dim} is not between 1 and embed_dim {whole}.")

    if dim < whole and not config.matryoshka_dims:
        raise ValueError(
            f"{name} {dim}: this model was not trained to be cut (its config.json has no "
            f"matryoshka_dims), so its vectors stay {whole} long; leave {name} out, train with "
            f"tasks.NAME.matryoshka_dims=[{dim}], or measure what a cut costs with unimodal eval "
            f"--dims {dim}."
        )

    return dim
