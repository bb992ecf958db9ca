"""The inputs of a request, from JSON to the parts that the engine embeds.

A string alone is a text, unless it is an image's data URI or base64. Where a key asks for a text,
both are refused. A faulty input fails alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ...config import nearest
from ...inputs import Part
from ...json_text import JSON_NAMES
from ...preprocess.image_formats import is_image_base64, is_image_uri
from ..config import ServeConfig
from ..engine.engine import Engine
from ..engine.images import image_bytes
from ..engine.jobs import Failed
from .errors import ApiError

KEYS = ("text", "image", "weight")
EXPECTED = {"text": "a string", "image": "a data URI, base64 or an https URL"}
FETCHES = 8  # images that one request fetches at a time

Fetch: TypeAlias = Callable[[str], Awaitable[bytes]]  # a URL -> the image behind it
Parts: TypeAlias = tuple[Part, ...]  # a text, an image, or both


@dataclass(frozen=True)
class Link:
    """The content of an image that is still to be fetched."""

    url: str


async def read_inputs(
    values: Sequence[Any], engine: Engine, fetch: Fetch, strings: str = ""
) -> list[Parts | Failed]:
    """Each value's text, image or both; a value that is neither fails alone.

    values: each a str or an object with "text", "image" (a data URI, base64, or an https URL where
        the server fetches from its host) or both, and "weight".
    strings: what a str is: "text", "image", or "" for an image if it is an image's data URI or
        base64, else a text.

    Raises OverloadedError before anything is fetched for a full queue.
    """
    config = engine.config
    if len(values) > config.max_items:
        raise ApiError(
            400,
            f"the request has {len(values)} inputs, and this server accepts {config.max_items}; "
            "send several requests.",
            param="input",
        )
    inputs = [_read_input(value, config, strings) for value in values]
    linked = [index for index, parts in enumerate(inputs) if _has_link(parts)]
    if linked:
        engine.check_room(len(values))
        fetched = await _fetch_all([inputs[index] for index in linked], fetch)
        for index, parts in zip(linked, fetched, strict=True):
            inputs[index] = parts
    return inputs


async def read_image(text: str, engine: Engine, fetch: Fetch) -> bytes:
    """The bytes of the image that a data URI, base64 or an https URL stands for."""
    if not is_url(text):
        return image_bytes(text, engine.config)
    engine.check_room(1)
    return await fetch(text)


def is_url(image: str) -> bool:
    """Whether an image is to be fetched; otherwise it is a data URI or base64."""
    return image.startswith(("http:", "https:"))


def refuse_image_as_text(text: str) -> None:
    """Raise ValueError for an image's data URI or base64, which means nothing as a text."""
    if is_image_uri(text):
        raise ValueError("the text is an image as a data URI; send it as an image.")
    if is_image_base64(text):
        raise ValueError("the text is an image in base64; send it as an image.")


def _read_input(value: Any, config: ServeConfig, strings: str) -> Parts | Failed:
    """The parts of one value; an image behind a URL is still a Link."""
    try:
        item = _as_object(value, strings)
        weight = item.get("weight", 0.5)
        contents = {kind: item[kind] for kind in ("text", "image") if kind in item}
        if "image" in contents:
            image = contents["image"]
            is_link = is_url(image)
            contents["image"] = Link(image) if is_link else image_bytes(image, config)
    except ValueError as error:
        return Failed.of(error)
    if len(contents) == 1:
        return tuple(Part(kind, content, 1.0) for kind, content in contents.items())
    return (
        Part("text", contents["text"], 1 - float(weight)),
        Part("image", contents["image"], float(weight)),
    )


def _as_object(value: Any, strings: str) -> Mapping[str, Any]:
    """A value as a checked object, without keys that are null."""
    if isinstance(value, str):
        is_image = strings == "image"
        if not strings:
            is_image = is_image_uri(value) or is_image_base64(value)
        value = {"image" if is_image else "text": value}
    if not isinstance(value, Mapping):
        raise ValueError(
            f"a {_json_name(value)} is neither a text nor an object with 'text', 'image' or both."
        )
    for key in value:
        if key not in KEYS:
            raise ValueError(f"unknown key {key[:60]!r}; {nearest(key, KEYS)}")
    item = {key: content for key, content in value.items() if content is not None}
    if not item.keys() & {"text", "image"}:
        raise ValueError("an object needs 'text', 'image' or both.")
    for key in ("text", "image"):
        if not isinstance(item.get(key, ""), str):
            name = _json_name(item[key])
            raise ValueError(f"{key!r} is a {name}; send {EXPECTED[key]}.")
    refuse_image_as_text(item.get("text", ""))
    _check_weight(item.get("weight", 0.5))
    return item


def _check_weight(weight: Any) -> None:
    is_number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not is_number or not 0 <= weight <= 1:
        raise ValueError(
            "'weight' is not a number between 0 (text alone) and 1 (image alone)."
        )


def _json_name(value: Any) -> str:
    return JSON_NAMES.get(type(value), "value")


def _has_link(parts: Parts | Failed) -> bool:
    if isinstance(parts, Failed):
        return False
    return any(isinstance(part.content, Link) for part in parts)


async def _fetch_all(
    inputs: Sequence[Parts | Failed], fetch: Fetch
) -> list[Parts | Failed]:
    """The same inputs with their images instead of links."""
    turn = asyncio.Semaphore(FETCHES)

    async def fetch_input(parts: Parts | Failed) -> Parts | Failed:
        assert not isinstance(parts, Failed)
        async with turn:
            try:
                return tuple([await _fetch_part(part, fetch) for part in parts])
            except ValueError as error:
                return Failed.of(error)

    # No fetch may outlive the request that it is counted for: an exception waits for the others.
    results = await asyncio.gather(*map(fetch_input, inputs), return_exceptions=True)
    fetched: list[Parts | Failed] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        fetched.append(result)
    return fetched


async def _fetch_part(part: Part, fetch: Fetch) -> Part:
    if not isinstance(part.content, Link):
        return part
    return part._replace(content=await fetch(part.content.url))
