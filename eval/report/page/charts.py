"""The charts of the page, in the coordinates of their SVG: a score between chance and 1, and a
score over the number of dimensions. `charts.html.j2` draws them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ...scoring.score_row import ScoreRow
from ..layout import format_number

NUM_COLOURS = 6  # classes m0 ... m5 of the style sheet; more models start again
PLOT_WIDTH = 168
CHART_WIDTH = 340
CHART_HEIGHT = 210
LEFT = 40
RIGHT = 14
TOP = 14
BOTTOM = 30
MIN_TICK_DISTANCE = 28
ROUND_TOPS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Dot:
    """A model's score; low and high are the ends of its interval, None without one."""

    colour: int
    x: float
    y: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ScorePlot:
    """A line from 0 to 1: a tick for chance, a diamond for BM25, a dot for each model."""

    label: str
    width: int
    height: int
    middle: float
    left: float
    right: float
    chance: float | None
    baseline: float | None
    dots: Sequence[Dot]


@dataclass(frozen=True)
class GridLine:
    """A horizontal line with its value."""

    y: float
    value: float


@dataclass(frozen=True)
class Tick:
    """A number of dimensions on the axis."""

    x: float
    dim: int


@dataclass(frozen=True)
class CurvePoint:
    """A score at a number of dimensions, with the text for a reader who points at it."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Curve:
    """The points of one model, from few to many dimensions."""

    colour: int
    points: Sequence[CurvePoint]


@dataclass(frozen=True)
class DimsChart:
    """A score over the number of dimensions, on a logarithmic axis; one curve per model."""

    label: str
    width: int
    height: int
    left: int
    right: int
    grid: Sequence[GridLine]
    ticks: Sequence[Tick]
    curves: Sequence[Curve]


def score_plot(cells: Mapping[str, ScoreRow], models: Sequence[str]) -> ScorePlot:
    """Place the scores of one task and metric. cells: model -> row."""
    lowest = 0.0
    for known in cells.values():
        ends = (known.value, known.low, known.baseline)
        lowest = min(lowest, *(end or 0.0 for end in ends))

    def x(value: float) -> float:
        share = (min(value, 1.0) - lowest) / (1 - lowest)
        return round(4 + (PLOT_WIDTH - 8) * share, 1)

    def x_or_none(value: float | None) -> float | None:
        return None if value is None else x(value)

    dots = []
    for place, name in enumerate(models):
        row = cells.get(name)
        if row is None or row.value is None:
            continue
        has_interval = row.low is not None and row.high is not None
        dot = Dot(
            colour=place % NUM_COLOURS,
            x=x(row.value),
            y=8 + 8 * place,
            low=x_or_none(row.low) if has_interval else None,
            high=x_or_none(row.high) if has_interval else None,
        )
        dots.append(dot)

    first = next(iter(cells.values()))
    height = 8 + 8 * len(models)
    return ScorePlot(
        label=_plot_label(cells, models, first),
        width=PLOT_WIDTH,
        height=height,
        middle=height / 2,
        left=x(lowest),
        right=x(1),
        chance=x_or_none(first.chance),
        baseline=x_or_none(first.baseline),
        dots=dots,
    )


def _plot_label(
    cells: Mapping[str, ScoreRow], models: Sequence[str], first: ScoreRow
) -> str:
    """What the plot shows, for a reader who does not see it."""
    parts = [
        f"{name or 'model'} {format_number(cells[name].value)}"
        for name in models
        if name in cells
    ]
    parts.append(f"chance {format_number(first.chance)}")
    parts.append(f"BM25 {format_number(first.baseline)}")
    return ", ".join(parts)


def dims_chart(label: str, scores: Mapping[str, Mapping[int, float]]) -> DimsChart:
    """Place the scores of one task and metric. scores: model -> dimensions -> score."""
    dims = sorted({dim for curve in scores.values() for dim in curve})
    values = [value for curve in scores.values() for value in curve.values()]
    highest = _round_top(max(values))
    lowest = min(0.0, *values)
    span = math.log2(dims[-1] / dims[0]) or 1.0

    def x(dim: int) -> float:
        share = math.log2(dim / dims[0]) / span
        return round(LEFT + (CHART_WIDTH - LEFT - RIGHT) * share, 1)

    def y(value: float) -> float:
        share = (highest - value) / (highest - lowest)
        return round(TOP + (CHART_HEIGHT - TOP - BOTTOM) * share, 1)

    grid = []
    for step in range(5):
        value = lowest + (highest - lowest) * step / 4
        grid.append(GridLine(y(value), value))

    curves = []
    for place, (name, curve) in enumerate(scores.items()):
        points = []
        for dim in sorted(curve):
            text = f"{name or 'model'}: {curve[dim]:.3f} at {dim} dimensions"
            points.append(CurvePoint(x(dim), y(curve[dim]), text))
        curves.append(Curve(place % NUM_COLOURS, points))

    return DimsChart(
        label=label,
        width=CHART_WIDTH,
        height=CHART_HEIGHT,
        left=LEFT,
        right=RIGHT,
        grid=grid,
        ticks=[Tick(x(dim), dim) for dim in _legible(dims, x)],
        curves=curves,
    )


def _round_top(value: float) -> float:
    """A round number above the value, for the axis to end at."""
    for top in ROUND_TOPS:
        if value <= top:
            return top
    return 1.0


def _legible(dims: Sequence[int], x: Callable[[int], float]) -> list[int]:
    """The ticks that stand far enough apart to be read."""
    kept: list[int] = []
    for dim in reversed(dims):
        if not kept or x(kept[-1]) - x(dim) >= MIN_TICK_DISTANCE:
            kept.append(dim)
    return kept[::-1]
