"""What went worst, task by task: the query, what it should have found, and what it
found instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ...analysis.failures import (
    Found,
    WorstPair,
    WorstQuery,
    worst_pairs,
    worst_queries,
)
from ...data.datasets import Fused
from ...scoring.results import TaskResult
from ..layout import number
from .inputs import Thumbnails, input_html
from .tables import model_html, number_cell, table, task_html

MAX_SHOWN = 6  # of a task: queries of all models together


def failure_sections(
    results: Mapping[str, Sequence[TaskResult]], thumbnails: Thumbnails
) -> str:
    """A section that opens for each task, with its worst queries or pairs by each model; "" if
    nothing went wrong.
    """
    tasks = dict.fromkeys(result.name for found in results.values() for result in found)
    count = max(2, MAX_SHOWN // max(1, len(results)))
    parts: list[str] = []
    for task in tasks:
        inside = []
        for place, (model, found) in enumerate(results.items()):
            result = next((one for one in found if one.name == task), None)
            shown = "" if result is None else _worst_html(result, count, thumbnails)
            if shown:
                named = (
                    f'<h4 class="whose">{model_html(model, place)}</h4>'
                    if len(results) > 1
                    else ""
                )
                inside.append(named + shown)
        if inside:
            opened = " open" if not parts else ""
            body = "".join(inside)
            parts.append(
                f"<details{opened}><summary>{task_html(task)}</summary><div "
                f"class=inside>{body}</div></details>"
            )
    return "".join(parts)


def _worst_html(result: TaskResult, count: int, thumbnails: Thumbnails) -> str:
    queries = worst_queries(result, count)
    cards = "".join(_query_html(one, thumbnails) for one in queries)
    return cards + (_pairs_html(pairs) if (pairs := worst_pairs(result, count)) else "")


def _query_html(worst: WorstQuery, thumbnails: Thumbnails) -> str:
    value = (
        ""
        if worst.value is None
        else f" · {escape(worst.metric)} {number(worst.value)}"
    )
    right = "".join(_found_html(one, thumbnails) for one in worst.relevant)
    found = "".join(_found_html(one, thumbnails) for one in worst.found)
    return (
        '<article class="failure"><div '
        f'class="asked"><h4>asked</h4>{input_html(worst.query, thumbnails)}<p '
        f'class="quiet">right answer at rank {worst.rank:,}{value}</p></div><div '
        f'class="right-answers"><h4>should have found</h4><ul>{right}</ul></div><div '
        f'class="found"><h4>found</h4><ul>{found}</ul></div></article>'
    )


def _found_html(found: Found, thumbnails: Thumbnails) -> str:
    """A right one says so in words too, so that nobody needs to see its colour."""
    shape = (
        "words"
        if isinstance(found.input, str)
        else "fused"
        if isinstance(found.input, Fused)
        else "picture"
    )
    right = " right" if found.is_relevant else ""
    said = '<span class="badge">✓ right</span> ' if found.is_relevant else ""
    return (
        f'<li class="{shape}{right}">{input_html(found.input, thumbnails)}'
        f'<p class="quiet">{said}#{found.rank:,} · {found.score:.3f}</p></li>'
    )


def _pairs_html(pairs: Sequence[WorstPair]) -> str:
    rows = [
        f"<tr><td>{escape(one.left)}</td><td>{escape(one.right)}</td>{number_cell(one.score)}{number_cell(one.cosine)}"
        f"<td>{_place_html(one)}</td></tr>"
        for one in pairs
    ]
    heads = [
        ("one text", "text"),
        ("the other", "text"),
        ("people", "number"),
        ("cosine", "number"),
    ]
    return table([*heads, ("the model finds them", "text")], rows)


def _place_html(pair: WorstPair) -> str:
    direction = "too close" if pair.place > pair.human_place else "too far apart"
    return (
        f"{direction}: more alike than {pair.place:.0%} of the pairs, for people than "
        f"{pair.human_place:.0%}"
    )
