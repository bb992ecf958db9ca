"""What a request wants embedded: texts, images and both at once, from JSON to items, each fault in
its own place.

A string alone is a text, unless it is an image's data URI or base64. Where a text is wanted by
name, both are refused.

n inputs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...config import nearest
from ...embedder import Embedder, Item
from ...json_text import JSON_NAMES
from ...model_config import check_truncation
from ..config import ServeConfig
from ..engine.engine import Embedded, Engine, Failed
from ..engine.images import image_bytes, is_image_base64, is_image_uri
from .errors import ApiError

KEYS = ("text", "image", "weight")
SENT = {"text": "a string", "image": "a data URI, base64 or an https URL"}
FETCHES = 8  # images that one request fetches at a time
Fetch = Callable[[str], Awaitable[bytes]]  # a URL -> the image behind it
Scope = MutableMapping[str, Any]


async def read_items(
    inputs: Sequence[Any], engine: Engine, fetch: Fetch, strings: str = ""
) -> list[Item | Failed]:
    """Each input -> a text, an image's bytes or {"text", "image", "weight"}; what is none of these
    fails alone.

    inputs: a str or an object with "text", "image" (a data URI, base64, or an https URL where the
        server fetches from its host) or both.
    strings: what a str is: "text", "image", or "": a text, or an image if it is an image's data URI
    or base64. Raises OverloadedError before anything is fetched for a full queue.
    """
    config = engine.config
    if len(inputs) > config.max_items:
        raise ApiError(
            400,
            f"the request has {len(inputs)} inputs, and this server takes "
            f"{config.max_items}; send several requests.",
            param="input",
        )
    items = [_read(one, config, strings) for one in inputs]
    links = [
        number
        for number, item in enumerate(items)
        if isinstance(item, dict) and "url" in item
    ]
    if links:
        engine.check_room(len(inputs))
        fetched = await _fetch_all([items[number] for number in links], fetch)
        for number, item in zip(links, fetched, strict=True):
            items[number] = item
    return items


async def embed(
    engine: Engine,
    inputs: Sequence[Any],
    scope: Scope,
    *,
    prompt: str = "",
    on_error: str = "request",
    param: str = "input",
    strings: str = "",
    whole: bool = False,
) -> list[Embedded | Failed]:
    """The inputs' vectors in their order.

    scope: the request's, with the gate's `fetch`; it is given the number of inputs.
    on_error: "request" raises ApiError for the first that failed, with its number; "item" leaves it
        in the list.
    strings: as for `read_items`.
    whole: a text that is longer than what the model reads fails, where it would be cut.
    """
    scope["num_items"] = len(inputs)
    embedder = engine.embedder
    items = await read_items(inputs, engine, scope["fetch"], strings)
    if whole:
        items = await asyncio.to_thread(_without_long_texts, items, prompt, embedder)
    _raise_first(items, on_error, param)
    good = [item for item in items if not isinstance(item, Failed)]
    answers = iter(
        await engine.embed(good, prompt=prompt, embedder=embedder) if good else []
    )
    results = [item if isinstance(item, Failed) else next(answers) for item in items]
    _raise_first(results, on_error, param)
    return results


def _without_long_texts(
    items: Sequence[Item | Failed], prompt: str, embedder: Embedder
) -> list[Item | Failed]:
    """The same, but a text that would be cut has failed."""
    return [
        item if isinstance(item, Failed) else _whole_or_failed(item, prompt, embedder)
        for item in items
    ]


def _whole_or_failed(item: Item, prompt: str, embedder: Embedder) -> Item | Failed:
    text = item.get("text") if isinstance(item, Mapping) else item
    if (
        not isinstance(text, str)
        or embedder.tokenizer is None
        or not embedder.tokenizer.is_cut(prompt + text)
    ):
        return item
    length = embedder.config.text.max_length if embedder.config.text else 0
    reason = (
        f"the text is longer than the {length} tokens that the model reads; shorten it, or "
        "have it cut."
    )
    return Failed(reason, 400, "context_length_exceeded")


def stacked(results: Sequence[Embedded | Failed], dim: int) -> NDArray[np.float32]:
    """The vectors of those that have one -> (n, D)."""
    vectors = [result.vector for result in results if isinstance(result, Embedded)]
    return np.stack(vectors) if vectors else np.zeros((0, dim), np.float32)


def tokens(results: Sequence[Embedded | Failed]) -> int:
    """How many tokens the model read; an image counts its patches and one."""
    return sum(result.tokens for result in results if isinstance(result, Embedded))


def checked_dimensions(
    dimensions: int | None, engine: Engine, param: str = "dimensions"
) -> int | None:
    """A length that the model's vectors can be cut to."""
    try:
        return (
            None
            if dimensions is None
            else check_truncation(engine.embedder.config, dimensions, param)
        )
    except ValueError as error:
        raise ApiError(400, str(error), param=param) from None


async def image_of(text: str, engine: Engine, fetch: Fetch) -> bytes:
    """The bytes of the image that a data URI, base64 or an https URL stands for; as `read_items`,
    of one.
    """
    if not is_url(text):
        return image_bytes(text, engine.config)
    engine.check_room(1)
    return await fetch(text)


def is_url(image: str) -> bool:
    """Whether an image is to be fetched; else it is there, as a data URI or base64."""
    return image.startswith(("http:", "https:"))


def _raise_first(results: Sequence[Any], on_error: str, param: str) -> None:
    for number, result in enumerate(results):
        if isinstance(result, Failed) and on_error == "request":
            message = f"{param} {number}: {result.reason}"
            raise ApiError(
                result.status, message, code=result.code, param=f"{param}.{number}"
            )


def _read(one: Any, config: ServeConfig, strings: str) -> Item | Failed:
    """An input as an item; an image that is to be fetched is still its "url"."""
    try:
        item = _checked(one, strings)
        if "image" in item:
            if is_url(item["image"]):
                return {**item, "url": item["image"]}
            item["image"] = image_bytes(item["image"], config)
    except ValueError as error:
        return Failed.of(error)
    return _plain(item)


async def _fetch_all(items: Sequence[Any], fetch: Fetch) -> list[Item | Failed]:
    """The same once their images are there."""
    turn = asyncio.Semaphore(FETCHES)

    async def fetched(item: Any) -> Item | Failed:
        async with turn:
            try:
                item["image"] = await fetch(item.pop("url"))
            except ValueError as error:
                return Failed.of(error)
        return _plain(item)

    # No fetch may outlive the request that it is counted for: the first exception waits for the
    # others.
    results = await asyncio.gather(
        *(fetched(item) for item in items), return_exceptions=True
    )
    there: list[Item | Failed] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        there.append(result)
    return there


def _plain(item: dict[str, Any]) -> Item:
    """A text or an image alone needs no object around it."""
    return item if len(item) > 1 else next(iter(item.values()))  # type: ignore[no-any-return]  # an Item, as all here


def _checked(one: Any, strings: str) -> dict[str, Any]:
    """An input as an object of its own, without keys that are null; strings: as
    for `read_items`.
    """
    if isinstance(one, str):
        is_image = strings == "image" or (
            not strings and (is_image_uri(one) or is_image_base64(one))
        )
        one = {"image" if is_image else "text": one}
    if not isinstance(one, Mapping):
        raise ValueError(
            f"a {_kind(one)} is neither a text nor an object with 'text', 'image' or both."
        )
    for key in one:
        if key not in KEYS:
            raise ValueError(f"unknown key {key[:60]!r}; {nearest(key, KEYS)}")
    given = {key: value for key, value in one.items() if value is not None}
    if not given.keys() & {"text", "image"}:
        raise ValueError("an object needs 'text', 'image' or both.")
    for key in ("text", "image"):
        if not isinstance(given.get(key, ""), str):
            raise ValueError(f"{key!r} is a {_kind(given[key])}; send {SENT[key]}.")
    refuse_image_uri(given.get("text", ""))
    weight = given.get("weight", 0.5)
    if (
        isinstance(weight, bool)
        or not isinstance(weight, (int, float))
        or not 0 <= weight <= 1
    ):
        raise ValueError(
            "'weight' is not a number between 0 (text alone) and 1 (image alone)."
        )
    if len(given) < 3:
        given.pop("weight", None)  # of one part, whose share is all
    return given


def refuse_image_uri(text: str) -> None:
    """Raises ValueError for an image's data URI or base64 where a text is wanted: as a text it
    would mean nothing.
    """
    if is_image_uri(text):
        raise ValueError("the text is an image as a data URI; send it as an image.")
    if is_image_base64(text):
        raise ValueError("the text is an image in base64; send it as an image.")


def _kind(value: Any) -> str:
    return JSON_NAMES.get(type(value), "value")
