"""The list of items that were taken out of a store: `unimodal why` reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from unimodal.files import replace_text

from .folder import now

REMOVED = "_removed.jsonl"  # in the folder of the embeddings
MOST_LISTED = 100_000  # latest items; with twice as many, the older half is dropped


class RemovedItem(NamedTuple):
    """An item that was taken out of a store."""

    id: str
    input: str  # the last that had it; empty where that is not known
    reason: str
    at: str = ""  # UTC, ISO 8601


def note_removed(folder: Path, removed: Sequence[RemovedItem]) -> None:
    """Add items to the list, with the present time."""
    file = folder / REMOVED
    time = now()
    with file.open("a", encoding="utf-8") as out:
        for item in removed:
            # The line break comes first: what a kill cuts is a line of its own.
            out.write("\n" + json.dumps(item._replace(at=time)._asdict()))
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    if len(lines) > 2 * MOST_LISTED:
        replace_text(file, "".join(lines[-MOST_LISTED:]))


def read_removed(folder: Path) -> Iterator[RemovedItem]:
    """The list, oldest first; a line that was cut by a kill is left out."""
    file = folder / REMOVED
    if not file.is_file():
        return
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                yield RemovedItem(**json.loads(line))
            except (ValueError, TypeError):
                continue
