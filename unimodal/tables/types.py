"""Fields of an index: their source, their type, and a row's value in that type."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, get_args

from pydantic import model_validator

from unimodal.config import Config, nearest
from unimodal.json_text import show_value
from unimodal.tables.fields import is_missing, plain

FieldType = Literal["string", "int", "float", "bool", "strings"]
FieldValue = str | int | float | bool | list[str] | None
_NAMES: dict[FieldType, str] = {
    "string": "a string",
    "strings": "a list of strings",
    "int": "a whole number of 64 bits",
    "float": "a number",
    "bool": "true or false",
}
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}
_INT64 = 2**63
# 007 and 12e5 are names.
_INT = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_FLOAT = re.compile(r"-?(0|[1-9][0-9]*)?\.[0-9]+([eE][-+]?[0-9]+)?")


class FieldSource(Config):
    """A field of the input, with dots for nested values, and its type.

    Without a type, it is inferred from the values.
    """

    source: str
    """Field of the row, or a path into it such as a.material."""
    type: FieldType | None = None
    """Type of the values; default: inferred from the rows."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        """`price:float` is the field `price` as a float."""
        if not isinstance(value, str):
            return value
        source, colon, kind = value.rpartition(":")
        if not colon:
            return {"source": value}
        if kind not in get_args(FieldType):
            raise ValueError(
                f"{value!r} ends with the type {kind!r}; {nearest(kind, get_args(FieldType))}"
            )
        return {"source": source, "type": kind}


def named_fields(fields: Any) -> Any:
    """A list of fields as a mapping from the names that filters use.

    The name of `attributes.material` is its last part.
    """
    if isinstance(fields, str):
        fields = [fields]
    if not isinstance(fields, (list, tuple)):
        return fields
    named: dict[str, Any] = {}
    for field in fields:
        if not isinstance(field, str):
            hint = ""
            if isinstance(field, bool):
                hint = (
                    " (YAML reads on, off, yes and no as truth values: quote the name)"
                )
            raise ValueError(
                f"field {field!r} is not a name{hint}; write fields=[price:float], or a "
                "mapping of names to those."
            )
        source = field.rpartition(":")[0] or field
        name = source.rpartition(".")[2]
        if name in named:
            raise ValueError(
                f"two fields would be called {name!r}; name them: fields={{NAME: {source}}}."
            )
        named[name] = field
    return named


def infer_type(values: Iterable[Any], *, from_text: bool = False) -> FieldType:
    """The type that all values fit; missing values do not count.

    Lists count where they are at least as many as other values.

    from_text: the values are a CSV's, which has no types: a column of numbers alone is numbers.
    """
    seen = Counter[FieldType]()
    for value in values:
        value = _present(value)
        if value is None or isinstance(value, Mapping):  # a mapping fits no type
            continue
        if from_text and isinstance(value, str):
            seen[_type_of_text(value)] += 1
        else:
            seen[_type_of(value)] += 1
    lists = seen.pop("strings", 0)
    if lists and lists >= seen.total():
        return "strings"
    if set(seen) == {"int", "float"}:
        return "float"
    return next(iter(seen)) if len(seen) == 1 else "string"


def cast(value: Any, kind: FieldType) -> FieldValue:
    """A value in the type of its field; None where it is missing.

    Raises ValueError for a value that does not fit.
    """
    value = _present(value)
    if value is None:
        return None
    try:
        return _CASTS[kind](value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(
            f"{show_value(value, 80)} is not {_NAMES[kind]}, {_why_not(value, kind)}"
        ) from None


def unstorable(
    values: Mapping[str, Any], max_bytes: int | None, max_strings: int | None
) -> str:
    """Why a store cannot keep these values; empty if it can.

    max_bytes: of a text.
    max_strings: of a list.
    """
    for name, value in values.items():
        texts: list[str] = []
        if isinstance(value, list):
            texts = value
        elif isinstance(value, str):
            texts = [value]
        if max_strings is not None and len(texts) > max_strings:
            return f"{name} has {len(texts):,} strings, and the store keeps {max_strings:,}"
        try:
            size = max((len(text.encode()) for text in texts), default=0)
        except UnicodeEncodeError as error:  # JSON can hold half of a surrogate pair
            return f"{name} is not Unicode text ({error.reason})"
        if max_bytes is not None and size > max_bytes:
            return (
                f"{name} has {size:,} bytes, and the store keeps {max_bytes:,}; shorten it, "
                "or leave it out"
            )
    return ""


def _why_not(value: Any, kind: FieldType) -> str:
    if isinstance(value, Mapping):
        return "it is an object; name a field of it, as FIELD.NAME"
    if isinstance(value, bytes):
        return "it is bytes"
    better = infer_type([value])
    if (kind, better) == ("int", "float"):
        return "it is of type float; name the type, as in fields=[price:float], and add --overwrite"
    return f"it is of type {better}" if better != kind else "it cannot be kept as one"


def _present(value: Any) -> Any:
    value = plain(value)
    return None if is_missing(value) else value


def _type_of(value: Any) -> FieldType:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float) or type(value).__name__ == "Decimal":
        return "float"
    return "strings" if isinstance(value, (list, tuple)) else "string"


def _type_of_text(value: str) -> FieldType:
    value = value.strip()
    if _INT.fullmatch(value):
        return "int"
    if _FLOAT.fullmatch(value):
        return "float"
    return "bool" if value.lower() in ("true", "false") else "string"


def _string(value: Any) -> str:
    if isinstance(value, (list, tuple, set, Mapping, bytes)):
        raise ValueError
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return str(value)


def _int(value: Any) -> int:
    number = int(value) if isinstance(value, (int, str)) else float(value)
    is_whole = number == int(number)
    if isinstance(value, bool) or not is_whole or not -_INT64 <= number < _INT64:
        raise ValueError
    return int(number)


def _float(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError
    return number


def _bool(value: Any) -> bool:
    if isinstance(value, (str, int)) and str(value).lower() in _TRUTHS:
        return _TRUTHS[str(value).lower()]
    raise ValueError


def _strings(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        raise ValueError
    values = value if isinstance(value, (list, tuple, set)) else [value]
    return [_string(part) for part in values if not is_missing(part)]


_CASTS: Mapping[FieldType, Callable[[Any], FieldValue]] = {
    "string": _string,
    "int": _int,
    "float": _float,
    "bool": _bool,
    "strings": _strings,
}
