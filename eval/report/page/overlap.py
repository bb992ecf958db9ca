"""What of the suite stands in the training data, as a table and as examples."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ...analysis.contamination import TaskOverlap
from .inputs import shortened
from .tables import number_cell, table, task_html

MAX_EXAMPLES = 12  # of all tasks together


def overlap_tables(overlaps: Sequence[TaskOverlap]) -> str:
    """Shares of the queries and documents that were seen, by task, then some of them; "" if nothing
    was looked for.
    """
    if not overlaps:
        return ""
    rows = [
        f"<tr><td>{task_html(one.task)}</td>{_share(len(one.queries), one.num_queries)}"
        f"{_share(len(one.documents), one.num_documents)}</tr>"
        for one in overlaps
    ]
    heads = [
        ("task", "text"),
        ("queries seen", "number"),
        ("relevant documents seen", "number"),
    ]
    examples = list(
        dict.fromkeys(match for one in overlaps for match in one.examples())
    )[:MAX_EXAMPLES]
    shown = [
        f"<tr><td>{escape(shortened(match.item, 240))}</td><td>{escape(match.kind)}</td>"
        f"<td>{escape(match.shard)}</td><td>{escape(match.key)}</td></tr>"
        for match in examples
    ]
    columns = [
        ("of the suite", "text"),
        ("how", "text"),
        ("shard", "text"),
        ("key", "text"),
    ]
    listed = table(columns, shown) if shown else ""
    return table(heads, rows) + listed


def _share(seen: int, of: int) -> str:
    if not of:
        return number_cell(None)
    share = seen / of
    return (
        f'<td class="number" data-value="{share:.6g}">{share:.1%} <span '
        f'class="half">{seen:,} of {of:,}</span></td>'
    )
