"""What an engine counts, for /metrics and the log."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class LaneStats:
    """What became of texts, or of images."""

    items: int = 0  # that the model embedded
    tokens: int = 0
    batches: int = 0
    sizes: Counter[int] = field(default_factory=Counter)  # size of a batch -> how many
    wait_seconds: float = 0.0  # from admission to the forward pass, summed over items
    forward_seconds: float = 0.0  # summed over batches


@dataclass
class Stats:
    """Counters since the start."""

    lock: threading.Lock = field(
        default_factory=threading.Lock, repr=False
    )  # held by several models' threads to count
    text: LaneStats = field(default_factory=LaneStats)
    image: LaneStats = field(default_factory=LaneStats)
    requests: int = 0  # admitted
    rejected: int = 0  # requests for which there was no room
    cancelled: int = 0  # requests whose client went away
    refused: int = 0  # items that cannot be embedded: no image, too large, ...
    failures: int = 0  # items that the model failed on
    out_of_memory: int = 0  # forward passes that did not fit
