"""A field or template of a row -> its texts, its images, its id: the one rule that all commands
read rows by.

A value is missing when it is null, NaN, pandas' NA or NaT, a text of blanks, or a list or object of
nothing else. The words "NA" and "null" in a text are words. A field may reach into a nested value
with dots: `names.de` is row["names"]["de"].
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from PIL import Image

from ..config import nearest
from ..json_text import shown
from .files import read_name

Row: TypeAlias = dict[str, Any]
ImageSource: TypeAlias = Path | bytes | Image.Image

# Raise it when the same row gives another text, image or id than before: what was embedded of
# tables is then compared with the rows again.
RULES = 1

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
# Between two placeholders: what belongs to the first, what separates them, what belongs to the
# second. A mark within a word, as in T-shirt, separates nothing.
_MARKS = r"[,;:|/·•.\n–—-]"
_MARKED = re.compile(
    rf"(.*?)(\s*(?:(?<!\w){_MARKS}|{_MARKS}(?!\w))+\s*)(.*)", re.DOTALL
)
_UNMARKED = re.compile(r"([)\]}>»”\"']*)(\s*)(.*)", re.DOTALL)
_LARGEST_WHOLE_FLOAT = 2.0**53
_NOT_IN_AN_ID = (
    "Cc",
    "Cs",
    "Zl",
    "Zp",
)  # Unicode's control characters, surrogates, line and paragraph separators


class UnreadableImageError(ValueError):
    """The image that a row has or names cannot be read."""


def plain(value: Any) -> Any:
    """A value of numpy's as Python's own; any other as it is."""
    return value.tolist() if hasattr(value, "tolist") else value


def is_missing(value: Any) -> bool:
    """Whether a value says nothing: null, NaN, NA, NaT, blanks, or a list or object of such values
    alone.
    """
    value = plain(value)
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, bytes):
        return not value
    if isinstance(value, Mapping):
        return all(is_missing(one) for one in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(is_missing(one) for one in value)
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(
        value, (float, datetime)
    ):  # NaT is a datetime that differs from itself, as NaN does
        return bool(value != value)
    return type(value).__name__ == "NAType"  # pandas'


def field_of(row: Mapping[str, Any], field: str) -> Any:
    """The value of a field, dots reaching into nested mappings; KeyError if the row does not have
    it.
    """
    if field in row:
        return row[field]
    head, _, rest = field.partition(".")
    if rest and isinstance(row.get(head), Mapping):
        return field_of(row[head], rest)
    raise KeyError(field)


def has_field(row: Mapping[str, Any], field: str) -> bool:
    """Whether the row has the field, even if its value is null."""
    try:
        field_of(row, field)
    except KeyError:
        return False
    return True


def value_of(row: Mapping[str, Any], field: str) -> Any:
    """The value of a field; None where it is missing, and where the row does not have the field."""
    if not has_field(row, field):
        return None
    value = plain(field_of(row, field))
    return None if is_missing(value) else value


def missing_field(row: Mapping[str, Any], field: str, place: str) -> ValueError:
    """The error for a field that is not there; it names the nearest one that is."""
    return ValueError(
        f"field {field!r} is not in {place}; {nearest(field, list(_names(row)))}"
    )


def names_in(spec: str) -> list[str]:
    """The fields that a field or template reads."""
    return _PLACEHOLDER.findall(spec) or [spec]


def texts_of(row: Mapping[str, Any], spec: str, *, verbatim: bool = False) -> list[str]:
    """The texts of a field, or the one text of a template such as "{title}, {color}"; missing ones
    are left out.

    A list or object gives each of its texts; within a template they are joined by commas. Of a
    template whose field is missing, that field is left out with the words and brackets around it,
    and one separator: see `fill_template`.

    verbatim: keep the blanks before and after a text, as a benchmark's texts are kept.

    Raises ValueError for bytes, which are not a text.
    """
    names = _PLACEHOLDER.findall(spec)
    if not names:
        return _texts_in(value_of(row, spec), spec, verbatim)
    values = {
        name: ", ".join(_texts_in(value_of(row, name), name, verbatim))
        for name in names
    }
    filled = fill_template(spec, values)
    return [filled] if filled else []


def text_of(row: Mapping[str, Any], specs: Sequence[str], separator: str = "\n") -> str:
    """All texts of several fields or templates, joined; empty where all are missing."""
    return separator.join(text for spec in specs for text in texts_of(row, spec))


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """A template with its placeholders filled; an empty value is left out, and all empty ones give
    an empty text.

    What stands between two placeholders is cut at its first separator (a comma, colon, dash, full
    stop, line break, or else the blank): what is before belongs to the first, what is behind to the
    second, and goes with it. Without the size, "{title}, size {size} cm. In {color}" is "Hat. In
    red"; without the color it is "Hat, size 4 cm".
    """
    names = _PLACEHOLDER.findall(template)
    between = [_split(part) for part in _PLACEHOLDER.split(template)[::2]]
    opening = between[0].behind_first + between[0].separator
    closing = between[-1].separator + between[-1].before_second
    filled = ""
    for number, name in enumerate(names):
        if not values[name]:
            continue
        before = between[number]
        behind = between[number + 1]
        if filled:
            filled += before.separator
        filled += before.before_second + values[name] + behind.behind_first
    return (opening + filled + closing).strip() if filled else ""


def images_in(value: Any) -> list[str | bytes | Image.Image]:
    """The paths, bytes and PIL images of a value: one of them, a {"bytes", "path"} object, or a
    list of these.

    Raises UnreadableImageError for a value of another kind.
    """
    value = plain(value)
    found: list[str | bytes | Image.Image] = []
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(one, Mapping) and one.keys() & {"bytes", "path"}:
            one = one.get("bytes") or one.get("path")
        if is_missing(one):
            continue
        if not isinstance(one, (str, bytes, Image.Image)):
            raise UnreadableImageError(
                f"an image is a path or bytes, and this is {shown(one)}"
            )
        found.append(one)
    return found


def image_of(row: Mapping[str, Any], field: str, folder: Path) -> ImageSource | None:
    """The first image of a field; None where it is missing.

    Raises UnreadableImageError for a file that is not there or not below `folder`, and what is not
    an image.
    """
    found = images_in(value_of(row, field))
    if not found:
        return None
    return image_file(found[0], folder) if isinstance(found[0], str) else found[0]


def image_folder(name: str, image_root: str, root: Path = Path()) -> Path:
    """The folder that the paths of a table's images begin in: `image_root`, or else that of the
    table.

    name: the table, a glob of tables (their folder is what stands before the first wildcard) or
        hf:NAME.
    root: the folder that both are relative to.
    """
    if image_root or name.startswith("hf:"):
        return root / image_root
    path = root / name
    if path.exists():
        return path if path.is_dir() else path.parent
    return Path(*takewhile(lambda part: not set(part) & set("*?["), path.parent.parts))


def image_path(name: str, folder: Path) -> Path:
    """The path of an image below the folder of the images: a table must not read what lies
    elsewhere.

    It is judged by the path alone: a link in the folder was put there by whoever keeps the folder.
    Raises UnreadableImageError for a path outside, for a URL, and for a data URI.
    """
    if re.match(r"(https?|s3|gs)://", name):
        raise UnreadableImageError(
            f"image {name!r:.200} is a URL, and images are read from files; download it first"
        )
    if name.lstrip()[:5].lower() == "data:":
        raise UnreadableImageError(
            "the image is a data URI, and images are read from files; write it to a file"
        )
    top = os.path.abspath(folder)
    path = os.path.normpath(os.path.join(folder, name))
    if not Path(os.path.abspath(path)).is_relative_to(top):
        raise UnreadableImageError(
            f"image {name!r:.200} is not below {top}; set image_root to a folder above it"
        )
    return Path(path)


def image_file(name: str, folder: Path) -> Path:
    """As `image_path`; raises UnreadableImageError for a file that does not exist too.

    Where no file has this name, it is read as `written_name` writes the names that are not Unicode
    text.
    """
    path = image_path(name, folder)
    if os.path.isfile(
        path
    ):  # Path.is_file raises OSError for what is too long to be a name
        return path
    if "%" in name:
        named = image_path(read_name(name), folder)
        if os.path.isfile(named):
            return named
    reason = (
        "is a link to a file that does not exist"
        if os.path.islink(path)
        else "does not exist"
    )
    raise UnreadableImageError(f"image {str(path)!r:.200} {reason}")


def without_point(value: Any) -> Any:
    """A whole number as an int (pandas makes floats of ids where one of them is missing); any other
    value as it is.
    """
    if (
        isinstance(value, float)
        and abs(value) <= _LARGEST_WHOLE_FLOAT
        and value.is_integer()
    ):
        return int(value)
    return value


def id_of(value: Any, field: str) -> str:
    """An id as a text.

    Raises ValueError for what is neither a text nor a whole number, and for a text with line
    breaks, other control characters or half of a surrogate pair.
    """
    value = plain(value)
    value = without_point(value)
    if (
        isinstance(value, bool)
        or not isinstance(value, (str, int))
        or is_missing(value)
    ):
        found = "empty" if is_missing(value) else shown(value)
        raise ValueError(f"{field} is {found}, and an id is a text or a whole number")
    text = str(value)
    if any(unicodedata.category(letter) in _NOT_IN_AN_ID for letter in text):
        raise ValueError(
            f"{field} is {text!r:.60}, and an id is one line of Unicode text"
        )
    return text


class _Between(NamedTuple):
    """What stands between two placeholders."""

    behind_first: str
    separator: str
    before_second: str


def _split(text: str) -> _Between:
    match = _MARKED.fullmatch(text) or _UNMARKED.fullmatch(text)
    assert match is not None  # the second fits every text
    return _Between(*match.groups())


def _texts_in(value: Any, field: str, verbatim: bool) -> list[str]:
    value = plain(value)
    if is_missing(value):
        return []
    if isinstance(value, bytes):
        raise ValueError(f"{field} holds {len(value):,} bytes, which are not a text")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [text for one in value for text in _texts_in(one, field, verbatim)]
    if isinstance(value, bool):
        return [str(value).lower()]
    return [str(value) if verbatim else str(value).strip()]


def _names(row: Mapping[str, Any]) -> Iterator[str]:
    for key, value in row.items():
        yield key
        if isinstance(value, Mapping):
            yield from (f"{key}.{name}" for name in _names(value))
