"""What an engine counts, for /metrics and the log."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class ModalityStats:
    """Counters of the texts, or of the images."""

    items: int = 0  # embedded by the model
    tokens: int = 0
    batches: int = 0
    sizes: Counter[int] = field(default_factory=Counter)  # batch size -> how often
    wait_seconds: float = 0.0  # from admission to the forward pass, summed over items
    forward_seconds: float = 0.0  # summed over batches


@dataclass
class Stats:
    """Counters since the server started."""

    # held while counting, because each copy of the model has a thread
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    text: ModalityStats = field(default_factory=ModalityStats)
    image: ModalityStats = field(default_factory=ModalityStats)
    requests: int = 0  # admitted
    rejected: int = 0  # requests for which the queue had no room
    cancelled: int = 0  # requests whose client disconnected
    refused: int = 0  # items that cannot be embedded: not an image, too large, ...
    failures: int = 0  # items that the model failed on
    out_of_memory: int = 0  # forward passes that did not fit into memory
