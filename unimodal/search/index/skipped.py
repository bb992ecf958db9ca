"""What of an input is not in the index, and why: the list of it, and how much of it ends a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from unimodal.files import replace_text
from unimodal.tables.files import written_name
from unimodal.tables.skipped import describe_limit, json_lines

SKIPPED = "_skipped.jsonl"  # in the folder of the embeddings; Arrow does not read names with `_`
_SKIPPED_BEFORE = "skipped.jsonl"  # of an earlier version


class Skipped(NamedTuple):
    """A row that is not in the index, or is there without its image, and why."""

    row: int  # of its file, from 0, as in the ids of rows without one
    id: str  # empty where it cannot be read
    reason: str
    kept: bool = False  # it is in the index, without its image


class _Numbered(Protocol):
    """A row with its number and its id."""

    @property
    def number(self) -> int:
        """Of its file, from 0."""

    @property
    def id(self) -> str:
        """Empty where it cannot be read."""


def skip_row(row: _Numbered, reason: str, *, kept: bool = False) -> Skipped:
    """The line of a row for the list, with an id that UTF-8 can hold."""
    id_ = row.id.encode(errors="replace").decode()
    return Skipped(row.number, id_, reason, kept)


def listed(head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lines of the list for a file of embeddings, by its head."""
    return [
        {"input": written_name(head["input"]), "file": head["label"], **fault}
        for fault in head["skipped"]
    ]


def write_skipped(folder: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write the list, or remove it where nothing was skipped."""
    if lines:
        replace_text(folder / SKIPPED, json_lines(lines))
    else:
        (folder / SKIPPED).unlink(missing_ok=True)
    (folder / _SKIPPED_BEFORE).unlink(missing_ok=True)


def refusal(what: str, folder: Path, allowed: float) -> ValueError:
    """The error of a run that ends; what: how many rows of which input cannot be indexed."""
    return ValueError(
        f"{what}, {describe_limit(allowed)}; repair the rows that {folder / SKIPPED} lists, or "
        "raise max_skipped."
    )
