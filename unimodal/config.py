"""Typed, frozen configuration: YAML files, `key=value` overrides, and errors that name the nearest valid key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Config(BaseModel):
    """Base of every configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r:.80}; {nearest(str(key), cls.model_fields)}")
        return values


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


def read_config(cls: type[ConfigT], name: str | Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read a YAML file (a path, or the name of a recipe that ships with the package), apply `key=value`, check it.

    A file may say `base: OTHER`: it is then laid over that recipe (found beside it, or by name), mapping by mapping; a
    value of null takes an entry of the base away.

    Raises ValueError (one sentence) for a missing file, an unknown key or a bad value.
    """
    return parse_config(cls, apply_overrides(_read_yaml(name, Path()), overrides), source=str(name))


def parse_config(cls: type[ConfigT], values: Mapping[str, Any], source: str = "config") -> ConfigT:
    """Check a mapping against a Config class; raises ValueError with the first fault as one sentence."""
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        value = "" if first["type"] in ("value_error", "missing") else f" (got {first['input']!r})"
        raise ValueError(f"{source}: {place + ': ' if place else ''}{message}{value}") from None


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Lay `a.b.c=value` over a nested mapping. Values are YAML; null takes away, an integer indexes a list."""
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise ValueError(f"{override!r} is not an override; write key=value, for example optim.lr=3e-4.")
        try:
            patch: Any = yaml.load(text, Loader=_Loader) if text else None
        except yaml.YAMLError as error:
            raise ValueError(f"{override!r}: the value is not YAML ({' '.join(str(error).split())}).") from None
        for part in reversed(path.split(".")):
            patch = {part: patch}
        values = merge(values, patch)
    return values


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package (`unimodal.configs`)."""
    return sorted(path.stem for path in _recipe_folder().glob("*.yaml"))


def _recipe_folder() -> Path:
    try:
        return Path(str(resources.files("unimodal.configs")))
    except ModuleNotFoundError:  # a checkout on the path without an install
        return Path(__file__).resolve().parent.parent / "configs"


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but 3e-4 is a number, as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_yaml(name: str | Path, beside: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    candidates = [beside / name, beside / f"{name}.yaml", _recipe_folder() / f"{name}.yaml"]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise ValueError(
            f"recipe {str(name)!r} is neither a file nor a shipped recipe; {nearest(str(name), recipe_names())}"
        )
    if path.resolve() in above:
        raise ValueError(f"{path} is its own base; give the base another name, or its full path.")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; a recipe is a mapping of keys to values.")
    base = values.pop("base", None)
    return merge(_read_yaml(base, path.parent, (*above, path.resolve())), values) if base else values


def merge(below: Any, above: Any) -> Any:
    """Lay one nested mapping over another; null takes an entry away. An integer key indexes a list."""
    if isinstance(below, list) and isinstance(above, dict) and all(str(key).isdecimal() for key in above):
        merged_list = list(below)
        for key, value in above.items():
            if int(key) >= len(merged_list):
                raise ValueError(f"index {key} is past the end of a list of {len(merged_list)}.")
            merged_list[int(key)] = merge(merged_list[int(key)], value)
        taken_away = {int(key) for key, value in above.items() if value is None}
        return [entry for index, entry in enumerate(merged_list) if index not in taken_away]
    if not isinstance(above, dict):
        return above
    merged = dict(below) if isinstance(below, dict) else {}
    for key, value in above.items():
        if value is None:
            if key not in merged:
                raise ValueError(f"{key!r} is not there to be taken away; {nearest(str(key), merged)}")
            del merged[key]
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


class PreprocessConfig(Config):
    """How a picture becomes pixels; saved with the model and used by training, evaluation and serving alike."""

    image_size: int = Field(default=224, gt=0)
    resize: Literal["crop", "squash", "pad"] = "crop"  # shorter edge + centre crop | both edges | longer edge + borders
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)  # CLIP's (Radford et al., 2021, code)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)


class ImageTowerConfig(Config):
    """An image backbone by name, how its tokens are pooled, and its projection into the shared space."""

    library: Literal["timm", "open_clip"] = "timm"
    name: str  # a timm model, or the open_clip model whose image tower is taken
    pretrained: bool | str = False  # timm: true or a tag; open_clip: a tag such as "openai"
    kwargs: dict[str, Any] = {}  # passed to the library's constructor, e.g. {embed_dim: 192, depth: 6}
    pooling: Literal["native", "cls", "mean", "attention"] = "native"
    projection: Literal["linear", "mlp", "none"] = "linear"


class TextTowerConfig(Config):
    """A text backbone by name, its tokenizer, how its tokens are pooled, and its projection into the shared space."""

    library: Literal["transformers", "open_clip"] = "transformers"
    name: str  # a hub id, a folder, a transformers model type ("bert"), or an open_clip model
    pretrained: bool | str = False  # transformers: true; open_clip: a tag
    kwargs: dict[str, Any] = {}  # values of the backbone's own config, e.g. {hidden_size: 192}
    tokenizer: str = ""  # a hub id, a folder or a tokenizer.json; empty: the one that belongs to `name`
    max_length: int = Field(default=77, gt=2)  # tokens, special ones included
    pad_id: int = 0
    pad_to_max_length: bool = False  # for towers that take one length only (open_clip's)
    # Before the tokenizer: as is | lower case | open_clip's: CLIP's repair of html and unicode in lower case, the same
    # without lower case, and SigLIP's without punctuation.
    clean: Literal["none", "lower", "clip", "whitespace", "canonicalize"] = "none"
    pooling: Literal["native", "cls", "mean", "last", "attention"] = "mean"
    projection: Literal["linear", "mlp", "none"] = "linear"


class ModelConfig(Config):
    """A dual encoder. Either tower may be absent: a text-only model still embeds, searches and is evaluated."""

    format_version: Literal[1] = 1
    embed_dim: int = Field(gt=0)
    image: ImageTowerConfig | None = None
    text: TextTowerConfig | None = None
    preprocess: PreprocessConfig = PreprocessConfig()
    prompts: dict[str, str] = {"query": "", "document": ""}  # put before a text by encode_query, encode_document
    logit_scales: tuple[str, ...] = ()  # tasks whose logit scale is saved with the model
    logit_biases: tuple[str, ...] = ()  # tasks whose loss has a bias (sigmoid)
    matryoshka_dims: tuple[int, ...] = ()  # lengths that the vectors were trained to be cut to

    @model_validator(mode="after")
    def _has_a_tower(self) -> ModelConfig:
        if self.image is None and self.text is None:
            raise ValueError("a model needs an image tower, a text tower or both; set image.name or text.name.")
        return self


def check_truncation(config: ModelConfig, dim: int, name: str = "truncate_dim") -> int:
    """Return the length that vectors are to be cut to, if they may be cut to it.

    A model that was trained to be cut has `matryoshka_dims` and may be cut to any length, also between those; a model
    without them gives its whole vectors only.

    config: the model's configuration.
    dim: the wanted length.
    name: what the caller's users call it, for the message.

    Raises ValueError for a length that the vectors do not have, or that the model was not trained for.
    """
    whole = config.embed_dim

    if not 0 < dim <= whole:
        raise ValueError(f"{name} {dim} is not between 1 and embed_dim {whole}.")

    if dim < whole and not config.matryoshka_dims:
        raise ValueError(
            f"{name} {dim}: this model was not trained to be cut (its config.json has no matryoshka_dims), so its "
            f"vectors stay {whole} long; leave {name} out, train with tasks.NAME.matryoshka_dims=[{dim}], or measure "
            f"what a cut costs with unimodal eval --dims {dim}."
        )

    return dim
