"""Drawings of the page, as SVG without a library: a score between chance and 1, and a curve over
dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

from ...scoring.results import Row
from ..layout import number

COLOURS = 6  # classes m0 ... m5 of the style sheet; more models start again


def score_plot(cells: Mapping[str, Row], models: Sequence[str]) -> str:
    """One line from 0 to 1: a tick for chance, a diamond for BM25, a dot with its interval for each
    model.
    """
    width = 168
    height = 8 + 8 * len(models)
    lowest = 0.0
    for one in cells.values():
        lowest = min(lowest, one.value or 0.0, one.low or 0.0, one.baseline or 0.0)

    def x(value: float) -> float:
        return round(4 + (width - 8) * (min(value, 1.0) - lowest) / (1 - lowest), 1)

    known = next(iter(cells.values()))
    middle = height / 2
    parts = [
        f'<line class="axis" x1="{x(lowest)}" x2="{x(1)}" y1="{middle}" y2="{middle}"/>'
    ]
    if known.chance is not None:
        parts.append(
            f'<line class="chance" x1="{x(known.chance)}" x2="{x(known.chance)}" y1="1" '
            f'y2="{height - 1}"/>'
        )
    if known.baseline is not None:
        parts.append(
            f'<path class="bm25" d="M{x(known.baseline)} {middle - 5}l5 5l-5 5l-5-5z"/>'
        )
    for place, name in enumerate(models):
        row = cells.get(name)
        if row is None or row.value is None:
            continue
        y = 8 + 8 * place
        colour = f"m{place % COLOURS}"
        if row.low is not None and row.high is not None:
            parts.append(
                f'<line class="interval {colour}" x1="{x(row.low)}" x2="{x(row.high)}" '
                f'y1="{y}" y2="{y}"/>'
            )
        parts.append(
            f'<circle class="dot {colour}" cx="{x(row.value)}" cy="{y}" r="3.5"/>'
        )
    named = [(name or "model", cells[name].value) for name in models if name in cells]
    said = [f"{name} {number(value)}" for name, value in named]
    said += [f"chance {number(known.chance)}", f"BM25 {number(known.baseline)}"]
    return _svg(width, height, ", ".join(said), parts, "plot")


def dims_curve(title: str, curves: Mapping[str, Mapping[int, float]]) -> str:
    """A score over the number of dimensions that are kept, on a logarithmic axis; a line for each
    model.

    curves: model -> dimensions -> score.
    """
    width = 340
    height = 210
    left = 40
    right = 14
    top = 14
    bottom = 30
    dims = sorted({dim for curve in curves.values() for dim in curve})
    highest = _nice_top(
        max(value for curve in curves.values() for value in curve.values())
    )
    lowest = min(
        0.0, min(value for curve in curves.values() for value in curve.values())
    )
    span = math.log2(dims[-1] / dims[0]) or 1.0

    def x(dim: int) -> float:
        return round(left + (width - left - right) * math.log2(dim / dims[0]) / span, 1)

    def y(value: float) -> float:
        return round(
            top + (height - top - bottom) * (highest - value) / (highest - lowest), 1
        )

    parts = []
    for step in range(5):
        value = lowest + (highest - lowest) * step / 4
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(value)}" y2="{y(value)}"/>'
        )
        parts.append(
            f'<text class="tick end" x="{left - 6}" y="{y(value) + 4}">{value:.2f}</text>'
        )
    for dim in _spread(dims, x):
        parts.append(
            f'<text class="tick middle" x="{x(dim)}" y="{height - 10}">{dim}</text>'
        )
    for place, (name, curve) in enumerate(curves.items()):
        colour = f"m{place % COLOURS}"
        points = " ".join(f"{x(dim)},{y(curve[dim])}" for dim in sorted(curve))
        parts.append(f'<polyline class="curve {colour}" points="{points}"/>')
        for dim in sorted(curve):
            said = escape(f"{name or 'model'}: {curve[dim]:.3f} at {dim} dimensions")
            circle = f'<circle class="dot {colour}" cx="{x(dim)}" cy="{y(curve[dim])}" r="3.5">'
            parts.append(f"{circle}<title>{said}</title></circle>")
    return _svg(width, height, title, parts, "chart")


def _svg(
    width: float, height: float, label: str, parts: Sequence[str], name: str
) -> str:
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _nice_top(value: float) -> float:
    """A round number above the value for an axis to end at."""
    return next(
        (top for top in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0) if value <= top),
        1.0,
    )


def _spread(dims: Sequence[int], x: Callable[[int], float]) -> list[int]:
    """The ticks that stand apart enough to be read."""
    kept: list[int] = []
    for dim in reversed(dims):
        if not kept or x(kept[-1]) - x(dim) >= 28:
            kept.append(dim)
    return kept[::-1]
