"""How many bad rows of an input end a run: the one rule of pack, index and embed."""

from __future__ import annotations

MIN_SKIPPED = 100  # bad items up to this number do not show that all are bad; training stops by the same rule


def too_many(skipped: int, rows: int, allowed: float) -> bool:
    """Whether this many bad rows out of `rows` end a run; allowed: the share that `max_skipped` allows."""
    return skipped > allowed * rows and (skipped > MIN_SKIPPED or not allowed)


def limit_of(allowed: float) -> str:
    """The limit in words, for the error of a run that ends."""
    return f"over max_skipped {allowed:g}, and more than {MIN_SKIPPED}" if allowed else "and max_skipped is 0"
