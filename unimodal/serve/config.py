"""What a server is told: model, address, and every bound that keeps it standing. Each key can be
`key=value`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ..config import Config
from ..preprocess.images import MAX_PIXELS

API_KEYS = "UNIMODAL_API_KEYS"
_HOST = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class UrlsConfig(Config):
    """From where images are fetched when a client sends a URL; an empty `allow` fetches none."""

    allow: tuple[
        str, ...
    ] = ()  # host names, exact (img.shop.com) or with all below them (*.shop.com)
    max_bytes: int = Field(default=10_000_000, gt=0)
    seconds: float = Field(
        default=5.0, gt=0
    )  # for all of it: name, connection, redirects, body
    redirects: int = Field(default=3, ge=0)

    @model_validator(mode="after")
    def _allows_hosts(self) -> UrlsConfig:
        for host in self.allow:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    f"allow {host!r} is no host name; write img.shop.com, or *.shop.com "
                    "for all below it."
                )
        return self


class ServeConfig(Config):
    """One server: `unimodal serve MODEL key=value ...`."""

    model: str  # a model directory, a hub id, open_clip:NAME or hf:NAME
    names: tuple[
        str, ...
    ] = ()  # what clients must call it, the first is shown; none or *: any name
    # refuse unknown keys of a body; false: ignore them, and name them in a header
    strict: bool = False
    store: str = ""  # an index to search, e.g. lance:///dir; empty: embeddings only
    reload: bool = False  # load the model again once the store was indexed with what lies there now
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)  # 0: any that is free
    device: str | tuple[str, ...] | None = None  # several: a copy of the model on each
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    calibrated: bool = (
        False  # take the modality gap out, as the model directory's calibration says
    )

    # a key a line; more come from $UNIMODAL_API_KEYS (commas); none at all: open to everyone
    api_keys_file: str = ""
    cors: tuple[
        str, ...
    ] = ()  # whose pages may ask, e.g. https://shop.com; * is every page, without credentials
    proxies: tuple[
        str, ...
    ] = ()  # addresses whose X-Forwarded-For and -Proto are believed; * is anyone

    max_items: int = Field(default=2048, gt=0)  # of one request (OpenAI's limit)
    queue_items: int = Field(
        default=4096, gt=0
    )  # admitted and not yet answered, of all requests; more get 429
    queue_bytes: int = Field(
        default=512_000_000, gt=0
    )  # the same in bytes of texts and images as they came
    batch_tokens: int | None = Field(
        default=None, gt=0
    )  # of one forward pass, padding included; default: by device
    batch_pixels: int | None = Field(
        default=None, gt=0
    )  # of one pass, as the model sees them; default: by device
    decoders: int = Field(
        default=4, gt=0
    )  # threads that decode images; each holds one image in full size

    max_text_chars: int = Field(default=200_000, gt=0)
    max_body_bytes: int = Field(default=64_000_000, gt=0)
    max_image_bytes: int = Field(default=20_000_000, gt=0)
    max_pixels: int = Field(
        default=MAX_PIXELS, gt=0
    )  # by an image's header, before any of it is decoded
    urls: UrlsConfig = UrlsConfig()

    max_hits: int = Field(default=1000, gt=0)  # that one search may ask for
    request_seconds: float = Field(
        default=60.0, gt=0
    )  # in which a request has to arrive whole
    keep_alive_seconds: int = Field(
        default=75, gt=0
    )  # that an idle connection stays open
    delay_seconds: float = Field(
        default=2.0, ge=0
    )  # after SIGTERM it is not ready, and still accepts for so long
    drain_seconds: float = Field(
        default=30.0, gt=0
    )  # that admitted requests have after SIGTERM
    ready_seconds: float = Field(
        default=30.0, gt=0
    )  # ready means a forward pass that went well no longer ago
    failures: int = Field(
        default=3, gt=0
    )  # forward passes that failed in a row, after which it is not ready
    stuck_seconds: float = Field(
        default=120.0, gt=0
    )  # a forward pass that takes longer ends the process
    log: Literal["auto", "json", "text"] = "auto"  # text on a terminal, JSON elsewhere

    @model_validator(mode="after")
    def _fits_together(self) -> ServeConfig:
        if self.max_items > self.queue_items:
            raise ValueError(
                f"max_items {self.max_items} is more than queue_items {self.queue_items}, so "
                "that the largest request would never be admitted; lower the one or raise the "
                "other."
            )
        if self.max_body_bytes > self.queue_bytes:
            raise ValueError(
                f"max_body_bytes {self.max_body_bytes} is more than queue_bytes "
                f"{self.queue_bytes}, so the largest request would never be admitted; lower the "
                "one or raise the other."
            )
        for proxy in self.proxies:
            if proxy != "*" and not _is_network(proxy):
                raise ValueError(
                    f"proxies {proxy!r} is not an address; write 10.0.0.7, 10.0.0.0/8, "
                    "or * for anyone."
                )
        for origin in self.cors:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ValueError(
                    f"cors {origin!r} is no origin; write it as https://shop.com, or * "
                    "for every page."
                )
        return self


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def read_api_keys(config: ServeConfig) -> tuple[str, ...]:
    """The keys that open the server, from its file and the environment; none: it is open to
    everyone.

    Raises ValueError for a file that is missing or has no key, and for keys too short to be secret.
    """
    keys = [
        key.strip() for key in os.environ.get(API_KEYS, "").split(",") if key.strip()
    ]
    if config.api_keys_file:
        file = Path(config.api_keys_file)
        if not file.is_file():
            raise ValueError(
                f"api_keys_file {config.api_keys_file!r} does not exist; write a key a "
                "line into it."
            )
        found = [
            line.strip()
            for line in file.read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
        if not found:  # must not mean an open server
            raise ValueError(
                f"api_keys_file {config.api_keys_file!r} holds no key; write one a line into it."
            )
        keys += found
    for number, key in enumerate(keys, start=1):
        if len(key) < 16 or not key.isascii():
            raise ValueError(
                f"API key {number} has {len(key)} characters; a key is 16 or more "
                "characters of ASCII."
            )
    return tuple(dict.fromkeys(keys))
