"""The inputs of a task: texts, images, and both together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from unimodal.inputs import Plain

NO_TEXT = (
    "."  # stands for an empty text: some corpora hold them, and no model embeds them
)
Prompt = Literal[
    "", "query", "document"
]  # which of the model's prompts precedes a text


@dataclass(frozen=True)
class Deferred:
    """An image that is read when it is needed, from a tar or a table.

    Two with the same name are equal.
    """

    name: str
    read: Callable[[], bytes] = field(compare=False, repr=False)


ImageSource: TypeAlias = Path | bytes | Deferred


@dataclass(frozen=True)
class Fused:
    """A text and an image that share one vector: the normalized sum of both."""

    text: str
    image: ImageSource


SingleInput: TypeAlias = Plain | Deferred
Input: TypeAlias = SingleInput | Fused


class Side(NamedTuple):
    """One side of a task: inputs to encode, and the prompt before their texts."""

    inputs: Sequence[Input]
    prompt: Prompt = ""
    # that many consecutive inputs share one vector, their normalized mean; 0: each has its own
    group_size: int = 0


def split_input(value: Input) -> tuple[SingleInput, ...]:
    """The text and the image of a fused input, or the input itself."""
    return (value.text, value.image) if isinstance(value, Fused) else (value,)


def text_of(value: Input) -> str:
    """The text of an input; empty for an image."""
    if isinstance(value, Fused):
        return value.text
    return value if isinstance(value, str) else ""


def modalities_of(inputs: Iterable[Input]) -> frozenset[str]:
    """What a model must be able to embed: "text", "image" or both."""
    types = {type(value) for value in inputs}
    if Fused in types:
        return frozenset({"text", "image"})
    return frozenset("text" if kind is str else "image" for kind in types)


def bytes_of(image: ImageSource) -> bytes:
    """The image as it was stored. Raises OSError if its file cannot be read."""
    if isinstance(image, Deferred):
        return image.read()
    return image.read_bytes() if isinstance(image, Path) else image


def name_of(image: ImageSource) -> str:
    """How an error names an image."""
    if isinstance(image, bytes):
        return f"an image of {len(image):,} bytes"
    return image.name if isinstance(image, Deferred) else str(image)
