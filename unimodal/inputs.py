"""What can be embedded: a text, an image, or both with weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from PIL import Image

ImageInput: TypeAlias = Image.Image | Path | bytes
Plain: TypeAlias = str | Path | bytes  # what every Encoder takes: a text, or an image
Item: TypeAlias = str | ImageInput | Mapping[str, Any]

_NAMED = {"text": "a text", "image": "an image"}
_GIVE = {"text": "a str (text)", "image": "a PIL image, a Path or bytes (image)"}


class Part(NamedTuple):
    """A text or an image of an item, and its share in the item's vector."""

    kind: str  # "text" or "image"
    content: Any  # a str, or an image
    share: float


def parts_of(
    item: Item, modalities: frozenset[str], *, allow_blank: bool = False
) -> list[Part]:
    """The one or two parts of an item.

    allow_blank: accept a text of blanks alone, as the APIs of other services do; an empty text is
        always refused.

    Raises ValueError for what a model of these modalities cannot embed.
    """
    parts = split_item(item, modalities)
    check_parts(parts, modalities, allow_blank=allow_blank)
    return parts


def split_item(item: Item, modalities: frozenset[str]) -> list[Part]:
    """The parts of an item, whose contents are not checked yet.

    Raises ValueError for what is not an item.
    """
    if isinstance(item, Mapping):
        return _split_mapping(item)
    if isinstance(item, str):
        return [Part("text", item, 1.0)]
    if isinstance(item, ImageInput):
        return [Part("image", item, 1.0)]

    way_out = " or ".join(_GIVE[kind] for kind in sorted(modalities))
    if hasattr(item, "__array__"):
        way_out += "; PIL.Image.fromarray makes an image of an array"
    raise ValueError(f"it is of type {type(item).__name__}; give {way_out}.")


def _split_mapping(item: Mapping[str, Any]) -> list[Part]:
    unknown = item.keys() - {"text", "image", "weight"}
    if unknown or not item.keys() & {"text", "image"}:
        keys = sorted(item, key=str)
        raise ValueError(
            f"its keys are {keys}; give 'text', 'image' or both, and optionally 'weight'."
        )
    contents = {
        kind: item[kind] for kind in ("text", "image") if item.get(kind) is not None
    }
    if not contents:
        raise ValueError(
            "neither its text nor its image has a value; give one of them, or leave the item out."
        )
    weight = 0.5 if item.get("weight") is None else item["weight"]
    if not isinstance(weight, Real) or not 0 <= float(weight) <= 1:
        raise ValueError(
            f"weight {weight!r} is not between 0 (text alone) and 1 (image alone)."
        )
    if len(contents) == 1:
        return [Part(kind, content, 1.0) for kind, content in contents.items()]
    return [
        Part("text", contents["text"], 1 - float(weight)),
        Part("image", contents["image"], float(weight)),
    ]


def check_parts(
    parts: Sequence[Part], modalities: frozenset[str], *, allow_blank: bool = False
) -> None:
    """Raise ValueError for a part that a model of these modalities cannot embed."""
    for part in parts:
        if part.kind not in modalities:
            raise ValueError(
                f"it is {_NAMED[part.kind]}, and this model embeds "
                f"{' and '.join(sorted(modalities))} only."
            )
        if part.kind == "text":
            _check_text(part.content, allow_blank)
        elif not isinstance(part.content, ImageInput):
            raise ValueError(
                "an image is a PIL image, a Path or bytes, and this is of type "
                f"{type(part.content).__name__}; a str is always text."
            )


def check_unicode(text: str, name: str = "text") -> str:
    """Return a text that a tokenizer can read.

    text: any str. Half a surrogate pair comes from JSON's escapes and from bytes that are not UTF-8
        (a command line, a file name).
    name: what it is called in the message.

    Raises ValueError for half a surrogate pair, with its place.
    """
    if not isinstance(text, str):
        raise ValueError(
            f"{name} is {text!r:.60}, of type {type(text).__name__}; give a str."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} {text!r:.60} is not valid Unicode: character {error.start} is half a "
            f"surrogate pair (U+{ord(text[error.start]):04X}); give text that was decoded as "
            "UTF-8."
        ) from None
    return text


def _check_text(content: Any, allow_blank: bool) -> None:
    if not isinstance(content, str):
        raise ValueError(
            f"text is {content!r:.60}, of type {type(content).__name__}; give a str."
        )
    if not (content if allow_blank else content.strip()):
        raise ValueError(f"text is {content!r:.60}; give a text that is not empty.")
    check_unicode(content)
