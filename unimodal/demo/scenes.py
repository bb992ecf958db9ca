"""Where the products stand: pale, muted backgrounds, so that no scene takes the part of a product's
colour.
"""

import itertools
import random
from collections.abc import Callable

from PIL import Image, ImageDraw

from .words import Rgb

HORIZON = 64  # where wall and floor meet, in hundredths of the canvas


def draw_scene(scene: str, size: int, rng: random.Random) -> Image.Image:
    """An RGB background of `size` x `size` pixels."""
    return SCENERY[scene](size, rng)


def studio(size: int, rng: random.Random) -> Image.Image:
    """A seamless paper backdrop, lit from above; cool or warm."""
    tint = rng.choice(
        [(218, 222, 228), (228, 221, 212), (214, 222, 218), (226, 216, 220)]
    )
    return _gradient(size, _tinted(tint, 1.07), _tinted(tint, 0.86))


def table(size: int, rng: random.Random) -> Image.Image:
    """A wall above, planks below."""
    image = _gradient(size, (226, 223, 216), (206, 202, 196))
    draw = ImageDraw.Draw(image)
    unit = size / 100
    shade = rng.uniform(0.94, 1.06)
    planks = [(196, 168, 134), (188, 160, 127), (202, 175, 142), (192, 163, 129)]
    edges = [HORIZON, 70, 78, 88, 101]
    for index, (top, bottom) in enumerate(itertools.pairwise(edges)):
        draw.rectangle(
            (0, top * unit, size, bottom * unit), _tinted(planks[index], shade)
        )
        draw.line(
            (0, top * unit, size, top * unit),
            _tinted((150, 122, 94), shade),
            max(1, round(unit * 0.7)),
        )
        for _ in range(3):
            x = rng.uniform(0, 80)
            y = rng.uniform(top + 1.5, bottom - 1)
            draw.line(
                (x * unit, y * unit, (x + 20) * unit, y * unit),
                _tinted((176, 148, 116), shade),
                max(1, round(unit * 0.5)),
            )
    return image


def bricks(size: int, rng: random.Random) -> Image.Image:
    """Whitewashed bricks over a pale floor."""
    image = Image.new("RGB", (size, size), (222, 214, 206))
    draw = ImageDraw.Draw(image)
    unit = size / 100
    offset = rng.uniform(0, 20)
    for row in range(9):
        for column in range(-1, 6):
            x = offset + column * 20 - 10 * (row % 2)
            y = row * 8.5
            level = rng.uniform(0.95, 1.04)
            draw.rectangle(
                (x * unit, y * unit, (x + 19) * unit, (y + 7.5) * unit),
                _tinted((206, 190, 180), level),
            )
    draw.rectangle((0, 76 * unit, size, size), (196, 190, 184))
    return image


def meadow(size: int, rng: random.Random) -> Image.Image:
    """A pale sky over grass in two tones."""
    image = _gradient(size, (214, 226, 232), (234, 236, 226))
    draw = ImageDraw.Draw(image)
    unit = size / 100
    top = HORIZON + rng.uniform(-6, 4)
    draw.ellipse((-40 * unit, (top - 6) * unit, 90 * unit, 150 * unit), (188, 204, 170))
    draw.rectangle((0, top * unit, size, size), (174, 194, 154))
    for _ in range(26):
        x = rng.uniform(0, 100)
        y = rng.uniform(top + 4, 100)
        draw.line(
            (x * unit, y * unit, (x + rng.uniform(-2, 2)) * unit, (y - 5) * unit),
            (156, 180, 136),
            max(1, round(unit * 0.7)),
        )
    return image


def beach(size: int, rng: random.Random) -> Image.Image:
    """Sky, a strip of sea, sand."""
    image = _gradient(size, (216, 228, 236), (236, 238, 236))
    draw = ImageDraw.Draw(image)
    unit = size / 100
    sea = HORIZON - rng.uniform(12, 18)
    draw.rectangle((0, sea * unit, size, size), (172, 200, 208))
    draw.rectangle((0, (sea + 6) * unit, size, size), (190, 212, 216))
    draw.rectangle((0, (sea + 12) * unit, size, size), (228, 232, 228))
    draw.rectangle((0, (sea + 14) * unit, size, size), (226, 210, 182))
    for _ in range(30):
        x = rng.uniform(0, 100) * unit
        y = rng.uniform(sea + 17, 100) * unit
        draw.ellipse((x, y, x + unit, y + unit * 0.7), (206, 188, 158))
    return image


def tiles(size: int, rng: random.Random) -> Image.Image:
    """A tiled wall over a worktop."""
    tint = rng.choice([(216, 222, 222), (222, 220, 212), (212, 218, 224)])
    image = Image.new("RGB", (size, size), _tinted(tint, 0.92))
    draw = ImageDraw.Draw(image)
    unit = size / 100
    left = rng.uniform(-18, 0)
    for row in range(5):
        for column in range(7):
            x = left + column * 18
            y = row * 18 - 8
            draw.rectangle(
                (x * unit, y * unit, (x + 17) * unit, (y + 17) * unit),
                _tinted(tint, rng.uniform(0.98, 1.03)),
            )
    draw.rectangle((0, 76 * unit, size, size), (200, 192, 182))
    draw.rectangle((0, 76 * unit, size, 78 * unit), (182, 173, 162))
    return image


def linen(size: int, rng: random.Random) -> Image.Image:
    """A cloth with a fine weave and a few folds, seen from above."""
    image = _gradient(size, (224, 218, 208), (212, 205, 194))
    draw = ImageDraw.Draw(image)
    unit = size / 100
    for step in range(0, 100, 2):
        draw.line((step * unit, 0, step * unit, size), (216, 209, 199))
        draw.line((0, step * unit, size, step * unit), (210, 203, 192))
    for _ in range(3):
        x = rng.uniform(-20, 110)
        draw.line(
            (x * unit, 0, (x + 24) * unit, size), (200, 192, 181), round(unit * 1.6)
        )
        draw.line(
            ((x + 1.6) * unit, 0, (x + 25.6) * unit, size),
            (230, 225, 216),
            round(unit * 1.4),
        )
    return image


def window(size: int, rng: random.Random) -> Image.Image:
    """Slanting light through the panes onto a wall, and a sill."""
    image = _gradient(size, (214, 210, 206), (202, 197, 192))
    draw = ImageDraw.Draw(image)
    unit = size / 100
    left = rng.uniform(4, 34)
    for row in range(2):
        for column in range(2):
            x = left + column * 27 + row * 7
            y = 4 + row * 34
            pane = [(x, y), (x + 24, y), (x + 30, y + 31), (x + 6, y + 31)]
            draw.polygon([(px * unit, py * unit) for px, py in pane], (244, 237, 214))
    draw.rectangle((0, 77 * unit, size, size), (224, 219, 210))
    draw.rectangle((0, 77 * unit, size, 79 * unit), (238, 234, 226))
    return image


def marble(size: int, rng: random.Random) -> Image.Image:
    """A plain wall over a slab with grey veins."""
    image = _gradient(size, (208, 212, 214), (220, 222, 222))
    draw = ImageDraw.Draw(image)
    unit = size / 100
    draw.rectangle((0, HORIZON * unit, size, size), (228, 228, 228))
    for _ in range(5):
        x = rng.uniform(-10, 90)
        y = rng.uniform(HORIZON + 2, 96)
        vein = [(x, y)]
        for _ in range(4):
            vein.append(
                (vein[-1][0] + rng.uniform(5, 12), vein[-1][1] + rng.uniform(-5, 5))
            )
        draw.line(
            [(px * unit, max(py, HORIZON) * unit) for px, py in vein],
            (202, 204, 208),
            max(1, round(unit * 0.8)),
        )
    draw.line(
        (0, HORIZON * unit, size, HORIZON * unit), (186, 188, 190), max(1, round(unit))
    )
    return image


def _gradient(size: int, top: Rgb, bottom: Rgb) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((1, size)).resize((size, size))
    return Image.composite(
        Image.new("RGB", (size, size), bottom),
        Image.new("RGB", (size, size), top),
        ramp,
    )


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
