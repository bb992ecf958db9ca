"""What happens to an image and a text before a tower sees them: one spec for training, evaluation
and serving.

Pixels travel as uint8 and are normalised on the device (model.py), which moves a quarter of the
bytes.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from ..model_config import PreprocessConfig
from .image_formats import FORMATS

MAX_PIXELS = (
    40_000_000  # a header that claims more is refused before a byte of it is decoded
)

# Pillow warns above a cap of its own, which is higher: load_image refuses these. For the process: a
# filter of its own is not for a thread to set.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_INTERPOLATION = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}
_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}
_NAMES = " or ".join(
    ", ".join({"WEBP": "WebP"}.get(name, name) for name in FORMATS).rsplit(", ", 1)
)


class UnusableImageError(ValueError):
    """An image that can be read and not be used."""


class TooManyPixelsError(UnusableImageError):
    """An image over the cap."""


def decode_image(
    source: bytes | Path | Image.Image,
    max_pixels: int = MAX_PIXELS,
    transparency: str = "white",
) -> Image.Image:
    """An image as RGB: first frame, turned as its EXIF says, decoded whole, laid over white where
    it is transparent.

    max_pixels, transparency, raises: as `load_image` and `to_rgb`.
    """
    return to_rgb(load_image(source, max_pixels), transparency)


def load_image(
    source: bytes | Path | Image.Image,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] = FORMATS,
) -> Image.Image:
    """An image in the mode it is stored in: first frame, turned as its EXIF says, decoded whole.

    The one judge of what is an image: training, evaluation, indexing, packing and serving all ask
        here.

    max_pixels: the cap on width x height.
    formats: what a file may be, by Pillow's names.

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
        file = source if isinstance(source, Path) else io.BytesIO(source)
        with Image.open(file, formats=tuple(formats)) as image:
            return _checked(image, name, max_pixels)
    except (UnusableImageError, MemoryError):
        raise
    except (
        Image.DecompressionBombError
    ):  # Pillow does not say the size of what is over twice its own cap
        message = f"{name} is over the cap of {max_pixels} pixels; scale it down first."
        raise TooManyPixelsError(message) from None
    except Exception as error:  # decoders raise whatever a broken file leads them into
        unknown = isinstance(error, UnidentifiedImageError)
        reason = (
            "unknown format"
            if unknown
            else " ".join(str(error).split()) or type(error).__name__
        )
        raise ValueError(
            f"{name} is not a readable image ({reason}); give {_NAMES}."
        ) from None


def _name_of(source: bytes | Path | Image.Image) -> str:
    if isinstance(source, Image.Image):
        return "the PIL image"
    return str(source) if isinstance(source, Path) else f"{len(source)} bytes"


def _checked(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        message = (
            f"{name} is {width} x {height} pixels, over the cap of {max_pixels} pixels; "
            "scale it down first."
        )
        raise TooManyPixelsError(message)

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
    image.load()  # which turns a TIFF by itself

    turn = _TURNS.get(orientation_of(image))
    if turn is not None:
        image = image.transpose(turn)
        image.info = {
            name: value for name, value in image.info.items() if name not in _ORIENTED
        }

    if key != image.info.get("transparency"):
        image = image.copy()
        image.info["transparency"] = key

    return (
        image.convert("LA") if image.mode == "La" else image
    )  # from La Pillow knows no way to RGB


# EXIF orientation -> how to undo it. Not ImageOps.exif_transpose: it writes the EXIF anew and fails
# on broken ones.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTED = (
    "exif",
    "xmp",
    "XML:com.adobe.xmp",
    "Raw profile type exif",
)  # what may say that it is still to be turned


def orientation_of(image: Image.Image) -> int:
    """The EXIF (or XMP) orientation of an opened image, 1 to 8; 1 where there is none, or a broken
    one.
    """
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except (
        SyntaxError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        struct.error,
    ):  # of broken EXIF
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


# What Pillow multiplies the samples of a PNG by, or shifts them by, and forgets to do to the
# transparent colour.
_KEY_SCALES = {"1": 255, "L;2": 85, "L;4": 17}


def _colour_key(image: Image.Image) -> Any:
    """The colour (or palette entry) that is transparent, in the values of the decoded pixels; None
    without one.

    Of 16 bits a channel Pillow keeps the high byte, and so does the key.
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
    """A loaded image as RGB: the image itself where it is RGB already.

    transparency: as in PreprocessConfig.
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
        return Image.merge(
            "LA", (grey, Image.fromarray(alpha.astype(np.uint8)))
        ).convert("RGBA")
    return image.convert("RGBA")


def _high_bytes(image: Image.Image) -> Image.Image:
    # convert() clips: all but the darkest 1/256 of the range would be white
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def to_png(image: Image.Image, compress_level: int = 6) -> bytes:
    """A loaded image as a PNG that decodes to the same pixels and keeps what is transparent."""
    if image.has_transparency_data and image.mode != "P":
        image = _with_alpha(image)
    elif image.mode not in ("1", "L", "P", "RGB", "I;16"):
        image = to_rgb(image)
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=compress_level, icc_profile=None)
    return file.getvalue()


def image_to_pixels(image: Image.Image, config: PreprocessConfig) -> Tensor:
    """Make a loaded image RGB, resize and crop it as the spec says -> (3, S, S) uint8.

    Raises ValueError for an image so narrow that what is to be cropped would not fit in memory.
    """
    if config.transparency == "open_clip":
        return pixels_of(to_rgb(_resized(image, config), "open_clip"))
    return pixels_of(_resized(to_rgb(image, config.transparency), config))


def _resized(image: Image.Image, config: PreprocessConfig) -> Image.Image:
    """S x S pixels, in the mode of the image."""
    size = config.image_size
    method = _INTERPOLATION[config.interpolation]
    width, height = image.size
    if config.resize == "squash":
        return image.resize((size, size), method)

    if config.resize == "crop":
        # The long edge is cut to an integer as torchvision's Resize does, so that pixels equal
        # open_clip's.
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
        image = image if scaled == image.size else image.resize(scaled, method)
        left = round((scaled[0] - size) / 2)
        top = round((scaled[1] - size) / 2)
        return image.crop((left, top, left + size, top + size))

    scale = size / max(width, height)
    scaled = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.new(image.mode, (size, size))
    if image.mode == "P":
        canvas.putpalette(image.getpalette() or [])
    canvas.paste(
        image.resize(scaled, method), ((size - scaled[0]) // 2, (size - scaled[1]) // 2)
    )
    return canvas


def pixels_of(image: Image.Image) -> Tensor:
    """(3, H, W) uint8 of an RGB image as it is."""
    return (
        torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()
    )
