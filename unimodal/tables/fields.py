"""A field or template of a row -> its texts, images and id: one rule for all commands.

A value is missing when it is null, NaN, pandas' NA or NaT, a text of blanks, or a list or object of
missing values. The words "NA" and "null" in a text are words. A field may reach into a nested value
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
from ..json_text import show_value
from ..preprocess.image_formats import is_image_base64, is_image_uri
from .files import CONTROL_CATEGORIES, read_name

Row: TypeAlias = dict[str, Any]
ImageSource: TypeAlias = Path | bytes | Image.Image

# Raise it when the same row gives another text, image or id than before: embeddings of tables are
# then made again where they differ.
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


class UnreadableImageError(ValueError):
    """The image that a row has or names cannot be read."""


def plain(value: Any) -> Any:
    """A value of numpy as one of Python; any other unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value


def is_missing(value: Any) -> bool:
    """Whether a value is null, NaN, NA, NaT, blank, or a list or object of such values."""
    value = plain(value)
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, bytes):
        return not value
    if isinstance(value, Mapping):
        return all(is_missing(part) for part in value.values())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(is_missing(part) for part in value)
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, (float, datetime)):
        return bool(value != value)  # NaN, and NaT, which is a datetime
    return type(value).__name__ == "NAType"  # pandas'


def field_of(row: Mapping[str, Any], field: str) -> Any:
    """The value of a field, with dots for nested mappings.

    Raises KeyError if the row does not have the field.
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
    """The value of a field; None where the value or the field is missing."""
    if not has_field(row, field):
        return None
    value = plain(field_of(row, field))
    return None if is_missing(value) else value


def missing_field(row: Mapping[str, Any], field: str, place: str) -> ValueError:
    """The error for a field that a row does not have; it names the nearest one that it has."""
    hint = nearest(field, list(_names(row)))
    return ValueError(f"field {field!r} is not in {place}; {hint}")


def names_in(spec: str) -> list[str]:
    """The fields that a field or template reads."""
    return _PLACEHOLDER.findall(spec) or [spec]


def texts_of(row: Mapping[str, Any], spec: str, *, verbatim: bool = False) -> list[str]:
    """The texts of a field, or the one text of a template such as "{title}, {color}".

    Missing texts are left out. A list or object gives each of its texts; within a template they are
    joined by commas. A missing field of a template is left out with the words and brackets around
    it, and one separator: see `fill_template`.

    verbatim: keep the blanks before and after a text, as benchmarks do.

    Raises ValueError for bytes, and for an image as a data URI or in base64: they are not texts.
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
    texts: list[str] = []
    for spec in specs:
        texts += texts_of(row, spec)
    return separator.join(texts)


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """A template with its placeholders filled; empty values are left out.

    The text between two placeholders is cut at its first separator (a comma, colon, dash, full
    stop, line break, or else the blank). The part before the separator belongs to the first
    placeholder, the part after it to the second, and each is left out with its placeholder. Without
    the size, "{title}, size {size} cm. In {color}" is "Hat. In red"; without the color it is "Hat,
    size 4 cm". If all values are empty, so is the text.
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
    """The paths, bytes and PIL images of a value.

    The value is one of them, a {"bytes", "path"} object, or a list of these.

    Raises UnreadableImageError for a value of another kind.
    """
    value = plain(value)
    images: list[str | bytes | Image.Image] = []
    for part in value if isinstance(value, (list, tuple)) else [value]:
        image = part
        if isinstance(part, Mapping) and part.keys() & {"bytes", "path"}:
            image = part.get("bytes") or part.get("path")
        if is_missing(image):
            continue
        if not isinstance(image, (str, bytes, Image.Image)):
            raise UnreadableImageError(
                f"the image is {show_value(image)}; an image is a path or bytes"
            )
        images.append(image)
    return images


def image_of(row: Mapping[str, Any], field: str, folder: Path) -> ImageSource | None:
    """The first image of a field; None where it is missing.

    Raises UnreadableImageError for a file that does not exist or is not below `folder`, and for a
    value that is not an image.
    """
    images = images_in(value_of(row, field))
    if not images:
        return None
    first = images[0]
    return image_file(first, folder) if isinstance(first, str) else first


def image_folder(name: str, image_root: str, root: Path = Path()) -> Path:
    """The folder that a table's image paths are relative to: `image_root`, or the table's folder.

    The one rule of packing, indexing, embedding, calibration and evaluation.

    name: the table, a glob of tables (whose folder stands before the first wildcard) or hf:NAME.
    root: the folder that both are relative to.
    """
    if image_root or name.startswith("hf:"):
        return root / image_root
    path = root / name
    if path.exists():
        return path if path.is_dir() else path.parent
    return Path(*takewhile(lambda part: not set(part) & set("*?["), path.parent.parts))


def image_path(name: str, folder: Path) -> Path:
    """The path of an image below the folder of the images: a table must not read other files.

    The path alone counts: whoever keeps the folder has put the links there.

    Raises UnreadableImageError for a path outside, for a URL, and for a data URI.
    """
    if re.match(r"(https?|s3|gs)://", name):
        raise UnreadableImageError(
            f"image {name!r:.200} is a URL; download it, images are read from files"
        )
    if name.lstrip()[:5].lower() == "data:":
        raise UnreadableImageError(
            "the image is a data URI; write it to a file, images are read from files"
        )
    top = os.path.abspath(folder)
    path = os.path.normpath(os.path.join(folder, name))
    if not Path(os.path.abspath(path)).is_relative_to(top):
        raise UnreadableImageError(
            f"image {name!r:.200} is not below {top}; set image_root to a folder above it"
        )
    return Path(path)


def image_file(name: str, folder: Path) -> Path:
    """The path of an image that exists, below the folder of the images.

    Where no file has this name, it is read as `written_name` writes a name that is not Unicode.

    Raises UnreadableImageError as `image_path` does, and for a file that does not exist.
    """
    path = image_path(name, folder)
    if os.path.isfile(path):  # Path.is_file raises OSError for a name that is too long
        return path
    if "%" in name:
        named = image_path(read_name(name), folder)
        if os.path.isfile(named):
            return named
    reason = "does not exist"
    if os.path.islink(path):
        reason = "is a link to a file that does not exist"
    raise UnreadableImageError(f"image {str(path)!r:.200} {reason}")


def without_point(value: Any) -> Any:
    """A whole number as an int; any other value unchanged.

    pandas makes floats of a column of ids where one of them is missing.
    """
    if not isinstance(value, float) or abs(value) > _LARGEST_WHOLE_FLOAT:
        return value
    return int(value) if value.is_integer() else value


def id_of(value: Any, field: str) -> str:
    """An id as a text.

    Raises ValueError for a value that is neither a text nor a whole number, and for a text with
    line breaks, other control characters or half of a surrogate pair.
    """
    value = without_point(plain(value))
    if is_missing(value):
        raise ValueError(f"{field} is empty, and an id is a text or a whole number")
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(
            f"{field} is {show_value(value)}, and an id is a text or a whole number"
        )
    text = str(value)
    if any(unicodedata.category(letter) in CONTROL_CATEGORIES for letter in text):
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
        texts: list[str] = []
        for part in value:
            texts += _texts_in(part, field, verbatim)
        return texts
    if isinstance(value, bool):
        return [str(value).lower()]
    text = str(value)
    if is_image_uri(text):
        raise ValueError(f"{field} holds an image as a data URI, which is not a text")
    if is_image_base64(text):
        raise ValueError(f"{field} holds an image in base64, which is not a text")
    return [text if verbatim else text.strip()]


def _names(row: Mapping[str, Any]) -> Iterator[str]:
    for key, value in row.items():
        yield key
        if isinstance(value, Mapping):
            yield from (f"{key}.{name}" for name in _names(value))
