"""What can be embedded: a text, a picture, or both with weights."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from PIL import Image

Picture: TypeAlias = Image.Image | Path | bytes
Item: TypeAlias = str | Picture | Mapping[str, Any]


class Part(NamedTuple):
    """A text or a picture of an item, and its share in the item's vector."""

    kind: str  # "text" or "image"
    content: Any  # a str, or a Picture
    share: float


def parts_of(item: Item, modalities: frozenset[str]) -> list[Part]:
    """The one or two parts of an item; raises ValueError for what a model of these modalities cannot embed."""
    shares = {"text": 1.0, "image": 1.0}
    if isinstance(item, Mapping):
        unknown = item.keys() - {"text", "image", "weight"}
        contents = {key: item[key] for key in ("text", "image") if item.get(key) is not None}
        if unknown or not contents:
            raise ValueError(f"its keys are {sorted(item)}; give 'text', 'image' or both, and maybe 'weight'.")
        weight = 0.5 if item.get("weight") is None else item["weight"]
        if not isinstance(weight, Real) or not 0 <= float(weight) <= 1:
            raise ValueError(f"weight {weight!r} is not between 0 (text alone) and 1 (picture alone).")
        if len(contents) == 2:
            shares = {"text": 1 - float(weight), "image": float(weight)}
    else:
        contents = {"text" if isinstance(item, str) else "image": item}
    for kind, content in contents.items():
        if kind not in modalities:
            name = "picture" if kind == "image" else kind
            raise ValueError(f"it is a {name}, and this model embeds {' and '.join(sorted(modalities))} only.")
        if kind == "text" and (not isinstance(content, str) or not content.strip()):
            raise ValueError(f"text is {content!r:.60}; give a text that is not empty.")
        if kind == "image" and not isinstance(content, (bytes, Path, Image.Image)):
            raise ValueError(
                f"a picture is a PIL image, a Path or bytes, and this is a {type(content).__name__}; "
                "a str is always text."
            )
    return [Part(kind, content, shares[kind]) for kind, content in contents.items()]
