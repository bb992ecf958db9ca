"""What of an input is not in the index, and why: the list of it, and how much of it ends a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unimodal.checkpoint import replace_text

SKIPPED = "skipped.jsonl"  # in the folder of the embeddings
MIN_SKIPPED = 100  # so many bad items are no sign that all are; training stops by the same rule


class Skipped(NamedTuple):
    """A row that is not in the index, and why."""

    row: int  # of its file, the first being 0, as in the ids of rows without one
    id: str  # empty where it cannot be read
    reason: str


def listed(head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of the list for a file of embeddings, by its head."""
    return [{"input": head["input"], "file": head["label"], **one} for one in head["skipped"]]


def write_skipped(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Make the list; there is none where nothing was skipped."""
    if lines:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        replace_text(folder / SKIPPED, text)
    else:
        (folder / SKIPPED).unlink(missing_ok=True)


def too_many(skipped: int, rows: int, allowed: float) -> bool:
    """Whether so many of these rows end a run; allowed: `max_skipped`."""
    return skipped > allowed * rows and (skipped > MIN_SKIPPED or not allowed)


def refusal(what: str, folder: Path, allowed: float) -> ValueError:
    """The error of a run that ends; what: how many rows of what cannot be indexed."""
    over = f"over max_skipped {allowed:g}, and more than {MIN_SKIPPED}" if allowed else "and max_skipped is 0"
    return ValueError(f"{what}, {over}; repair what is listed in {folder / SKIPPED}, or raise max_skipped.")
