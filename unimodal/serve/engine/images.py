"""Images from clients: recognize, decode base64, and judge by the header before decoding."""

from __future__ import annotations

import binascii
import logging
import re
from urllib.parse import unquote

from PIL import Image

from ...preprocess.image_formats import BASE64_END, BROWSER_FORMATS, MAX_URI_HEAD
from ...preprocess.images import TooManyPixelsError, UnusableImageError, load_image
from ..config import ServeConfig
from .errors import TooLargeError

log = logging.getLogger(__name__)

UNREADABLE_IMAGE = "it is not a readable image; send a whole JPEG, PNG, WebP or GIF."
MAX_SCANS = 100  # of a JPEG; encoders write about ten

# What follows FF in a JPEG, except stuffed zeros, padding and the markers without content.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
_STANDARD_ALPHABET = bytes.maketrans(b"-_", b"+/")  # from that of URL-safe base64


def image_bytes(text: str, config: ServeConfig) -> bytes:
    """The bytes of an image from a data URI or plain base64.

    Base64 is read as it is written in practice: either alphabet, with or without padding, broken
    into lines. A data URI may have further parameters and be percent-encoded.

    Raises ValueError for what is neither, or is too large.
    """
    encoded = text.strip()
    if encoded[:5].lower() == "data:":
        encoded = _data_uri_content(encoded)
    try:
        # Whitespace is removed; other characters outside of base64 stay, and change the length
        # that is compared below.
        letters = encoded.encode("ascii")
    except ValueError:
        letters = b""
    letters = letters.translate(_STANDARD_ALPHABET, b" \t\r\n\f").rstrip(b"=")
    num_bytes = len(letters) * 3 // 4
    check_size(num_bytes, config)
    try:
        decoded = binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
    except binascii.Error:
        decoded = b""
    # The decoder skips what is not base64, and then returns fewer bytes. A regular expression would
    # be much slower.
    if not decoded or len(letters) % 4 == 1 or len(decoded) != num_bytes:
        raise ValueError(
            "the image is neither a data URI nor base64; send data:image/jpeg;base64,... "
            "or plain base64."
        )
    return decoded


def _data_uri_content(uri: str) -> str:
    """The base64 part of a data URI."""
    head, comma, encoded = uri.partition(",")
    if not comma or len(head) > MAX_URI_HEAD:
        raise ValueError("the data URI has no content; send data:image/jpeg;base64,...")
    if not BASE64_END.search(head):
        raise ValueError(
            "the data URI is not in base64; send data:image/jpeg;base64,..."
        )
    return unquote(encoded, errors="replace") if "%" in encoded else encoded


def check_size(num_bytes: int, config: ServeConfig) -> None:
    """Raise TooLargeError for an image of more bytes than allowed."""
    if num_bytes > config.max_image_bytes:
        raise TooLargeError(
            f"the image is larger than {config.max_image_bytes} bytes; scale it down first."
        )


def open_checked(image: bytes | Image.Image, config: ServeConfig) -> Image.Image:
    """An image exactly as `load_image` returns it: first frame, rotated by EXIF, in its own mode.

    Raises TooLargeError for a header that claims more than `max_pixels`, before anything is
    decoded, and ValueError for what cannot be decoded, or would take too long. What the decoder
    reported goes to the log only, because it may reveal the server's memory.
    """
    if isinstance(image, bytes) and _num_scans(image) > MAX_SCANS:
        raise ValueError(f"the JPEG has more than {MAX_SCANS} scans; save it again.")
    try:
        return load_image(image, config.max_pixels, BROWSER_FORMATS)
    except TooManyPixelsError:
        raise TooLargeError(
            f"the image has more than {config.max_pixels} pixels; scale it down first."
        ) from None
    except UnusableImageError:
        raise
    except Exception as error:  # decoders raise anything for a broken file
        kind = type(error.__cause__ or error).__name__
        log.info("an image could not be decoded: %s", kind)
        raise ValueError(UNREADABLE_IMAGE) from None


def _num_scans(content: bytes) -> int:
    """How often a JPEG draws the whole image, counted up to `MAX_SCANS` + 1; 0 of other formats."""
    if not content.startswith(b"\xff\xd8"):
        return 0
    scans = 0
    position = 0
    while scans <= MAX_SCANS:
        marker = _MARKER.search(content, position)
        if marker is None or marker[1] == b"\xd9":  # end of the image
            break
        scans += marker[1] == b"\xda"
        length = int.from_bytes(content[marker.end() : marker.end() + 2], "big")
        position = marker.end() + length  # skips the marker's content
    return scans
