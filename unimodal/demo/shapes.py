"""What the demo's products are composed of: outlines on a canvas of 100 x 100, with the floor at
about y = 86.

A product is a list of parts, painted in order. A part is a filled outline or a stroke of some
width, and has a paint: "body" (the product's colour and pattern), "trim" and "inside" (a lighter or
darker shade of its colour, without the pattern), "seam" (a thin dark line), or a paint that does
not depend on the product ("metal", "wood", "cream", "dark").
"""

import math
from typing import NamedTuple

Point = tuple[float, float]


class Part(NamedTuple):
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
    """Points of an arc, clockwise from the right; `across` and `down` are radii,
    angles in degrees.
    """
    steps = max(8, int(abs(stop - start) / 7.5))
    angles = [
        math.radians(start + (stop - start) * step / steps) for step in range(steps + 1)
    ]
    return [
        (x + across * math.cos(angle), y + down * math.sin(angle)) for angle in angles
    ]


def rounded(corners: list[Point], radius: float) -> list[Point]:
    """A polygon whose corners are cut by quadratic curves that begin `radius`
    before each corner.
    """
    points: list[Point] = []
    for index, corner in enumerate(corners):
        before = corners[index - 1]
        after = corners[(index + 1) % len(corners)]
        entry = _towards(corner, before, radius)
        leave = _towards(corner, after, radius)
        for step in range(7):
            t = step / 6
            weights = ((1 - t) ** 2, 2 * t * (1 - t), t**2)
            points.append(
                (
                    weights[0] * entry[0]
                    + weights[1] * corner[0]
                    + weights[2] * leave[0],
                    weights[0] * entry[1]
                    + weights[1] * corner[1]
                    + weights[2] * leave[1],
                )
            )
    return points


def _towards(start: Point, goal: Point, distance: float) -> Point:
    length = math.hypot(goal[0] - start[0], goal[1] - start[1])
    share = min(distance, length / 2) / max(length, 1e-6)
    return start[0] + (goal[0] - start[0]) * share, start[1] + (
        goal[1] - start[1]
    ) * share


def smooth(knots: list[Point], closed: bool = True) -> list[Point]:
    """A Catmull-Rom curve through the knots."""
    count = len(knots)
    points: list[Point] = []
    for index in range(count if closed else count - 1):
        if closed:
            p0, p1, p2, p3 = (
                knots[(index + offset) % count] for offset in (-1, 0, 1, 2)
            )
        else:
            p0, p1, p2, p3 = (
                knots[min(max(index + offset, 0), count - 1)]
                for offset in (-1, 0, 1, 2)
            )
        points += [
            (
                _spline(p0[0], p1[0], p2[0], p3[0], t / 8),
                _spline(p0[1], p1[1], p2[1], p3[1], t / 8),
            )
            for t in range(8)
        ]
    return points if closed else [*points, knots[-1]]


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (
        2 * b
        + (c - a) * t
        + (2 * a - 5 * b + 4 * c - d) * t**2
        + (3 * b - a - 3 * c + d) * t**3
    )


def box(
    left: float, top: float, right: float, bottom: float, radius: float = 2.0
) -> list[Point]:
    """A rectangle with rounded corners."""
    return rounded([(left, top), (right, top), (right, bottom), (left, bottom)], radius)


def turned(parts: list[Part], degrees: float) -> list[Part]:
    """The same parts, turned clockwise about the middle of the canvas."""
    cos = math.cos(math.radians(degrees))
    sin = math.sin(math.radians(degrees))
    return [
        part._replace(
            points=[
                (
                    50 + cos * (x - 50) - sin * (y - 50),
                    50 + sin * (x - 50) + cos * (y - 50),
                )
                for x, y in part.points
            ]
        )
        for part in parts
    ]
