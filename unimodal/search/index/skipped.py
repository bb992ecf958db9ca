"""What of an input is not in the index, and why: the list of it, and how much of it ends a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unimodal.files import replace_text
from unimodal.tables.files import written_name
from unimodal.tables.skipped import json_lines, limit_of
from unimodal.tables.skipped import too_many as too_many

SKIPPED = "_skipped.jsonl"  # in the folder of the embeddings, where Arrow reads what has no `_`
_SKIPPED_BEFORE = "skipped.jsonl"  # of an earlier version


class Skipped(NamedTuple):
    """A row that is not in the index, or there without its image, and why."""

    row: int  # of its file, the first being 0, as in the ids of rows without one
    id: str  # empty where it cannot be read
    reason: str
    kept: bool = False  # it is in the index, without its image


def listed(head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of the list for a file of embeddings, by its head."""
    return [
        {"input": written_name(head["input"]), "file": head["label"], **one}
        for one in head["skipped"]
    ]


def write_skipped(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Make the list; there is none where nothing was skipped."""
    if lines:
        replace_text(folder / SKIPPED, json_lines(lines))
    else:
        (folder / SKIPPED).unlink(missing_ok=True)
    (folder / _SKIPPED_BEFORE).unlink(missing_ok=True)


def refusal(what: str, folder: Path, allowed: float) -> ValueError:
    """The error of a run that ends; what: how many rows of what cannot be indexed."""
    return ValueError(
        f"{what}, {limit_of(allowed)}; repair what is listed in {folder / SKIPPED}, or "
        "raise max_skipped."
    )
