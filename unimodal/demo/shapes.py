"""The outlines of which products are composed, on a canvas of 100 x 100 with the floor at y = 86.

A product is a list of parts, painted in order. A part is a filled outline or a stroke of some
width, and has a paint: "body" (the product's colour and pattern), "trim" and "inside" (a lighter or
darker shade of its colour, without the pattern), "seam" (a thin dark line), or a paint that does
not depend on the product ("metal", "wood", "cream", "dark").
"""

import math
from typing import NamedTuple

from .pen import Point


class Patch(NamedTuple):
    """One outline (width 0) or one stroke (width > 0)."""

    paint: str
    points: list[Point]
    width: float = 0.0


def ellipse(
    x: float,
    y: float,
    across: float,
    down: float,
    start: float = 0.0,
    stop: float = 360.0,
) -> list[Point]:
    """Points of an arc, clockwise from the right.

    across, down: radii. start, stop: angles in degrees.
    """
    steps = max(8, int(abs(stop - start) / 7.5))
    points = []
    for step in range(steps + 1):
        angle = math.radians(start + (stop - start) * step / steps)
        points.append((x + across * math.cos(angle), y + down * math.sin(angle)))
    return points


def rounded(corners: list[Point], radius: float) -> list[Point]:
    """A polygon whose corners are quadratic curves that begin `radius` before each corner."""
    points: list[Point] = []
    for index, corner in enumerate(corners):
        before = corners[index - 1]
        after = corners[(index + 1) % len(corners)]
        entry = _towards(corner, before, radius)
        leave = _towards(corner, after, radius)
        for step in range(7):
            t = step / 6
            x = _quadratic(entry[0], corner[0], leave[0], t)
            y = _quadratic(entry[1], corner[1], leave[1], t)
            points.append((x, y))
    return points


def _quadratic(a: float, b: float, c: float, t: float) -> float:
    return (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c


def _towards(start: Point, goal: Point, distance: float) -> Point:
    """A point on the way to the goal, at most half of the way."""
    across = goal[0] - start[0]
    down = goal[1] - start[1]
    length = math.hypot(across, down)
    share = min(distance, length / 2) / max(length, 1e-6)
    return start[0] + across * share, start[1] + down * share


def smooth(knots: list[Point], closed: bool = True) -> list[Point]:
    """A Catmull-Rom curve through the knots."""
    count = len(knots)
    points: list[Point] = []
    for index in range(count if closed else count - 1):
        around = [
            _knot(knots, index + offset, closed=closed) for offset in (-1, 0, 1, 2)
        ]
        xs = [x for x, _ in around]
        ys = [y for _, y in around]
        for step in range(8):
            points.append((_spline(xs, step / 8), _spline(ys, step / 8)))
    return points if closed else [*points, knots[-1]]


def _knot(knots: list[Point], index: int, *, closed: bool) -> Point:
    """A knot; an open curve repeats its ends."""
    if closed:
        return knots[index % len(knots)]
    return knots[min(max(index, 0), len(knots) - 1)]


def _spline(values: list[float], t: float) -> float:
    """Between the second and the third of four values."""
    a, b, c, d = values
    linear = (c - a) * t
    square = (2 * a - 5 * b + 4 * c - d) * t**2
    cubic = (3 * b - a - 3 * c + d) * t**3
    return 0.5 * (2 * b + linear + square + cubic)


def box(
    left: float,
    top: float,
    right: float,
    bottom: float,
    radius: float = 2.0,
) -> list[Point]:
    """A rectangle with rounded corners."""
    return rounded(
        [(left, top), (right, top), (right, bottom), (left, bottom)],
        radius,
    )


def turned(parts: list[Patch], degrees: float) -> list[Patch]:
    """The same parts, turned clockwise about the middle of the canvas."""
    cos = math.cos(math.radians(degrees))
    sin = math.sin(math.radians(degrees))

    def turn(point: Point) -> Point:
        x = point[0] - 50
        y = point[1] - 50
        return 50 + cos * x - sin * y, 50 + sin * x + cos * y

    return [part._replace(points=list(map(turn, part.points))) for part in parts]
