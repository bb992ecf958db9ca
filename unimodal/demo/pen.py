"""Draw in hundredths of an image's width, so that a drawing looks the same at any size."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from .words import Rgb

Point = tuple[float, float]


class Pen:
    """Draws on an image; all lengths are in hundredths of its width."""

    def __init__(self, image: Image.Image) -> None:
        self.unit = image.width / 100
        self._draw = ImageDraw.Draw(image)

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, ink: Rgb
    ) -> None:
        """Fill a rectangle."""
        self._draw.rectangle(self._box(left, top, right, bottom), ink)

    def ellipse(
        self, left: float, top: float, right: float, bottom: float, ink: Rgb
    ) -> None:
        """Fill the ellipse of a box."""
        self._draw.ellipse(self._box(left, top, right, bottom), ink)

    def polygon(self, points: Sequence[Point], ink: Rgb) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._scale(points), ink)

    def line(self, points: Sequence[Point], ink: Rgb, width: float = 0.0) -> None:
        """Draw a line, at least a pixel wide."""
        self._draw.line(self._scale(points), ink, max(1, round(width * self.unit)))

    def _scale(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self.unit, y * self.unit) for x, y in points]

    def _box(
        self, left: float, top: float, right: float, bottom: float
    ) -> tuple[float, float, float, float]:
        return (
            left * self.unit,
            top * self.unit,
            right * self.unit,
            bottom * self.unit,
        )
