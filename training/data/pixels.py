"""Images for training: decoded, cropped at random and resized, in less than half of Pillow's time.

JPEGs are decoded by torchvision, to exactly Pillow's pixels, and every crop is resized by torch,
in uint8 with antialiasing. Where Pillow's resize of the same crop takes the horizontal pass first,
as torch does, the two differ by one or two levels in few places (mostly over 70 dB, at least 62).
Where that is less work Pillow takes the vertical pass first, and the rounding between the passes
then differs: 54 dB, a fifth of a level on average. Both are as far from the resize in floating
point. Evaluation and serving keep Pillow's pixels: `unimodal.preprocess.images`.

S image size.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unimodal.model_config import PreprocessConfig
from unimodal.preprocess.images import (
    MAX_PIXELS,
    image_to_pixels,
    load_image,
    orientation_of,
    to_rgb,
)

from ..config import AugmentConfig

Box = tuple[int, int, int, int]  # left, top, right, bottom

# What EXIF orientations ask for: whether rows become columns, then which dimensions of (3, H, W)
# are mirrored.
_TURNS: dict[object, tuple[bool, tuple[int, ...]]] = {
    2: (False, (2,)), 3: (False, (1, 2)), 4: (False, (1,)),
    5: (True, ()), 6: (True, (2,)), 7: (True, (1, 2)), 8: (True, (1,)),
}  # fmt: skip


def train_pixels(
    content: bytes,
    preprocess: PreprocessConfig,
    augment: AugmentConfig,
    draw: np.random.Generator,
) -> Tensor:
    """Decode an image, crop it at random, resize the crop and perhaps mirror it -> (3, S, S) uint8.

    content: a file in any format of `load_image`. draw: decides crop and mirroring, by the turned
        image's size.

    Raises ValueError as `load_image` does: for what is not an image, is cut short, or claims too
    many pixels, which its header shows before anything is decoded. Damage inside the compressed
    pixels of a JPEG that leaves its end in place is detected by neither decoder: both continue, in
    grey or in colours that drift.
    """
    pixels = _decode_jpeg(content)
    image = load_image(content) if pixels is None else None
    if (
        image is not None
        and preprocess.transparency == "open_clip"
        and image.mode != "RGB"
    ):
        rows = _crop_as_stored(image, preprocess, draw_box(*image.size, augment, draw))
    else:
        if image is not None:
            rgb = to_rgb(image, preprocess.transparency)
            pixels = torch.from_numpy(np.array(rgb, dtype=np.uint8)).permute(2, 0, 1)
        assert pixels is not None
        rows = _crop(
            pixels,
            preprocess,
            draw_box(pixels.shape[2], pixels.shape[1], augment, draw),
        )

    if augment.flip and draw.random() < 0.5:
        rows = rows[:, ::-1]

    planes = np.empty((3, *rows.shape[:2]), dtype=np.uint8)
    for channel in range(3):  # as fast again as torch's copy into planes
        planes[channel] = rows[:, :, channel]
    return torch.from_numpy(planes)


def _crop(pixels: Tensor, preprocess: PreprocessConfig, box: Box) -> NDArray[np.uint8]:
    """A box of (3, H, W) RGB pixels -> (S, S, 3)."""
    left, top, right, bottom = box
    size = preprocess.image_size
    # Channels last is how decoders write, and what torch resizes fastest.
    crop = pixels[None, :, top:bottom, left:right].contiguous(
        memory_format=torch.channels_last
    )
    resized = F.interpolate(
        crop, (size, size), mode=preprocess.interpolation, antialias=True
    )
    rows: NDArray[np.uint8] = resized[0].permute(1, 2, 0).numpy()
    return rows


def _crop_as_stored(
    image: Image.Image, preprocess: PreprocessConfig, box: Box
) -> NDArray[np.uint8]:
    """A box of an image that becomes RGB after the resize, as in evaluation -> (S, S, 3)."""
    squash = preprocess.model_copy(update={"resize": "squash"})
    return image_to_pixels(image.crop(box), squash).permute(1, 2, 0).numpy()


def draw_box(
    width: int, height: int, config: AugmentConfig, draw: np.random.Generator
) -> Box:
    """A random crop (Szegedy et al., 2015, as torchvision's RandomResizedCrop) of an image of
    width x height.

    Where ten draws do not fit into the image (it is too long for the configured share), the result
    is the largest centred crop of the nearest allowed ratio.
    """
    least, most = config.crop_scale
    low, high = config.crop_ratio
    log_low = math.log(low)
    log_high = math.log(high)
    for _ in range(10):
        # As draw.uniform, in half the time: of an image of 4:3 six draws on average do not fit.
        area = width * height * (least + (most - least) * draw.random())
        ratio = math.exp(log_low + (log_high - log_low) * draw.random())
        crop_width = round(math.sqrt(area * ratio))
        crop_height = round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left = int(draw.integers(width - crop_width + 1))
            top = int(draw.integers(height - crop_height + 1))
            return left, top, left + crop_width, top + crop_height
    ratio = min(max(width / height, low), high)
    crop_width = max(1, min(width, round(height * ratio)))
    crop_height = max(1, min(height, round(width / ratio)))
    left = (width - crop_width) // 2
    top = (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def _decode_jpeg(content: bytes) -> Tensor | None:
    """(3, H, W) uint8 of a plain JPEG; None for files that Pillow decodes.

    Those are other formats, CMYK, and unusual or damaged JPEGs.
    """
    header = _jpeg_header(content)
    if header is None:
        return None
    width, height, channels, has_exif = header
    if channels not in (1, 3) or width * height > MAX_PIXELS:
        return None
    decode = _torchvision()
    if decode is None:
        return None
    try:
        # One reader of EXIF for both decoders: torchvision's own overlooks an orientation that only
        # XMP gives.
        turn = None
        if has_exif:
            with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
                turn = _TURNS.get(orientation_of(image))
        pixels = decode(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    except (OSError, SyntaxError, RuntimeError):
        return None
    if turn is None:
        return pixels
    transposed, mirrored = turn
    return (pixels.mT if transposed else pixels).flip(mirrored)


@functools.cache
def _torchvision() -> Callable[[Tensor], Tensor] | None:
    """Torchvision's JPEG decoder to RGB; None where it does not exist.

    The import takes a second, which workers without images save. This is the operator, not its
    wrapper `decode_jpeg`, which spends 17 us on a warning that it will move to torchcodec
    (torchvision 0.29). Without the operator Pillow decodes, to the same pixels.
    """
    try:
        from torchvision.io import ImageReadMode

        decode = torch.ops.image.decode_jpeg.default
    except (ImportError, AttributeError):
        return None
    mode = ImageReadMode.RGB.value
    return lambda content: decode(content, mode)


def _jpeg_header(content: bytes) -> tuple[int, int, int, bool] | None:
    """Width, height, channels and whether there is EXIF or XMP; None if it is not a plain JPEG.

    A marker is 0xFF, its code and, but for a few that no header has, the length of what follows
    with its own two bytes (ITU-T T.81, annex B). Thirty times faster than opening the file with
    Pillow.
    """
    found: tuple[int, int, int] | None = None
    has_exif = False
    place = 2 if content.startswith(b"\xff\xd8") else len(content)
    while place + 10 < len(content) and content[place] == 0xFF:
        code = content[place + 1]
        length = int.from_bytes(content[place + 2 : place + 4], "big")
        if code == 0xDA:  # the compressed pixels start
            return None if found is None else (*found, has_exif)
        if code in (0xC0, 0xC1, 0xC2):  # the frame: baseline, extended or progressive
            if found is not None:
                return None
            height = int.from_bytes(content[place + 5 : place + 7], "big")
            found = (
                int.from_bytes(content[place + 7 : place + 9], "big"),
                height,
                content[place + 9],
            )
        elif not (0xE0 <= code <= 0xEF or code in (0xC4, 0xDB, 0xDD, 0xFE)):
            return None  # neither APPn, nor tables, restarts or a comment
        has_exif = has_exif or code == 0xE1
        place += 2 + length
    return None
