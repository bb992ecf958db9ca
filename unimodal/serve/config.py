"""The configuration of a server: model, address, and limits. Each key can be `key=value`."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ..config import Config
from ..preprocess.images import MAX_PIXELS

API_KEYS = "UNIMODAL_API_KEYS"
_HOST = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")


class UrlsConfig(Config):
    """From where images are fetched when a client sends a URL; an empty `allow` fetches none."""

    allow: tuple[str, ...] = ()
    """Host names, exact (img.shop.com) or with all below them (*.shop.com); none: no URLs."""
    max_bytes: int = Field(default=10_000_000, gt=0)
    """Largest size of one image."""
    seconds: float = Field(default=5.0, gt=0)
    """Time limit of one fetch: name, connection, redirects and body."""
    redirects: int = Field(default=3, ge=0)
    """Number of redirects to follow."""

    @model_validator(mode="after")
    def _allows_hosts(self) -> UrlsConfig:
        for host in self.allow:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    f"allow {host!r} is not a host name; write img.shop.com, or "
                    "*.shop.com for all below it."
                )
        return self


class ServeConfig(Config):
    """One server: `unimodal serve MODEL key=value ...`."""

    model: str
    """Model directory, hub id, open_clip:NAME or hf:NAME."""
    names: tuple[str, ...] = ()
    """Model names that clients must use, the first is shown; none or *: any name."""
    strict: bool = False
    """Refuse unknown keys of a body; false: ignore them, and name them in a header."""
    store: str = ""
    """Vector store to search, such as lance:///dir; empty: embeddings only."""
    reload: bool = False
    """Load the model again when the store was indexed with a changed one."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0: any free one."""
    device: str | tuple[str, ...] | None = None
    """Device; a list: a copy of the model on each; default: a GPU where there is one."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    """Data type of weights and computation."""
    calibrated: bool = False
    """Remove the modality gap by the calibration in the model directory."""

    api_keys_file: str = ""
    """File with one API key per line, beside $UNIMODAL_API_KEYS (commas); no key: open."""
    cors: tuple[str, ...] = ()
    """Allowed CORS origins, such as https://shop.com; *: all, without credentials."""
    proxies: tuple[str, ...] = ()
    """Addresses of proxies whose X-Forwarded-For and -Proto are trusted; *: all."""

    max_items: int = Field(default=2048, gt=0)
    """Items per request (OpenAI's limit)."""
    queue_items: int = Field(default=4096, gt=0)
    """Items of all requests admitted at a time; further requests get 429."""
    queue_bytes: int = Field(default=512_000_000, gt=0)
    """Bytes of texts and images of all requests admitted at a time."""
    batch_tokens: int | None = Field(default=None, gt=0)
    """Tokens per forward pass, padding included; default: by device."""
    batch_pixels: int | None = Field(default=None, gt=0)
    """Pixels per forward pass, after preprocessing; default: by device."""
    decoders: int = Field(default=4, gt=0)
    """Threads that decode images; each holds one image in full size."""

    max_text_chars: int = Field(default=200_000, gt=0)
    """Characters per text."""
    max_body_bytes: int = Field(default=64_000_000, gt=0)
    """Bytes per request body."""
    max_image_bytes: int = Field(default=20_000_000, gt=0)
    """Bytes per image file."""
    max_pixels: int = Field(default=MAX_PIXELS, gt=0)
    """Pixels per image, checked in its header before it is decoded."""
    urls: UrlsConfig = UrlsConfig()
    """Images that clients send as a URL."""

    max_hits: int = Field(default=1000, gt=0)
    """Hits per search."""
    request_seconds: float = Field(default=60.0, gt=0)
    """Seconds in which a request has to arrive."""
    keep_alive_seconds: int = Field(default=75, gt=0)
    """Seconds to keep an idle connection open."""
    delay_seconds: float = Field(default=2.0, ge=0)
    """Seconds to keep accepting after SIGTERM, while /health/ready already fails."""
    drain_seconds: float = Field(default=30.0, gt=0)
    """Seconds to finish admitted requests after SIGTERM."""
    ready_seconds: float = Field(default=30.0, gt=0)
    """Seconds since the last successful forward pass within which the server is ready."""
    failures: int = Field(default=3, gt=0)
    """Failed forward passes in a row after which the server is not ready."""
    stuck_seconds: float = Field(default=120.0, gt=0)
    """Seconds after which a hanging forward pass ends the process."""
    log: Literal["auto", "json", "text"] = "auto"
    """Format of the log; auto: text on a terminal, JSON elsewhere."""

    @model_validator(mode="after")
    def _fits_together(self) -> ServeConfig:
        if self.max_items > self.queue_items:
            raise ValueError(
                f"max_items {self.max_items} is more than queue_items {self.queue_items}, so the "
                "largest request would never be admitted; lower max_items or raise queue_items."
            )
        if self.max_body_bytes > self.queue_bytes:
            raise ValueError(
                f"max_body_bytes {self.max_body_bytes} is more than queue_bytes "
                f"{self.queue_bytes}, so the largest request would never be admitted; lower "
                "max_body_bytes or raise queue_bytes."
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
                    f"cors {origin!r} is not an origin; write it as https://shop.com, or * "
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
    """The server's API keys, from its file and the environment; none: anyone may use it.

    Raises ValueError for a file that is missing or has no key, and for keys too short to be secret.
    """
    keys = _strip(os.environ.get(API_KEYS, "").split(","))
    if config.api_keys_file:
        keys += _read_keys_file(config.api_keys_file)
    for number, key in enumerate(keys, start=1):
        if len(key) < 16 or not key.isascii():
            raise ValueError(
                f"API key {number} has {len(key)} characters; a key has at least 16 characters, "
                "all of them ASCII."
            )
    return tuple(dict.fromkeys(keys))


def _read_keys_file(name: str) -> list[str]:
    file = Path(name)
    if not file.is_file():
        raise ValueError(
            f"api_keys_file {name!r} does not exist; write one key per line into it."
        )
    keys = _strip(file.read_text(encoding="utf-8").splitlines())
    if not keys:  # must not mean an open server
        raise ValueError(
            f"api_keys_file {name!r} has no key; write one key per line into it."
        )
    return keys


def _strip(texts: Iterable[str]) -> list[str]:
    """The texts without blanks around them, and without empty texts."""
    stripped = [text.strip() for text in texts]
    return [text for text in stripped if text]
