"""Admission: whether a request fits into the queue, and which jobs its inputs become."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from ...inputs import Item, Part, check_parts, split_item
from ..config import ServeConfig
from .errors import OverloadedError, TooLargeError
from .images import check_size
from .jobs import EncodeJob, Failed, PendingRequest
from .stats import Stats

# an input as `Embedder.encode` accepts it, or its parts
EngineInput: TypeAlias = Item | tuple[Part, ...]

MIN_RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 60.0


class Queue:
    """How many inputs and bytes are admitted and not yet answered."""

    def __init__(self, config: ServeConfig, stats: Stats) -> None:
        self.config = config
        self.stats = stats
        self.num_items = 0
        self.num_bytes = 0

    def check_room(
        self, num_items: int, num_bytes: int, items_per_second: float
    ) -> None:
        """Raise OverloadedError unless this many more items and bytes fit."""
        items_fit = self.num_items + num_items <= self.config.queue_items
        bytes_fit = self.num_bytes + num_bytes <= self.config.queue_bytes
        if items_fit and bytes_fit:
            return
        self.stats.rejected += 1
        seconds = MIN_RETRY_SECONDS
        if items_per_second:
            seconds = max(seconds, self.num_items / items_per_second)
        raise OverloadedError(min(MAX_RETRY_SECONDS, seconds))

    def add(self, request: PendingRequest) -> None:
        """Count a request that was admitted."""
        self.stats.requests += 1
        self.num_items += len(request.outcomes)
        self.num_bytes += request.num_bytes

    def remove(self, request: PendingRequest) -> None:
        """Count a request that was answered, or is given up."""
        self.num_items -= len(request.outcomes)
        self.num_bytes -= request.num_bytes


def make_jobs(
    inputs: Sequence[EngineInput],
    prompt: str,
    request: PendingRequest,
    *,
    modalities: frozenset[str],
    image_tokens: int,
    config: ServeConfig,
    stats: Stats,
) -> list[EncodeJob]:
    """The jobs of a request; an input that cannot be embedded gets its outcome immediately."""
    jobs: list[EncodeJob] = []
    now = time.monotonic()
    for index, value in enumerate(inputs):
        try:
            parts = _checked_parts(value, modalities)
            num_bytes = sum(_num_bytes(part, config) for part in parts)
            if request.num_bytes + num_bytes > config.queue_bytes:
                raise TooLargeError(
                    f"the request is larger than {config.queue_bytes} bytes; split it."
                )
        except ValueError as error:
            request.outcomes[index] = Failed.of(error)
            stats.refused += 1
            continue
        request.num_bytes += num_bytes
        weight = parts[-1].share  # of the image, which follows the text
        for kind, content, _ in parts:
            if kind == "text":
                content = prompt + content
            jobs.append(
                EncodeJob(
                    request, index, kind, content, weight, now, tokens=image_tokens
                )
            )
    request.jobs_left = len(jobs)
    return jobs


def _checked_parts(value: EngineInput, modalities: frozenset[str]) -> Sequence[Part]:
    parts = value if isinstance(value, tuple) else split_item(value, modalities)
    check_parts(parts, modalities, allow_blank=True)
    return parts


def _num_bytes(part: Part, config: ServeConfig) -> int:
    """What a part takes up in the queue; raises ValueError for a part that is not admitted."""
    content = part.content
    if isinstance(content, str):
        if len(content) > config.max_text_chars:
            raise TooLargeError(
                f"the text is longer than {config.max_text_chars} characters; shorten it."
            )
        return len(content.encode())
    if isinstance(content, Path):
        raise ValueError("a server opens no files by name; send the image's bytes.")
    if isinstance(content, Image.Image):
        return 3 * content.width * content.height
    check_size(len(content), config)
    return len(content)
