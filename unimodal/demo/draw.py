"""Draw one product: its parts in its colour and pattern, lit by its material, in a scene.

Everything is a function of the look (which carries a seed) and in units of the canvas, so that the
same product can be drawn small for a model and large for a reader.
"""

import colorsys
import math
import random
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from .household import HOUSEHOLD
from .patterns import mix, print_pattern
from .pen import Point
from .scenes import draw_scene
from .shapes import Patch
from .wardrobe import WARDROBE
from .words import COLOURS, Rgb

Floats = npt.NDArray[np.float32]
WHITE: Rgb = (255, 255, 255)
SHADOW: Rgb = (58, 50, 56)


class Look(NamedTuple):
    """All that determines an image; `seed` places, turns and lights the product."""

    kind: str
    colour: str
    pattern: str
    material: str
    background: str
    seed: int


class Surface(NamedTuple):
    """How a material reflects light."""

    texture: str
    depth: float  # how strongly the texture shows
    gloss: float  # of the highlight
    bands: float = 0.0  # of the mirror bands of metal and the sheen of silk
    clear: float = 0.0  # how much of the scene shines through


SURFACES: dict[str, Surface] = {
    "ceramic": Surface("smooth", 0.0, 0.95),
    "metal": Surface("brushed", 0.03, 0.6, bands=0.17),
    "glass": Surface("smooth", 0.0, 1.0, clear=0.2),
    "plastic": Surface("smooth", 0.0, 0.45),
    "wood": Surface("grain", 0.12, 0.25),
    "leather": Surface("pebbles", 0.035, 0.45),
    "canvas": Surface("weave", 0.13, 0.0),
    "cotton": Surface("weave", 0.05, 0.0),
    "wool": Surface("knit", 0.15, 0.0),
    "silk": Surface("smooth", 0.0, 0.3, bands=0.1),
    "velvet": Surface("pebbles", 0.04, 0.0, bands=0.09),
    "nylon": Surface("weave", 0.03, 0.3),
    "paper": Surface("pebbles", 0.02, 0.0),
}

SHAPES = {**HOUSEHOLD, **WARDROBE}
# Products that lie flat or hang; all others stand and have a shadow on the floor.
FLAT = {
    "cushion",
    "dress",
    "guitar",
    "kite",
    "mitten",
    "notebook",
    "plate",
    "sock",
    "sweater",
    "t-shirt",
    "tie",
    "umbrella",
}

FIXED_PAINTS: dict[str, Rgb] = {
    "metal": (176, 181, 190),
    "wood": (168, 124, 84),
    "cream": (246, 241, 230),
    "dark": (54, 52, 56),
}


def draw_product(look: Look, size: int) -> Image.Image:
    """An RGB image of `size` x `size` pixels."""
    rng = random.Random(look.seed)
    # Pillow's polygons have hard edges: draw larger, then average
    canvas = size * (3 if size <= 128 else 2)
    scene = draw_scene(look.background, canvas, rng)
    paint = _varied(COLOURS[look.colour].paint, rng)
    parts = _placed(SHAPES[look.kind](), rng)
    sheet = print_pattern(look.pattern, look.colour, paint, canvas, rng)
    product, mask = _painted(parts, sheet, paint, canvas)
    lit = _lit(product, mask, SURFACES[look.material], rng)
    shaded = _shadowed(scene, mask, look.kind not in FLAT)
    clear = SURFACES[look.material].clear
    if clear:
        lit = Image.blend(lit, shaded, clear)
    shaded.paste(lit, (0, 0), mask)
    return shaded.reduce(canvas // size)


def _varied(paint: Rgb, rng: random.Random) -> Rgb:
    """The colour by another camera: a little lighter or darker, a little off in hue."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in paint))
    hue = (hue + rng.uniform(-0.008, 0.008)) % 1
    saturation = min(1.0, saturation * rng.uniform(0.94, 1.06))
    value = min(1.0, value * rng.uniform(0.95, 1.05))
    channels = colorsys.hsv_to_rgb(hue, saturation, value)
    red, green, blue = (round(255 * channel) for channel in channels)
    return red, green, blue


def _placed(parts: list[Patch], rng: random.Random) -> list[Patch]:
    """Turned by a few degrees, scaled, moved, and mirrored half of the time."""
    angle = math.radians(rng.uniform(-5, 5))
    scale = rng.uniform(0.88, 0.98)
    right = rng.uniform(-4, 4)
    down = rng.uniform(-2, 3)
    cos = math.cos(angle) * scale
    sin = math.sin(angle) * scale
    flip = rng.choice((-1, 1))

    def place(point: Point) -> Point:
        x = (point[0] - 50) * flip
        y = point[1] - 50
        return (
            50 + right + cos * x - sin * y,
            50 + down + sin * x + cos * y,
        )

    placed = []
    for part in parts:
        points = [place(point) for point in part.points]
        placed.append(Patch(part.paint, points, part.width * scale))
    return placed


def _paints(paint: Rgb) -> dict[str, Rgb]:
    """The paint of every kind of part but the body, for a product of this paint."""
    is_dark = sum(paint) <= 150
    trim = mix(paint, WHITE, 0.14) if is_dark else mix(paint, (20, 16, 24), 0.2)
    seam = mix(paint, WHITE, 0.3) if is_dark else mix(paint, (10, 8, 14), 0.5)
    inside = mix(paint, (24, 18, 22), 0.55)
    return {
        **FIXED_PAINTS,
        "trim": trim,
        "seam": seam,
        "inside": inside,
    }


def _painted(
    parts: list[Patch], sheet: Image.Image, paint: Rgb, canvas: int
) -> tuple[Image.Image, Image.Image]:
    """The flat product and its mask."""
    unit = canvas / 100
    paints = _paints(paint)
    product = Image.new("RGB", (canvas, canvas), paint)
    mask = Image.new("L", (canvas, canvas), 0)
    on_product = ImageDraw.Draw(product)
    on_mask = ImageDraw.Draw(mask)
    for part in parts:
        points = [(x * unit, y * unit) for x, y in part.points]
        if part.paint == "body":
            stencil = Image.new("L", (canvas, canvas), 0)
            ImageDraw.Draw(stencil).polygon(points, 255)
            product.paste(sheet, (0, 0), stencil)
            on_mask.polygon(points, 255)
        elif part.width:
            width = max(1, round(part.width * unit))
            _stroke(on_product, points, paints[part.paint], width)
            _stroke(on_mask, points, 255, width)
        else:
            on_product.polygon(points, paints[part.paint])
            on_mask.polygon(points, 255)
    return product, mask


def _stroke(
    draw: ImageDraw.ImageDraw,
    points: list[Point],
    ink: Rgb | int,
    width: int,
) -> None:
    """A line with round ends."""
    draw.line(points, ink, width, joint="curve")
    if width <= 2:
        return
    half = width / 2
    for x, y in (points[0], points[-1]):
        draw.ellipse((x - half, y - half, x + half, y + half), ink)


def _lit(
    product: Image.Image,
    mask: Image.Image,
    surface: Surface,
    rng: random.Random,
) -> Image.Image:
    """Light from the upper left: round edges, the material's texture, and its highlights."""
    size = product.width
    coarse = size // 4
    body = mask.resize((coarse, coarse), Image.Resampling.BOX)
    height = _shares(body.filter(ImageFilter.GaussianBlur(coarse * 0.045)))
    step = max(1, round(coarse * 0.03))
    towards = np.roll(height, (-step, -step), (0, 1))
    away = np.roll(height, (step, step), (0, 1))
    slope = towards - away  # > 0 where it faces the light

    light = 0.99 + 0.3 * slope - 0.16 * (1 - height)
    if surface.bands:
        light += surface.bands * _bands(coarse, rng)
    shine = np.clip(slope - 0.12, 0, 1) * surface.gloss * 0.55
    if surface.gloss:
        streak = surface.gloss * 0.42 * _streak(mask, coarse, rng)
        shine += streak * np.clip(height * 2 - 1, 0, 1)

    texture = 1 + surface.depth * _texture(surface.texture, size)
    fine = _enlarged(light, size) * 2 * texture
    pixels = np.asarray(product, np.float32) * fine[:, :, None]
    if surface.gloss:
        pixels += (255 - pixels) * _enlarged(shine * 2, size)[:, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _shares(image: Image.Image) -> Floats:
    """The levels of a grey image, between 0 and 1."""
    return np.asarray(image, np.float32) / np.float32(255)


def _enlarged(field: Floats, size: int) -> Floats:
    """A coarse field of values between 0 and 2, smoothly enlarged and halved."""
    levels = Image.fromarray(np.clip(field * 127.5, 0, 255).astype(np.uint8))
    return _shares(levels.resize((size, size), Image.Resampling.BILINEAR))


def _bands(size: int, rng: random.Random) -> Floats:
    """Soft slanting reflections."""
    across = np.linspace(0, 1, size, dtype=np.float32)
    slant = across[None, :] + 0.35 * across[:, None]
    phase = slant * rng.uniform(2.6, 3.4) + rng.random()
    return np.cos(2 * np.pi * phase).astype(np.float32)


def _streak(mask: Image.Image, size: int, rng: random.Random) -> Floats:
    """The long reflection of a window, a quarter of the way in from the left."""
    left, top, right, bottom = mask.getbbox() or (
        0,
        0,
        mask.width,
        mask.height,
    )
    scale = size / mask.width
    width = (right - left) * scale
    tall = (bottom - top) * scale
    x = left * scale + width * rng.uniform(0.24, 0.32)
    y = top * scale + tall * 0.2
    points = [
        (x, y),
        (x + width * 0.1, y),
        (x + width * 0.07, y + tall * 0.45),
        (x + width * 0.01, y + tall * 0.45),
    ]
    streak = Image.new("L", (size, size), 0)
    ImageDraw.Draw(streak).polygon(points, 255)
    return _shares(streak.filter(ImageFilter.GaussianBlur(size * 0.018)))


@lru_cache(maxsize=16)
def _texture(name: str, size: int) -> Floats:
    """A field between about -1 and 1.

    Its noise is made at one size, so that a larger image has the same grain.
    """
    across = np.arange(size, dtype=np.float32)[None, :] * (100 / size)
    down = np.arange(size, dtype=np.float32)[:, None] * (100 / size)
    if name == "weave":
        field = np.sin(across * 4.2) * np.sin(down * 4.2)
    elif name == "knit":
        stitches = np.sin((across - np.abs((down % 4) - 2) * 0.9) * 1.9)
        field = stitches * 0.6 + np.sin(down * 3.14) * 0.4
    elif name == "brushed":
        field = _noise(1, 200, size)
    elif name == "grain":
        rings = np.sin(down * 0.9 + 5 * _noise(6, 10, size))
        field = rings * 0.6 + _noise(3, 120, size) * 0.6
    elif name == "pebbles":
        field = _noise(110, 110, size)
    else:
        field = np.zeros((size, size))
    return np.broadcast_to(field, (size, size)).astype(np.float32)


def _noise(across: int, down: int, size: int) -> Floats:
    rng = np.random.default_rng(across * 1000 + down)
    levels = rng.normal(0, 60, (down, across)) + 128
    cells = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    smooth = cells.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(smooth, np.float32) / np.float32(64) - np.float32(2)


def _shadowed(scene: Image.Image, mask: Image.Image, is_standing: bool) -> Image.Image:
    """The scene with the product's soft shadow to the lower right, and on the floor if it
    stands.
    """
    coarse = scene.width // 4
    weak = [level * 2 // 5 for level in range(256)]
    small = mask.resize((coarse, coarse), Image.Resampling.BOX).point(weak)
    shadow = Image.new("L", (coarse, coarse), 0)
    shadow.paste(small, (round(coarse * 0.02), round(coarse * 0.025)))
    if is_standing:
        edges = mask.getbbox() or (0, 0, 1, 1)
        left, _, right, bottom = (edge * coarse / mask.width for edge in edges)
        floor = (
            left,
            bottom - coarse * 0.05,
            right + coarse * 0.05,
            bottom + coarse * 0.035,
        )
        ImageDraw.Draw(shadow).ellipse(floor, 130)
    soft = shadow.filter(ImageFilter.GaussianBlur(coarse * 0.022))
    soft = soft.resize(scene.size, Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", scene.size, SHADOW), scene, soft)
