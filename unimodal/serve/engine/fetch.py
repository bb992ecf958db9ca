"""Images behind a URL: which URLs are fetched, and which addresses are dialled.

A URL is judged by the address that is dialled, at the moment it is dialled. Between a check of the
host name and the connection, the name's owner could change where it points.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeAlias
from urllib.parse import urljoin

from ..config import ServeConfig, UrlsConfig
from .errors import TooLargeError

log = logging.getLogger(__name__)

MAX_URL = 2048
REDIRECTS = (301, 302, 303, 307, 308)
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# an IPv4 address as IPv6-only networks write it
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# 6to4 and Teredo: an IPv4 address inside
TUNNELS = (ipaddress.ip_network("2002::/16"), ipaddress.ip_network("2001::/32"))
# Azure's, a public address that answers only inside its network
CLOUD_AGENTS = frozenset({ipaddress.ip_address("168.63.129.16")})

# as getaddrinfo returns it
AddressInfo: TypeAlias = tuple[Any, Any, int, str, tuple[Any, ...]]

_URL = re.compile(
    r"https://[A-Za-z0-9.\-_:\[\]]+(?:[/?#][\x21-\x5b\x5d-\x7e]*)?\Z", re.IGNORECASE
)
_NOT_PLAIN = (
    "the image's URL is not plain https://host/path; send such a URL, or base64."
)
_UNREADABLE = "the image's URL could not be read; send the image as base64."


async def fetch_image(
    url: str,
    config: ServeConfig,
    *,
    dial: Callable[[AddressInfo], socket.socket] | None = None,
    resolver: Any = None,
    tls: ssl.SSLContext | None = None,
    port: int = 443,
) -> bytes:
    """The bytes behind an https URL whose host is in `urls.allow`.

    Redirects are followed only to such URLs.

    dial, resolver, tls, port: replace `public_socket`, the system's resolver and certificates, and
        the only port that is dialled.

    Raises ValueError for what is not allowed, missing, too large or too slow. The message does not
    say which address was dialled, or what answered there: that would turn the server into a scanner
    of its own network.
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
        raise ValueError(_UNREADABLE) from None


async def _follow(session: Any, url: str, urls: UrlsConfig, port: int) -> bytes:
    """The body behind a URL and its redirects."""
    for _ in range(urls.redirects + 1):
        target = _checked_url(url, urls, port)
        async with session.get(target, allow_redirects=False) as response:
            if response.status in REDIRECTS:
                url = urljoin(str(response.url), response.headers.get("Location", ""))
                continue
            if response.status != 200:
                raise ValueError(_UNREADABLE)
            return await _read_body(response, urls.max_bytes)
    raise ValueError(
        f"the image's URL redirects more than {urls.redirects} times; send the final URL."
    )


async def _read_body(response: Any, max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        # counted, because a Content-Length may be missing or wrong
        if len(body) > max_bytes:
            raise TooLargeError(
                f"the image behind the URL is larger than {max_bytes} bytes; scale it down first."
            )
    return bytes(body)


def _checked_url(text: str, urls: UrlsConfig, port: int) -> Any:
    """The URL as the HTTP client parses it.

    What two parsers may read differently (a backslash, a user, a space before the host) is refused.

    Raises ValueError unless its scheme, host and port are allowed.
    """
    from yarl import URL

    if len(text) > MAX_URL or not _URL.match(text):
        raise ValueError(_NOT_PLAIN)
    try:
        url = URL(text)
        host = (url.raw_host or "").lower()
        url_port = url.port
    except ValueError:
        raise ValueError(_NOT_PLAIN) from None
    if not any(_matches(host, allowed) for allowed in urls.allow):
        raise ValueError(
            "the image's URL is on a host that this server does not fetch from; send base64."
        )
    if url_port != port:
        raise ValueError(
            f"the image's URL names port {url_port}; only port {port} is allowed."
        )
    return url


def _matches(host: str, allowed: str) -> bool:
    """Whether a host is an allowed one, or lies below *.shop.com."""
    if host == allowed:
        return True
    return allowed.startswith("*.") and host.endswith(allowed[1:])


def public_socket(address: AddressInfo) -> socket.socket:
    """A socket for an address; raises OSError unless the address is public."""
    family, kind, protocol, _, target = address
    if not is_public(str(target[0])):
        raise OSError("the address is not public.")
    return socket.socket(family, kind, protocol)


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, and does not wrap one that is not."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return _is_public_ipv4(ip)
    wrapped = ip.ipv4_mapped
    if ip in NAT64:
        wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if wrapped is not None:
        return _is_public_ipv4(wrapped)
    is_tunnel = any(ip in network for network in TUNNELS)
    return ip in GLOBAL_UNICAST and ip.is_global and not is_tunnel


def _is_public_ipv4(ip: ipaddress.IPv4Address) -> bool:
    is_special = ip.is_multicast or ip.is_reserved or ip in CLOUD_AGENTS
    return ip.is_global and not is_special
