"""The reference of a configuration from its fields: keys for --help, a schema for editors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .config import Config, show

NAME = "NAME"  # stands for a name of the user's, such as a task's


class Key(NamedTuple):
    """A key of a configuration, or of one within it."""

    name: str  # dotted
    type: str
    default: (
        str  # as it is written after the =; "" where it is empty or has to be given
    )
    description: str


def keys_of(cls: type[Config], above: str = "") -> Iterator[Key]:
    """Every key, in the order of the fields; above: what precedes the names.

    A mapping of the user's names to configurations is listed with NAME for each of them. Where a
    value is one of several configurations, the keys that two of them share are listed once.
    """
    for name, field in _kind_first(cls):
        path = f"{above}{name}"
        configs = list(_configs_in(field.annotation))
        if not isinstance(field.default, Config):
            yield Key(
                path,
                type_name(field.annotation),
                _as_written(field.default),
                " ".join((field.description or "").split()),
            )
        inside = f"{path}.{NAME}." if _is_mapping(field.annotation) else f"{path}."
        inner_keys = [key for config in configs for key in keys_of(config, inside)]
        yield from dict.fromkeys(inner_keys)


def _kind_first(cls: type[Config]) -> list[tuple[str, FieldInfo]]:
    fields = list(cls.model_fields.items())
    return sorted(fields, key=lambda item: item[0] != "kind")


def type_name(annotation: Any) -> str:
    """A type in the words of YAML: text, null, list of int, the values of a literal."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Literal:
        return " | ".join(map(_as_written, arguments))
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(map(type_name, arguments)))
    if origin in (list, tuple):
        return f"list of {type_name(arguments[0])}"
    if origin is dict:
        return "mapping"
    if origin is not None:  # Annotated
        return type_name(arguments[0])
    if annotation is Any:
        return "any"
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return "mapping"
    words = {str: "text", NoneType: "null"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def recipe_schema(cls: type[Config]) -> dict[str, Any]:
    """The JSON schema of the YAML files of a configuration.

    A file that names a `base` is laid over it: there no key is required, and null takes an entry
    away. So only the file's own level says what is required, where it has no base.
    """
    schema = cls.model_json_schema()
    required = schema.pop("required", [])
    for part in [schema, *schema.get("$defs", {}).values()]:
        _relax(part)
    schema["properties"]["base"] = {
        "type": "string",
        "description": "Recipe that this one is laid over: a shipped name, or a file beside it.",
    }
    schema["anyOf"] = [{"required": ["base"]}, {"required": required}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _relax(part: dict[str, Any]) -> None:
    """Require nothing, and let null take away what any key holds."""
    part.pop("required", None)
    for name, value in part.get("properties", {}).items():
        part["properties"][name] = _or_null(value)
    for value in part.get("properties", {}).values():
        for branch in value.get("anyOf", []):
            inner = branch.get("additionalProperties")
            if isinstance(inner, Mapping):
                branch["additionalProperties"] = _or_null(dict(inner))


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {
        key: schema.pop(key)
        for key in ("title", "description", "default")
        if key in schema
    }
    branches = schema["anyOf"] if schema.keys() == {"anyOf"} else [schema]
    if {"type": "null"} not in branches:
        branches = [*branches, {"type": "null"}]
    return {**kept, "anyOf": branches}


def _configs_in(annotation: Any) -> Iterator[type[Config]]:
    """The configurations that a value of this type is or maps to."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    for argument in get_args(annotation):
        yield from _configs_in(argument)


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(map(_is_mapping, get_args(annotation)))


def _as_written(default: Any) -> str:
    if default is PydanticUndefined or default in (None, "", (), [], {}):
        return ""
    if isinstance(default, (tuple, list)):
        return f"[{','.join(map(_as_written, default))}]"
    return default if isinstance(default, str) else show(default)
