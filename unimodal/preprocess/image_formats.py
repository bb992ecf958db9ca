"""Formats of images: which are decoded, how their files end, and how a text shows that it is one.

Needs no torch, so that tables and shards can be listed without it.
"""

from __future__ import annotations

import re

from PIL import features

# Pillow's name of a format -> the endings of its files, the usual one first. HEIF cannot be read
# here, and the reader says so: a folder's images are not left out silently.
EXTENSIONS_OF = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png", "apng"),
    "WEBP": ("webp",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "TIFF": ("tif", "tiff"),
    "AVIF": ("avif",),
    "HEIF": ("heic", "heif"),
}
IMAGE_EXTENSIONS = tuple(
    extension for extensions in EXTENSIONS_OF.values() for extension in extensions
)
IMAGE_ENDINGS = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)

_OPTIONAL = {"AVIF"}  # Pillow may have been built without it
FORMATS = tuple(
    name
    for name in EXTENSIONS_OF
    if name != "HEIF" and (name not in _OPTIONAL or features.check(name.lower()))
)
# What browsers show, and all that a server decodes: each further decoder is one more to attack.
BROWSER_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
# What shards hold. A phone's MPO is a JPEG with more images behind it.
SHARD_EXTENSIONS = {
    "JPEG": EXTENSIONS_OF["JPEG"][0],
    "MPO": EXTENSIONS_OF["JPEG"][0],
    "PNG": EXTENSIONS_OF["PNG"][0],
    "WEBP": EXTENSIONS_OF["WEBP"][0],
}

MAX_URI_HEAD = 300  # characters of a data URI before its content
BASE64_END = re.compile(r";\s*base64\s*$", re.IGNORECASE)
_IMAGE_TYPE = re.compile(r"data:\s*image/[a-z0-9.+*-]+\s*(;|$)", re.IGNORECASE)
# The start of a JPEG, PNG, GIF or WebP in base64 of either alphabet, long enough not to be words.
_IMAGE_BASE64 = re.compile(
    r"(?:[/_]9j[/_]|iVBORw0KGgo|R0lGOD[dl]h|UklGR.{6}XRUJQ)[A-Za-z0-9+/_-]{40}"
)


def is_image_uri(text: str) -> bool:
    """Whether a text is a data URI of an image, or of any content in base64."""
    start = text.lstrip()[:MAX_URI_HEAD]
    if start[:5].lower() != "data:":
        return False
    head, comma, _ = start.partition(",")
    is_image = _IMAGE_TYPE.match(head) is not None
    if comma:
        return is_image or BASE64_END.search(head) is not None
    # With more parameters than are read, it is refused as an image.
    return is_image and len(start) == MAX_URI_HEAD


def is_image_base64(text: str) -> bool:
    """Whether a text is the base64 of a JPEG, PNG, GIF or WebP, and so not words."""
    start = "".join(text[:MAX_URI_HEAD].split())
    return _IMAGE_BASE64.match(start) is not None
