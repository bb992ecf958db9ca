"""What is printed on a product: a sheet of one pattern, later cut out by the product's outline.

Lengths are in hundredths of the canvas, so that a product looks the same at any size.
"""

import math
import random
from collections.abc import Callable, Iterator

from PIL import Image

from .pen import Pen, Point
from .words import COLOURS, Rgb

GOLD: Rgb = (255, 206, 64)
AMBER: Rgb = (198, 110, 10)
DARK_GOLD: Rgb = (222, 160, 20)


def print_pattern(
    pattern: str, colour: str, paint: Rgb, size: int, rng: random.Random
) -> Image.Image:
    """A square RGB sheet of `size` pixels in `paint`, printed with the ink of the colour."""
    sheet = Image.new("RGB", (size, size), paint)
    if pattern != "plain":
        PRINTERS[pattern](sheet, colour, paint, rng)
    return sheet


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """`a` with a `share` of `b`."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def stripes(sheet: Image.Image, colour: str, paint: Rgb, rng: random.Random) -> None:
    """Broad bars, a few degrees off the horizontal."""
    pen = Pen(sheet)
    lean = rng.uniform(-0.1, 0.1)
    start = rng.uniform(0, 16.5)
    for row in range(-2, 8):
        left = start + 16.5 * row
        right = left + 100 * lean
        bar = [
            (0, left),
            (100, right),
            (100, right + 7.2),
            (0, left + 7.2),
        ]
        pen.polygon(bar, COLOURS[colour].ink)


def checks(sheet: Image.Image, colour: str, paint: Rgb, rng: random.Random) -> None:
    """Gingham: bars of half-strength ink both ways, full ink where they cross."""
    pen = Pen(sheet)
    ink = COLOURS[colour].ink
    pitch = 18.0
    bar = 9.0
    left = rng.uniform(-pitch, 0)
    top = rng.uniform(-pitch, 0)
    starts = [pitch * step for step in range(7)]
    half = mix(paint, ink, 0.5)
    for start in starts:
        pen.rectangle(left + start, 0, left + start + bar, 100, half)
        pen.rectangle(0, top + start, 100, top + start + bar, half)
    for x in starts:
        for y in starts:
            pen.rectangle(left + x, top + y, left + x + bar, top + y + bar, ink)


def dots(sheet: Image.Image, colour: str, paint: Rgb, rng: random.Random) -> None:
    """Round dots in staggered rows."""
    pen = Pen(sheet)
    for x, y in _staggered(15.5, rng):
        pen.ellipse(x - 4.5, y - 4.5, x + 4.5, y + 4.5, COLOURS[colour].ink)


def zigzags(sheet: Image.Image, colour: str, paint: Rgb, rng: random.Random) -> None:
    """Chevrons: rows of sharp waves."""
    pen = Pen(sheet)
    left = rng.uniform(-18, 0)
    top = rng.uniform(-28, -10)
    for row in range(8):
        y = top + 18 * row
        crest = [(left + 9 * step, y + 11 * (step % 2)) for step in range(14)]
        trough = [(x, edge + 7.5) for x, edge in reversed(crest)]
        pen.polygon(crest + trough, COLOURS[colour].ink)


def flowers(sheet: Image.Image, colour: str, paint: Rgb, rng: random.Random) -> None:
    """Five-petalled flowers with a warm heart, each with two leaves in a shade of the ground."""
    pen = Pen(sheet)
    heart: Rgb = (232, 120, 40) if colour == "yellow" else (246, 190, 50)
    leaf: Rgb = (96, 130, 92)
    if colour != "black":
        leaf = mix(paint, (30, 60, 34), 0.45)
    for x, y in _staggered(25, rng):
        turn = rng.uniform(0, 72)
        for side in (-1, 1):
            leaf_x = x + side * 9.5
            leaf_y = y + 6.5
            pen.ellipse(leaf_x - 4, leaf_y - 2.2, leaf_x + 4, leaf_y + 2.2, leaf)
        for petal in range(5):
            angle = math.radians(turn + 72 * petal)
            petal_x = x + 5 * math.cos(angle)
            petal_y = y + 5 * math.sin(angle)
            pen.ellipse(
                petal_x - 3.8,
                petal_y - 3.8,
                petal_x + 3.8,
                petal_y + 3.8,
                COLOURS[colour].ink,
            )
        pen.ellipse(x - 3.2, y - 3.2, x + 3.2, y + 3.2, heart)


def stars(sheet: Image.Image, colour: str, paint: Rgb, rng: random.Random) -> None:
    """Golden five-pointed stars, each turned its own way; darker where gold would not show."""
    pen = Pen(sheet)
    inks = {"yellow": AMBER, "white": DARK_GOLD}
    for x, y in _staggered(21, rng):
        turn = rng.uniform(0, 72)
        tips: list[Point] = []
        for step in range(10):
            angle = math.radians(turn + 36 * step)
            reach = 7.6 if step % 2 == 0 else 3.3
            tips.append(
                (
                    x + reach * math.cos(angle),
                    y + reach * math.sin(angle),
                )
            )
        pen.polygon(tips, inks.get(colour, GOLD))


def fade(sheet: Image.Image, colour: str, paint: Rgb, rng: random.Random) -> None:
    """Full colour at the top that runs out into the ink at the bottom."""
    ramp = Image.linear_gradient("L").resize(sheet.size)
    low = rng.uniform(0.22, 0.3)
    high = rng.uniform(0.72, 0.8)
    levels = []
    for level in range(256):
        share = (level / 255 - low) / (high - low)
        levels.append(round(255 * min(max(share, 0), 1)))
    ink = Image.new("RGB", sheet.size, COLOURS[colour].ink)
    sheet.paste(ink, (0, 0), ramp.point(levels))


def _staggered(pitch: float, rng: random.Random) -> Iterator[Point]:
    """Every second row is moved by half a pitch; the grid itself begins anywhere."""
    left = rng.uniform(-pitch, 0)
    top = rng.uniform(-pitch, 0)
    rows = int(100 / (pitch * 0.82)) + 3
    columns = int(100 / pitch) + 3
    for row in range(rows):
        for column in range(columns):
            shift = 0.5 * (row % 2)
            yield (
                left + pitch * (column - shift),
                top + pitch * 0.82 * row,
            )


PRINTERS: dict[str, Callable[[Image.Image, str, Rgb, random.Random], None]] = {
    "striped": stripes,
    "checked": checks,
    "dotted": dots,
    "zigzag": zigzags,
    "floral": flowers,
    "starry": stars,
    "ombre": fade,
}
