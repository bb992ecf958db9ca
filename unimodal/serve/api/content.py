"""Inputs made of several parts, as Cohere's and vLLM's bodies have them: texts, and an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from .body import NOT_USED, InnerBody
from .errors import ApiError


class ContentText(InnerBody):
    """A text of an input."""

    type: Literal["text"]
    text: str = Field(min_length=1)


class ImageUrl(InnerBody):
    """Where an image is."""

    url: str = Field(description="A data URI; an https URL where it is allowed.")
    detail: str | None = Field(default=None, description=NOT_USED)


class ContentImage(InnerBody):
    """An image of an input."""

    type: Literal["image_url"]
    image_url: ImageUrl


TextOrImage = Annotated[ContentText | ContentImage, Field(discriminator="type")]


class Content(InnerBody):
    """An input of several parts: texts, and an image."""

    content: list[TextOrImage] = Field(min_length=1, fail_fast=True)


def join_content(parts: Sequence[TextOrImage], place: str) -> dict[str, Any]:
    """The parts as one input: their texts joined by line ends, and at most one image."""
    texts = [part.text for part in parts if isinstance(part, ContentText)]
    images = [part.image_url.url for part in parts if isinstance(part, ContentImage)]
    if len(images) > 1:
        raise ApiError(
            400,
            f"{place}: an input has one image at most, and this one has {len(images)}; "
            "send several inputs.",
        )
    joined: dict[str, Any] = {}
    if texts:
        joined["text"] = "\n".join(texts)
    if images:
        joined["image"] = images[0]
    return joined
