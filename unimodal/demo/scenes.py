"""Where the products stand: pale backgrounds, so that no scene looks like a product's colour."""

import itertools
import random
from collections.abc import Callable

from PIL import Image

from .pen import Pen, Point
from .words import Rgb

HORIZON = 64  # where wall and floor meet, in hundredths of the canvas
EDGE = 100  # the right and the lower edge


def draw_scene(scene: str, size: int, rng: random.Random) -> Image.Image:
    """An RGB background of `size` x `size` pixels."""
    return SCENERY[scene](size, rng)


def studio(size: int, rng: random.Random) -> Image.Image:
    """A seamless paper backdrop, lit from above; cool or warm."""
    tints = [
        (218, 222, 228),
        (228, 221, 212),
        (214, 222, 218),
        (226, 216, 220),
    ]
    tint = rng.choice(tints)
    return _gradient(size, _tinted(tint, 1.07), _tinted(tint, 0.86))


def table(size: int, rng: random.Random) -> Image.Image:
    """A wall above, planks below."""
    image = _gradient(size, (226, 223, 216), (206, 202, 196))
    pen = Pen(image)
    shade = rng.uniform(0.94, 1.06)
    planks = [
        (196, 168, 134),
        (188, 160, 127),
        (202, 175, 142),
        (192, 163, 129),
    ]
    gap = _tinted((150, 122, 94), shade)
    grain = _tinted((176, 148, 116), shade)
    edges = itertools.pairwise([HORIZON, 70, 78, 88, 101])
    for plank, (top, bottom) in zip(planks, edges, strict=True):
        pen.rectangle(0, top, EDGE, bottom, _tinted(plank, shade))
        pen.line([(0, top), (EDGE, top)], gap, 0.7)
        for _ in range(3):
            x = rng.uniform(0, 80)
            y = rng.uniform(top + 1.5, bottom - 1)
            pen.line([(x, y), (x + 20, y)], grain, 0.5)
    return image


def bricks(size: int, rng: random.Random) -> Image.Image:
    """Whitewashed bricks over a pale floor."""
    image = Image.new("RGB", (size, size), (222, 214, 206))
    pen = Pen(image)
    offset = rng.uniform(0, 20)
    for row in range(9):
        for column in range(-1, 6):
            x = offset + column * 20 - 10 * (row % 2)
            y = row * 8.5
            brick = _tinted((206, 190, 180), rng.uniform(0.95, 1.04))
            pen.rectangle(x, y, x + 19, y + 7.5, brick)
    pen.rectangle(0, 76, EDGE, EDGE, (196, 190, 184))
    return image


def meadow(size: int, rng: random.Random) -> Image.Image:
    """A pale sky over grass in two tones."""
    image = _gradient(size, (214, 226, 232), (234, 236, 226))
    pen = Pen(image)
    top = HORIZON + rng.uniform(-6, 4)
    pen.ellipse(-40, top - 6, 90, 150, (188, 204, 170))
    pen.rectangle(0, top, EDGE, EDGE, (174, 194, 154))
    for _ in range(26):
        x = rng.uniform(0, 100)
        y = rng.uniform(top + 4, 100)
        tip = x + rng.uniform(-2, 2)
        pen.line([(x, y), (tip, y - 5)], (156, 180, 136), 0.7)
    return image


def beach(size: int, rng: random.Random) -> Image.Image:
    """Sky, a strip of sea, sand."""
    image = _gradient(size, (216, 228, 236), (236, 238, 236))
    pen = Pen(image)
    sea = HORIZON - rng.uniform(12, 18)
    pen.rectangle(0, sea, EDGE, EDGE, (172, 200, 208))
    pen.rectangle(0, sea + 6, EDGE, EDGE, (190, 212, 216))
    pen.rectangle(0, sea + 12, EDGE, EDGE, (228, 232, 228))
    pen.rectangle(0, sea + 14, EDGE, EDGE, (226, 210, 182))
    for _ in range(30):
        x = rng.uniform(0, 100)
        y = rng.uniform(sea + 17, 100)
        pen.ellipse(x, y, x + 1, y + 0.7, (206, 188, 158))
    return image


def tiles(size: int, rng: random.Random) -> Image.Image:
    """A tiled wall over a worktop."""
    tint = rng.choice([(216, 222, 222), (222, 220, 212), (212, 218, 224)])
    image = Image.new("RGB", (size, size), _tinted(tint, 0.92))
    pen = Pen(image)
    left = rng.uniform(-18, 0)
    for row in range(5):
        for column in range(7):
            x = left + column * 18
            y = row * 18 - 8
            tile = _tinted(tint, rng.uniform(0.98, 1.03))
            pen.rectangle(x, y, x + 17, y + 17, tile)
    pen.rectangle(0, 76, EDGE, EDGE, (200, 192, 182))
    pen.rectangle(0, 76, EDGE, 78, (182, 173, 162))
    return image


def linen(size: int, rng: random.Random) -> Image.Image:
    """A cloth with a fine weave and a few folds, seen from above."""
    image = _gradient(size, (224, 218, 208), (212, 205, 194))
    pen = Pen(image)
    for step in range(0, 100, 2):
        pen.line([(step, 0), (step, EDGE)], (216, 209, 199))
        pen.line([(0, step), (EDGE, step)], (210, 203, 192))
    for _ in range(3):
        x = rng.uniform(-20, 110)
        pen.line([(x, 0), (x + 24, EDGE)], (200, 192, 181), 1.6)
        pen.line([(x + 1.6, 0), (x + 25.6, EDGE)], (230, 225, 216), 1.4)
    return image


def window(size: int, rng: random.Random) -> Image.Image:
    """Slanting light through the panes onto a wall, and a sill."""
    image = _gradient(size, (214, 210, 206), (202, 197, 192))
    pen = Pen(image)
    left = rng.uniform(4, 34)
    for row in range(2):
        for column in range(2):
            x = left + column * 27 + row * 7
            y = 4 + row * 34
            pane = [
                (x, y),
                (x + 24, y),
                (x + 30, y + 31),
                (x + 6, y + 31),
            ]
            pen.polygon(pane, (244, 237, 214))
    pen.rectangle(0, 77, EDGE, EDGE, (224, 219, 210))
    pen.rectangle(0, 77, EDGE, 79, (238, 234, 226))
    return image


def marble(size: int, rng: random.Random) -> Image.Image:
    """A plain wall over a slab with grey veins."""
    image = _gradient(size, (208, 212, 214), (220, 222, 222))
    pen = Pen(image)
    pen.rectangle(0, HORIZON, EDGE, EDGE, (228, 228, 228))
    for _ in range(5):
        pen.line(_vein(rng), (202, 204, 208), 0.8)
    pen.line([(0, HORIZON), (EDGE, HORIZON)], (186, 188, 190), 1)
    return image


def _vein(rng: random.Random) -> list[Point]:
    """A line that wanders to the right, and not above the slab."""
    x = rng.uniform(-10, 90)
    y = rng.uniform(HORIZON + 2, 96)
    points = [(x, max(y, HORIZON))]
    for _ in range(4):
        x += rng.uniform(5, 12)
        y += rng.uniform(-5, 5)
        points.append((x, max(y, HORIZON)))
    return points


def _gradient(size: int, top: Rgb, bottom: Rgb) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((1, size)).resize((size, size))
    above = Image.new("RGB", (size, size), top)
    below = Image.new("RGB", (size, size), bottom)
    return Image.composite(below, above, ramp)


def _tinted(colour: Rgb, level: float) -> Rgb:
    red, green, blue = (min(255, round(channel * level)) for channel in colour)
    return red, green, blue


SCENERY: dict[str, Callable[[int, random.Random], Image.Image]] = {
    "studio": studio,
    "table": table,
    "bricks": bricks,
    "meadow": meadow,
    "beach": beach,
    "tiles": tiles,
    "linen": linen,
    "window": window,
    "marble": marble,
}
