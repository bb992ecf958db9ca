"""Images: decoding, transparency, and the resize to a tower's pixels.

Training, evaluation, indexing and serving use the same functions. Pixels travel as uint8 and
are normalised on the device (model.py), which moves a quarter of the bytes.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from ..model_config import PreprocessConfig
from .image_formats import FORMATS

# A header that claims more is refused before any pixel is decoded.
MAX_PIXELS = 40_000_000

_INTERPOLATION = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}
_NAMES = " or ".join(
    ", ".join({"WEBP": "WebP"}.get(name, name) for name in FORMATS).rsplit(", ", 1)
)


class UnusableImageError(ValueError):
    """An image that can be read but not used."""


class TooManyPixelsError(UnusableImageError):
    """An image with more pixels than the limit."""


def decode_image(
    source: bytes | Path | Image.Image,
    max_pixels: int = MAX_PIXELS,
    transparency: str = "white",
) -> Image.Image:
    """Decode an image as RGB, laid over white where it is transparent.

    max_pixels, transparency, raises: see `load_image` and `to_rgb`.
    """
    return to_rgb(load_image(source, max_pixels), transparency)


def load_image(
    source: bytes | Path | Image.Image,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] = FORMATS,
) -> Image.Image:
    """Decode an image completely, in its stored mode: its first frame, turned as its EXIF says.

    This alone decides what is an image, for training, evaluation, indexing, packing and serving.

    max_pixels: the limit of width x height.
    formats: the formats that a file may have, by Pillow's names.

    Raises ValueError for what is not an image, cannot be decoded to its end, has no pixels, has
    pixels without a known range (32-bit integers, floating point), or whose header claims more than
    `max_pixels`.
    """
    name = _name_of(source)
    if isinstance(source, Path) and not source.is_file():
        fault = "is not a file" if source.exists() else "does not exist"
        raise ValueError(f"image {name} {fault}; give the path of an image file.")
    try:
        if isinstance(source, Image.Image):
            return _checked(source, name, max_pixels)
        with _open_file(source) as file, _identify(file, formats) as image:
            return _checked(image, name, max_pixels)
    except (UnusableImageError, MemoryError):
        raise
    except Image.DecompressionBombError:  # WebP's decoder, which does not say the size
        raise TooManyPixelsError(
            f"{name} is over the limit of {max_pixels} pixels; scale it down first."
        ) from None
    except Exception as error:  # decoders raise anything for a broken file
        raise ValueError(
            f"{name} is not a readable image ({_reason(error)}); give {_NAMES}."
        ) from None


def _open_file(source: bytes | Path) -> IO[bytes]:
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def _identify(file: IO[bytes], formats: Sequence[str]) -> Image.Image:
    """Read the header of an image, as `Image.open` does.

    `Image.open` also warns of sizes above a limit of its own, which is higher than ours; that
    warning can only be silenced for the whole process.
    """
    start = file.read(16)
    for name in formats:
        if name not in Image.OPEN:
            Image.init()
        build, accepts = Image.OPEN[name]
        is_accepted = True if accepts is None else accepts(start)
        if not is_accepted or isinstance(is_accepted, str):  # a str: no decoder for it
            continue
        file.seek(0)
        try:
            return build(file, getattr(file, "name", ""))
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # another format
    raise UnidentifiedImageError


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "unknown format"
    return " ".join(str(error).split()) or type(error).__name__


def _name_of(source: bytes | Path | Image.Image) -> str:
    if isinstance(source, Image.Image):
        return "the PIL image"
    return str(source) if isinstance(source, Path) else f"{len(source)} bytes"


def _checked(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"{name} is {width} x {height} pixels, over the limit of {max_pixels} pixels; "
            "scale it down first."
        )

    if not width * height:
        message = (
            f"{name} is {width} x {height} pixels; give an image of at least one pixel."
        )
        raise UnusableImageError(message)

    if image.mode in ("I", "F"):
        numbers = "32-bit integers" if image.mode == "I" else "floating-point numbers"
        message = (
            f"{name} has pixels of {numbers}, whose range it does not say; convert it to 8 "
            "or 16 bits."
        )
        raise UnusableImageError(message)

    key = _colour_key(image)
    image.load()  # which turns a TIFF automatically

    turn = _TURNS.get(orientation_of(image))
    if turn is not None:
        image = image.transpose(turn)
        image.info = {
            name: value for name, value in image.info.items() if name not in _ORIENTED
        }

    if key != image.info.get("transparency"):
        image = image.copy()
        image.info["transparency"] = key

    # Pillow cannot convert La to RGB.
    return image.convert("LA") if image.mode == "La" else image


# EXIF orientation -> what undoes it. ImageOps.exif_transpose rewrites the EXIF and fails where it
# is broken.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Entries of `image.info` that may hold an orientation.
_ORIENTED = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
_BROKEN_EXIF = (
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    struct.error,
)


def orientation_of(image: Image.Image) -> int:
    """The EXIF (or XMP) orientation of an opened image, 1 to 8; 1 where it is missing or broken."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _BROKEN_EXIF:
        return 1
    if isinstance(orientation, int) and 1 <= orientation <= 8:
        return orientation
    return 1


# Pillow multiplies the samples of a PNG by this, but not its transparent colour.
_KEY_SCALES = {"1": 255, "L;2": 85, "L;4": 17}


def _colour_key(image: Image.Image) -> Any:
    """The transparent colour (or palette entry) in values of the decoded pixels, or None.

    Pillow keeps the high byte of 16-bit channels, and so does the key.
    """
    key = image.info.get("transparency")
    tile = getattr(image, "tile", None)
    layout = tile[0][3] if tile and image.mode != "P" else None
    if isinstance(key, int) and layout in _KEY_SCALES:
        scale = _KEY_SCALES[layout]
        return key if key > 255 // scale else key * scale
    if isinstance(key, tuple) and layout == "RGB;16B":
        return tuple(value >> 8 for value in key)
    return key


def to_rgb(image: Image.Image, transparency: str = "white") -> Image.Image:
    """Convert a loaded image to RGB; an RGB image is returned as it is.

    transparency: see PreprocessConfig.
    """
    if transparency == "open_clip":
        return image.convert("RGB")
    if transparency in _COLOURS and image.has_transparency_data:
        image = _with_alpha(image)
        canvas = Image.new("RGB", image.size, _COLOURS[transparency])
        canvas.paste(image, mask=image)
        return canvas
    if image.mode.startswith("I;16"):
        image = _high_bytes(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _with_alpha(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = _high_bytes(image)
        alpha = np.where(np.asarray(image) == image.info["transparency"], 0, 255)
        mask = Image.fromarray(alpha.astype(np.uint8))
        return Image.merge("LA", (grey, mask)).convert("RGBA")
    return image.convert("RGBA")


def _high_bytes(image: Image.Image) -> Image.Image:
    # convert() clips: all but the darkest 1/256 of the range would become white.
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def to_png(image: Image.Image, compress_level: int = 6) -> bytes:
    """Encode a loaded image as a PNG that decodes to the same pixels and transparency."""
    if image.has_transparency_data and image.mode != "P":
        image = _with_alpha(image)
    elif image.mode not in ("1", "L", "P", "RGB", "I;16"):
        image = to_rgb(image)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=compress_level, icc_profile=None)
    return file.getvalue()


def image_to_pixels(image: Image.Image, config: PreprocessConfig) -> Tensor:
    """Convert a loaded image to RGB, resize and crop it -> (3, S, S) uint8.

    Raises ValueError for an image so narrow that its scaled form would not fit in memory.
    """
    if config.transparency == "open_clip":
        return pixels_of(to_rgb(_resized(image, config), "open_clip"))
    return pixels_of(_resized(to_rgb(image, config.transparency), config))


def _resized(image: Image.Image, config: PreprocessConfig) -> Image.Image:
    """S x S pixels, in the mode of the image."""
    size = config.image_size
    method = _INTERPOLATION[config.interpolation]
    if config.resize == "squash":
        return image.resize((size, size), method)
    if config.resize == "crop":
        return _cropped(image, size, method)
    return _padded(image, size, method)


def _cropped(image: Image.Image, size: int, method: Image.Resampling) -> Image.Image:
    """Scale the shorter edge to `size` and crop the centre."""
    width, height = image.size
    # The long edge is rounded down as in torchvision's Resize, so that pixels equal open_clip's.
    scaled = (
        (size, int(size * height / width))
        if width <= height
        else (int(size * width / height), size)
    )
    if scaled[0] * scaled[1] > MAX_PIXELS:
        raise ValueError(
            f"an image of {width} x {height} pixels is too narrow to crop; crop it first, or "
            "use a model whose preprocess.resize is 'pad'."
        )
    if scaled != image.size:
        image = image.resize(scaled, method)
    left = round((scaled[0] - size) / 2)
    top = round((scaled[1] - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _padded(image: Image.Image, size: int, method: Image.Resampling) -> Image.Image:
    """Scale the longer edge to `size` and centre the image on black."""
    width, height = image.size
    scale = size / max(width, height)
    scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new(image.mode, (size, size))
    if image.mode == "P":
        canvas.putpalette(image.getpalette() or [])
    corner = ((size - scaled[0]) // 2, (size - scaled[1]) // 2)
    canvas.paste(image.resize(scaled, method), corner)
    return canvas


def pixels_of(image: Image.Image) -> Tensor:
    """(3, H, W) uint8 of an RGB image as it is."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))  # (H, W, 3)
    return pixels.permute(2, 0, 1).contiguous()
