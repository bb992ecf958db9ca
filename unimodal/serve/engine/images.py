"""Images from strangers: what is read before it is trusted, and where a URL may lead.

An image is judged by its header before a byte of it is decoded; a URL by the address that is
really dialled, at the moment it is dialled. Between a check of the name and the connection, the
name's owner could change where it points.
"""

from __future__ import annotations

import asyncio
import binascii
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import unquote, urljoin

from PIL import Image

from ...preprocess.images import TooManyPixelsError, UnusableImageError, load_image
from ..config import ServeConfig, UrlsConfig

log = logging.getLogger(__name__)

FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
)  # what browsers show; each further decoder is one more to attack
NO_IMAGE = "it is not a readable image; send a whole JPEG, PNG, WebP or GIF."
MAX_SCANS = 100  # of a JPEG; encoders write about ten
MAX_URL = 2048
MAX_HEAD = 300  # characters of a data URI before its content
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
NAT64 = ipaddress.ip_network(
    "64:ff9b::/96"
)  # an IPv4 address as IPv6-only networks write it
TUNNELS = (
    ipaddress.ip_network("2002::/16"),
    ipaddress.ip_network("2001::/32"),
)  # 6to4, Teredo: IPv4 inside
CLOUD_AGENTS = frozenset(
    {ipaddress.ip_address("168.63.129.16")}
)  # Azure's, a public address that answers inside only

AddressInfo: TypeAlias = tuple[
    Any, Any, int, str, tuple[Any, ...]
]  # as getaddrinfo gives it

# What follows FF in a JPEG, but for stuffed zeros, padding and the markers that have no content.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)
_IMAGE_TYPE = re.compile(r"data:\s*image/[a-z0-9.+*-]+\s*(;|$)", re.IGNORECASE)
_BASE64_END = re.compile(r";\s*base64\s*$", re.IGNORECASE)
# How a JPEG, PNG, GIF or WebP begins in base64 of either alphabet, long enough that it cannot be
# words.
_IMAGE_BASE64 = re.compile(
    r"(?:[/_]9j[/_]|iVBORw0KGgo|R0lGOD[dl]h|UklGR.{6}XRUJQ)[A-Za-z0-9+/_-]{40}"
)
_ALPHABET = bytes.maketrans(b"-_", b"+/")  # of URL-safe base64 -> of the usual one
_URL = re.compile(
    r"https://[A-Za-z0-9.\-_:\[\]]+(?:[/?#][\x21-\x5b\x5d-\x7e]*)?\Z", re.IGNORECASE
)


class TooLargeError(ValueError):
    """An image or a text over one of the server's caps."""


def is_image_uri(text: str) -> bool:
    """Whether a text is an image as a data URI, or says so of any other content in base64."""
    start = text.lstrip()[:MAX_HEAD]
    if start[:5].lower() != "data:":
        return False
    head, comma, _ = start.partition(",")
    if (
        not comma and len(start) == MAX_HEAD
    ):  # more parameters than are read: it is refused as an image
        return bool(_IMAGE_TYPE.match(head))
    return bool(comma and (_IMAGE_TYPE.match(head) or _BASE64_END.search(head)))


def is_image_base64(text: str) -> bool:
    """Whether a text is the base64 of a JPEG, PNG, GIF or WebP, which as words
    would mean nothing.
    """
    start = "".join(text[:MAX_HEAD].split())
    return _IMAGE_BASE64.match(start) is not None


def image_bytes(text: str, config: ServeConfig) -> bytes:
    """The bytes of an image from a data URI or plain base64; raises ValueError for what is neither,
    or too large.

    Base64 is read as the world writes it: either alphabet, with or without padding, broken into
    lines, and in a data URI percent-encoded too, which may have any parameters.
    """
    encoded = text.strip()
    if encoded[:5].lower() == "data:":
        head, comma, encoded = encoded.partition(",")
        if not comma or len(head) > MAX_HEAD:
            raise ValueError(
                "the data URI has no content; write data:image/jpeg;base64,..."
            )
        if not _BASE64_END.search(head):
            raise ValueError(
                "the data URI is not in base64; write data:image/jpeg;base64,..."
            )
        if "%" in encoded:
            encoded = unquote(encoded, errors="replace")
    try:
        # Blanks and line ends are left out; what else is not base64 stays, and is found by the
        # length below.
        letters = (
            encoded.encode("ascii").translate(_ALPHABET, b" \t\r\n\f").rstrip(b"=")
        )
    except ValueError:
        letters = b""
    check_size(len(letters) * 3 // 4, config)
    try:
        decoded = binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
    except binascii.Error:
        decoded = b""
    # The decoder skips what is not base64, so that fewer bytes come out; a regular expression would
    # be much slower.
    if not decoded or len(letters) % 4 == 1 or len(decoded) != len(letters) * 3 // 4:
        raise ValueError(
            "the image is neither a data URI nor base64; send "
            "data:image/jpeg;base64,... or plain base64."
        )
    return decoded


def check_size(num_bytes: int, config: ServeConfig) -> None:
    """Raises TooLargeError for an image of more bytes than one may have."""
    if num_bytes > config.max_image_bytes:
        raise TooLargeError(
            f"the image is larger than {config.max_image_bytes} bytes; scale it down first."
        )


def open_checked(image: bytes | Image.Image, config: ServeConfig) -> Image.Image:
    """An image exactly as `load_image` gives it: first frame, turned as its EXIF says, in the mode
    it is stored in.

    Raises TooLargeError for a header that claims more than `max_pixels`, before anything is
    decoded, and ValueError for what cannot be decoded, or would take for ever; what the decoder
    said goes to the log alone, for it may tell of the server's memory.
    """
    if (
        isinstance(image, bytes)
        and image.startswith(b"\xff\xd8")
        and _num_scans(image) > MAX_SCANS
    ):
        raise ValueError(f"the JPEG has more than {MAX_SCANS} scans; save it again.")
    try:
        return load_image(image, config.max_pixels, FORMATS)
    except TooManyPixelsError:
        raise TooLargeError(
            f"the image has more than {config.max_pixels} pixels; scale it down first."
        ) from None
    except UnusableImageError:
        raise
    except Exception as error:  # decoders raise whatever a broken file leads them to
        log.info(
            "an image could not be decoded: %s", type(error.__cause__ or error).__name__
        )
        raise ValueError(NO_IMAGE) from None


def _num_scans(jpeg: bytes) -> int:
    """How often a JPEG draws the whole image; once more than `MAX_SCANS` is as
    far as it counts.
    """
    at = scans = 0
    while (
        scans <= MAX_SCANS
        and (marker := _MARKER.search(jpeg, at))
        and marker[1] != b"\xd9"
    ):  # the end
        scans += marker[1] == b"\xda"
        at = marker.end() + int.from_bytes(
            jpeg[marker.end() : marker.end() + 2], "big"
        )  # what it holds is skipped
    return scans


async def fetch_image(
    url: str,
    config: ServeConfig,
    *,
    dial: Callable[[AddressInfo], socket.socket] | None = None,
    resolver: Any = None,
    tls: ssl.SSLContext | None = None,
    port: int = 443,
) -> bytes:
    """The bytes behind an https URL whose host is in `urls.allow`; redirects are followed only to
    such URLs.

    dial, resolver, tls, port: in place of `public_socket`, the system's resolver, its certificates,
        and the one port that is dialled.
    Raises ValueError for what is not allowed, not there, too large or too slow. It does not say
    which address was dialled, or what was found there: that would make the server a scanner of its
    own network.
    """
    import aiohttp

    if not config.urls.allow:
        raise ValueError(
            "this server fetches no URLs; send the image as a data URI or base64."
        )
    connector = aiohttp.TCPConnector(
        socket_factory=dial or public_socket,
        resolver=resolver,
        ssl=True if tls is None else tls,
        force_close=True,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        headers={
            "Accept": "image/*",
            "Accept-Encoding": "identity",
            "User-Agent": "unimodal",
        },
    )
    try:
        async with session:
            return await asyncio.wait_for(
                _follow(session, url, config.urls, port), config.urls.seconds
            )
    except asyncio.TimeoutError:
        raise ValueError(
            f"the image did not arrive in {config.urls.seconds:g} s; send it as base64."
        ) from None
    except (aiohttp.ClientError, OSError) as error:
        log.info("an image could not be fetched: %s", type(error).__name__)
        raise ValueError(
            "the image's URL could not be read; send the image as base64."
        ) from None


async def _follow(session: Any, url: str, urls: UrlsConfig, port: int) -> bytes:
    for _ in range(urls.redirects + 1):
        async with session.get(
            _allowed(url, urls, port), allow_redirects=False
        ) as response:
            if response.status in (301, 302, 303, 307, 308):
                url = urljoin(str(response.url), response.headers.get("Location", ""))
                continue
            if response.status != 200:
                raise ValueError(
                    "the image's URL could not be read; send the image as base64."
                )
            return await _body(response, urls.max_bytes)
    raise ValueError(
        f"the image's URL leads on more than {urls.redirects} times; give where it ends."
    )


async def _body(response: Any, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if (
            len(body) > max_bytes
        ):  # counted, because a Content-Length may be missing or lie
            raise TooLargeError(
                f"the image behind the URL is larger than {max_bytes} bytes; scale it down first."
            )
    return bytes(body)


def _allowed(text: str, urls: UrlsConfig, port: int) -> Any:
    """The URL as the client library reads it; raises ValueError unless its scheme, host and port
    are allowed.

    What two parsers might read differently (a backslash, a user, a space before the host) is
    refused outright.
    """
    from yarl import URL

    if len(text) > MAX_URL or not _URL.match(text):
        raise ValueError(
            "the image's URL is not plain https://host/path; send such a one, or base64."
        )
    try:
        url = URL(text)
        host = (url.raw_host or "").lower()
        dialled = url.port
    except ValueError:
        raise ValueError(
            "the image's URL is not plain https://host/path; send such a one, or base64."
        ) from None
    if not any(
        host == one or (one.startswith("*.") and host.endswith(one[1:]))
        for one in urls.allow
    ):
        raise ValueError(
            "the image's URL is on a host that this server does not fetch from; send base64."
        )
    if dialled != port:
        raise ValueError(
            f"the image's URL names port {dialled}; only {port} is fetched from."
        )
    return url


def public_socket(address: AddressInfo) -> socket.socket:
    """A socket for an address about to be dialled; raises OSError unless it is one of the public
    internet.
    """
    family, kind, protocol, _, target = address
    if not is_public(str(target[0])):
        raise OSError("the address is not public.")
    return socket.socket(family, kind, protocol)


def is_public(address: str) -> bool:
    """Whether an IP address is anybody's on the internet, and no way around to one that is not."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inside = ip.ipv4_mapped or (
            ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in NAT64 else None
        )
        if inside is None:
            return (
                ip in GLOBAL_UNICAST
                and ip.is_global
                and not any(ip in net for net in TUNNELS)
            )
        ip = inside
    return (
        ip.is_global
        and not ip.is_multicast
        and not ip.is_reserved
        and ip not in CLOUD_AGENTS
    )
