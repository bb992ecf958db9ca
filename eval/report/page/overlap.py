"""What of the suite occurs in the training data, as a table and as examples."""

from __future__ import annotations

from collections.abc import Sequence

from ...analysis.contamination import TaskOverlap
from .cells import (
    Cell,
    Head,
    NumberCell,
    Table,
    TableRow,
    TextCell,
    number_cell,
    task_name,
)
from .inputs import shorten

MAX_EXAMPLES = 12  # of all tasks together
MAX_ITEM = 240  # characters


def overlap_tables(overlaps: Sequence[TaskOverlap]) -> list[Table]:
    """The share of queries and documents that training saw, per task, then some of them."""
    if not overlaps:
        return []
    tables = [_share_table(overlaps)]
    examples = _example_table(overlaps)
    if examples.rows:
        tables.append(examples)
    return tables


def _share_table(overlaps: Sequence[TaskOverlap]) -> Table:
    rows = []
    for overlap in overlaps:
        cells: list[Cell] = [
            task_name(overlap.task),
            _share_cell(len(overlap.queries), overlap.num_queries),
            _share_cell(len(overlap.documents), overlap.num_documents),
        ]
        rows.append(TableRow(cells))
    heads = [
        Head("task"),
        Head("queries seen", "number"),
        Head("relevant documents seen", "number"),
    ]
    return Table(heads, rows)


def _share_cell(seen: int, total: int) -> NumberCell:
    if not total:
        return number_cell(None)
    share = seen / total
    return NumberCell(share, f"{share:.1%}", detail=f"{seen:,} of {total:,}")


def _example_table(overlaps: Sequence[TaskOverlap]) -> Table:
    matches = dict.fromkeys(
        match for overlap in overlaps for match in overlap.examples()
    )
    rows = []
    for match in list(matches)[:MAX_EXAMPLES]:
        item = shorten(match.item, MAX_ITEM)
        texts = (item, match.kind, match.shard, match.key)
        rows.append(TableRow([TextCell(text) for text in texts]))
    heads = [Head("of the suite"), Head("how"), Head("shard"), Head("key")]
    return Table(heads, rows)
