"""Images from strangers are judged before they are decoded, and URLs lead nowhere but to allowed
public hosts.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import io
import ipaddress
import json
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image

from unimodal.preprocess.images import decode_image, to_rgb
from unimodal.serve.config import ServeConfig, UrlsConfig
from unimodal.serve.engine.images import (
    TooLargeError,
    fetch_image,
    image_bytes,
    is_image_base64,
    is_image_uri,
    is_public,
    open_checked,
    public_socket,
)

CONFIG = ServeConfig(model="m")
LOOPBACK = (
    "127.0.0.1",
    "localhost",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "0x7f000001",
    "2130706433",
    "127.1",
    "0.0.0.0",
    "017700000001",
    "rebinding.example",
)


def chunk(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def png_header(width: int, height: int, *more: bytes) -> bytes:
    """A PNG that claims a size and holds a few bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(more)
        + pixels
        + chunk(b"IEND", b"")
    )


def saved(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
    )


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_an_image_is_exactly_what_the_library_decodes(
    picture: Image.Image, form: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    content = saved(picture, form) if form == "GIF" else saved(picture, form, exif=exif)
    opened = open_checked(content, CONFIG)
    assert opened.size == ((31, 20) if form == "GIF" else (20, 31))
    assert np.array_equal(np.asarray(to_rgb(opened)), np.asarray(decode_image(content)))


def test_a_jpeg_that_draws_itself_again_and_again_is_refused_before_it_is_decoded(
    picture: Image.Image,
) -> None:
    content = saved(picture, "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    many = content[:last] + 200 * content[last:-2] + content[-2:]
    with pytest.raises(
        ValueError, match="the JPEG has more than 100 scans; save it again"
    ):
        open_checked(many, CONFIG)
    hidden = (
        content[:2] + b"\xff\xe1\x00\x04\xff\xd9" + many[2:]
    )  # the end of an image, inside of a comment
    with pytest.raises(ValueError, match="more than 100 scans"):
        open_checked(hidden, CONFIG)


def test_what_stands_beside_a_jpegs_own_scans_is_not_counted(
    picture: Image.Image,
) -> None:
    film = 200 * b"\xff\xda\x00\x04ab"
    comment = 200 * b"\xff\xda"
    content = saved(picture, "JPEG", progressive=True, comment=comment) + film
    assert open_checked(content, CONFIG).size == (31, 20)


def test_of_an_animation_the_first_frame_is_taken(picture: Image.Image) -> None:
    frames = [Image.new("RGB", (31, 20), (number, 0, 0)) for number in range(200)]
    content = saved(picture, "GIF", save_all=True, append_images=frames)
    opened = to_rgb(open_checked(content, CONFIG))
    assert np.array_equal(
        np.asarray(opened), np.asarray(decode_image(saved(picture, "GIF")))
    )


def test_an_image_of_one_pixel_is_an_image() -> None:
    assert open_checked(saved(Image.new("L", (1, 1)), "PNG"), CONFIG).size == (1, 1)


@pytest.mark.parametrize("form", ["BMP", "TIFF", "ICO", "PPM"])
def test_other_formats_are_refused(picture: Image.Image, form: str) -> None:
    with pytest.raises(
        ValueError, match="not a readable image; send a whole JPEG, PNG, WebP or GIF"
    ):
        open_checked(saved(picture, form), CONFIG)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_broken_image_is_refused_in_one_sentence_whatever_is_broken(
    picture: Image.Image, form: str
) -> None:
    content = saved(picture, form)
    draw = np.random.default_rng(0)
    broken = [
        content[:length]
        for length in range(0, len(content) - 30, max(1, len(content) // 40))
    ]
    for _ in range(150):
        spoilt = bytearray(content)
        for place in draw.integers(0, len(content), 5):
            spoilt[place] = draw.integers(256)
        broken.append(bytes(spoilt))
    said = [
        refusal for refusal in map(refusal_of, broken) if refusal
    ]  # what is still an image may pass
    assert len(said) >= 40
    assert {"it is not a readable image; send a whole JPEG, PNG, WebP or GIF."} >= {
        refusal for refusal in said if "pixels" not in refusal
    }


def refusal_of(content: bytes) -> str:
    try:
        open_checked(content, CONFIG)
    except ValueError as error:
        return str(error)
    return ""


def test_an_image_over_the_cap_of_pixels_is_refused(picture: Image.Image) -> None:
    config = ServeConfig(model="m", max_pixels=31 * 20 - 1)
    for one in (
        picture,
        saved(picture, "PNG"),
        saved(picture, "WEBP"),
        png_header(65_000, 65_000),
    ):
        with pytest.raises(TooLargeError, match="more than 619 pixels"):
            open_checked(one, config)
    assert open_checked(picture, ServeConfig(model="m", max_pixels=31 * 20)).size == (
        31,
        20,
    )


BOMBS = """
import io, json, pathlib, sys, time
from PIL import Image
from unimodal.serve.config import ServeConfig
from unimodal.serve.engine.images import open_checked

def memory(line):
    return next(int(row.split()[1]) for row in open("/proc/self/status") if row.startswith(line)) / 1024

config = ServeConfig(model="m")
for form in ("PNG", "JPEG", "WEBP", "GIF"):  # decoders are loaded when they are first used
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, form)
    open_checked(buffer.getvalue(), config)
found = {}
for file in pathlib.Path(sys.argv[1]).iterdir():
    bomb = file.read_bytes()
    open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here
    before, started = memory("VmRSS"), time.perf_counter()
    try:
        open_checked(bomb, config)
        outcome = "decoded"
    except ValueError as error:
        outcome = type(error).__name__
    found[file.name] = outcome, memory("VmHWM") - before, time.perf_counter() - started
print(json.dumps(found))
"""


def bombs() -> dict[str, bytes]:
    row = bytes(3 * 30_000 + 1)
    squeeze = zlib.compressobj(9)
    rows = squeeze.compress(row * 300) + squeeze.flush()
    whole = b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)),
            chunk(b"IDAT", rows),
            chunk(b"IEND", b""),
        ]
    )
    webp = saved(Image.new("RGB", (9, 9)), "WEBP", lossless=True)
    extended = (
        b"VP8X"
        + struct.pack("<I", 10)
        + b"\x02\0\0\0"
        + (16382).to_bytes(3, "little") * 2
        + webp[12:]
    )
    gif = saved(Image.new("RGB", (9, 9)), "GIF")
    jpeg = saved(Image.new("RGB", (9, 9)), "JPEG")
    size = jpeg.index(b"\xff\xc0") + 5
    small = zlib.compress(bytes(60_000_000), 9)
    text = chunk(b"zTXt", b"a\0\0" + small)
    return {
        "png": whole,
        "webp": b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended,
        "gif": gif[:6] + struct.pack("<HH", 65_000, 65_000) + gif[10:],
        "jpeg": jpeg[:size] + struct.pack(">HH", 65_000, 65_000) + jpeg[size + 4 :],
        "text": png_header(9, 9, text, text),
        "profile": png_header(9, 9, chunk(b"iCCP", b"a\0\0" + small)),
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bombs_are_refused_from_their_headers_with_no_memory_spent(
    tmp_path: Path,
) -> None:
    for name, bomb in bombs().items():
        (tmp_path / name).write_bytes(bomb)
    command = [sys.executable, "-W", "ignore", "-c", BOMBS, str(tmp_path)]
    found = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout
    )
    assert {found[kind][0] for kind in ("png", "jpeg", "webp", "gif")} == {
        "TooLargeError"
    }
    assert {found[kind][0] for kind in ("text", "profile")} <= {"ValueError", "decoded"}
    assert max(memory for _, memory, _ in found.values()) <= 20, found  # MB
    assert max(seconds for _, _, seconds in found.values()) < 5 * 0.3, found


def test_bytes_come_from_a_data_uri_or_base64(picture: Image.Image) -> None:
    content = saved(picture, "PNG")
    for count in range(3):  # every padding
        encoded = base64.b64encode(content + bytes(count)).decode()
        for head in (
            "",
            "data:image/png;base64,",
            "DATA:;base64,",
            "data:image/svg+xml;charset=utf-8;base64,",
        ):
            assert image_bytes(head + encoded, CONFIG) == content + bytes(count)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "data:",
        "data:image/png,abcd",
        "data:image/png;base64,",
        "data:image/png;base64;abcd",
        "abcde",
        "ab=d",
        "AA==AAAA",
        "äbcd",
        "hat.png",
        "https://shop.com/a.png",
        "====",
        "data:image/png;base64,a%ZZb",
        "data:" + "a" * 300 + ";base64,abcd",
    ],
)
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        image_bytes(text, CONFIG)


PNG_HEAD = "data:image/png;charset=utf-8;name=a.png;base64,"


@pytest.mark.parametrize(
    "head", ["", PNG_HEAD, "data:image/png; base64 ,", " data:;base64,"]
)
@pytest.mark.parametrize("count", range(3))  # every padding
def test_base64_is_read_as_the_world_writes_it(
    picture: Image.Image, head: str, count: int
) -> None:
    content = b"\xfb\xff\xbf" + saved(picture, "PNG") + bytes(count)
    plain = base64.b64encode(content).decode()
    lines = base64.encodebytes(content).decode()
    url_safe = base64.urlsafe_b64encode(content).decode()
    ways = [
        plain,
        plain.rstrip("="),
        lines,
        lines.replace("\n", "\r\n"),
        url_safe,
        url_safe.rstrip("="),
    ]
    ways += [" ".join(lines.split()), "\n " + plain + " \n"]
    if head:
        ways += [quote(plain), quote(plain, safe="")]
    for encoded in ways:
        assert image_bytes(head + encoded, CONFIG) == content, encoded[:40]


@pytest.mark.parametrize(
    ("text", "is_image"),
    [
        ("data:image/png;base64,AAAA", True),
        ("  DATA:IMAGE/PNG;BASE64,AAAA", True),
        ("data:;base64,AAAA", True),
        ("data:application/octet-stream;base64,AAAA", True),
        ("data:image/svg+xml,%3Csvg%3E", True),
        ("data:image/png;charset=utf-8;base64,AAAA", True),
        ("data:image/png;name=" + "n" * 300 + ";base64,AAAA", True),
        (" " * 400 + "data:;base64,AAAA", True),
        ("data: the new oil, they say", False),
        ("data:text/plain,hello", False),
        ("a data:image/png;base64,AAAA", False),
        ("data:image/png is a head, and not an image", False),
        ("data:image/png;base64", False),
        ("", False),
    ],
)
def test_a_text_that_is_an_images_data_uri_is_recognised(
    text: str, is_image: bool
) -> None:
    assert is_image_uri(text) is is_image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_text_that_is_the_base64_of_an_image_is_recognised(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 90, 10)).save(file, kind)
    image = file.getvalue()

    assert is_image_base64(base64.b64encode(image).decode())
    assert is_image_base64(base64.urlsafe_b64encode(image).decode().rstrip("="))
    assert is_image_base64("\n" + base64.encodebytes(image).decode())


@pytest.mark.parametrize(
    "text",
    ["", "/9j/", "iVBORw0KGgo is how a PNG in base64 begins, said in words.", "a" * 99],
)
def test_a_text_that_begins_as_base64_is_a_text(text: str) -> None:
    assert not is_image_base64(text)


def test_base64_over_the_cap_is_refused_before_it_is_decoded() -> None:
    config = ServeConfig(model="m", max_image_bytes=300)
    assert image_bytes("A" * 400, config) == bytes(300)
    for text in ("A" * 404, "data:image/png;base64," + "A" * 404, "!" * 404):
        with pytest.raises(TooLargeError, match="larger than 300 bytes"):
            image_bytes(text, config)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("8.8.8.8", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False),
        ("127.255.0.1", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.100.100.200", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("240.0.0.1", False),
        ("198.18.0.1", False),
        ("192.0.2.1", False),
        ("168.63.129.16", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("fd00:ec2::254", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b:1::7f00:1", False),
        ("2002:7f00:1::1", False),
        ("2001:0:7f00:1::1", False),
        ("2001:db8::1", False),
        ("fec0::1", False),
    ],
)
def test_an_address_is_public_or_not(address: str, expected: bool) -> None:
    assert is_public(address) is expected


class Names(AbstractResolver):
    """Every name is this machine, whatever it was a moment ago."""

    async def resolve(
        self, host: str, port: int = 0, family: int = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address, kind in (
                ("127.0.0.1", socket.AF_INET),
                ("::1", socket.AF_INET6),
            )
        ]

    async def close(self) -> None:
        pass


class Canary:
    """A web server with TLS on this machine's loopback (IPv4, and IPv6 on the same port), that
    counts who connects.
    """

    def __init__(self, folder: Path, picture: bytes) -> None:
        self.connections = 0
        self.picture = picture
        self.paths: list[str] = []
        tls, self.trust = certificate(folder)
        canary = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                canary.paths.append(self.path.partition("?")[0])
                with suppress(OSError):
                    canary.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def get_request(self) -> tuple[socket.socket, Any]:
                accepted, address = super().get_request()
                canary.connections += 1  # before the handshake: a dial alone is a hit
                accepted.settimeout(20)
                return tls.wrap_socket(
                    accepted, server_side=True, do_handshake_on_connect=False
                ), address

            def handle_error(self, *_: Any) -> None:
                pass

        class Server6(Server):
            address_family = socket.AF_INET6

        self.servers: list[Server] = [Server(("127.0.0.1", 0), Handler)]
        self.port = self.servers[0].server_address[1]
        with suppress(OSError):  # a machine without IPv6
            self.servers.append(Server6(("::1", self.port), Handler))
        for server in self.servers:
            threading.Thread(
                target=server.serve_forever, args=(0.05,), daemon=True
            ).start()

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path, _, query = handler.path.partition("?")
        status = 200
        headers = {"Set-Cookie": "a=b", "Content-Type": "text/html"}
        body = self.picture
        if path == "/to/":
            status = 302
            headers = {"Location": unquote(query), "Set-Cookie": "a=b"}
            body = b""
        elif path == "/loop":
            status = 302
            headers = {"Location": f"https://shop.com:{self.port}/loop"}
            body = b""
        elif path == "/slow":
            time.sleep(2)
        elif path == "/large":
            body = bytes(10_000_000)
        elif path == "/zipped":
            headers = {"Content-Encoding": "deflate"}
            body = zlib.compress(bytes(5_000_000))
        elif path == "/missing":
            status = 404
            body = b"SECRET"
        elif "Cookie" in handler.headers or "Referer" in handler.headers:
            status = 400
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS for every name used here, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "canary")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names: list[x509.GeneralName] = [
        x509.DNSName(host) for host in ("shop.com", "*.shop.com", "localhost")
    ]
    names += [
        x509.IPAddress(ipaddress.ip_address(address))
        for address in ("127.0.0.1", "::1")
    ]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    public = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "canary.pem").write_bytes(public + secret)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "canary.pem")
    return server, ssl.create_default_context(cadata=public.decode())


@pytest.fixture(scope="module")
def canary(
    tmp_path_factory: pytest.TempPathFactory, picture: Image.Image
) -> Iterator[Canary]:
    running = Canary(tmp_path_factory.mktemp("canary"), saved(picture, "PNG"))
    yield running
    running.close()


def allowing(*hosts: str, **values: Any) -> ServeConfig:
    """Any host, also those that the configuration itself would refuse to allow."""
    urls = UrlsConfig.model_construct(
        **{**UrlsConfig(**values).model_dump(), "allow": hosts}
    )
    return ServeConfig.model_construct(**{**CONFIG.model_dump(), "urls": urls})


def fetched(url: str, config: ServeConfig, canary: Canary, **options: Any) -> bytes:
    """As a server does, but that the canary's port and certificate are as good as 443 and the
    system's.
    """
    return asyncio.run(
        fetch_image(
            url, config, resolver=Names(), tls=canary.trust, port=canary.port, **options
        )
    )


def anywhere(address: Any) -> socket.socket:
    """A guard that lets everything pass: without it the canary must be reached, or the tests below
    prove nothing.
    """
    return socket.socket(*address[:3])


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_never_dialled_however_it_is_spelt(
    canary: Canary, host: str, listed: bool
) -> None:
    before = canary.connections
    name = host.strip("[]")
    config = (
        allowing(name, "::ffff:7f00:1", "shop.com") if listed else allowing("shop.com")
    )
    with pytest.raises(
        ValueError, match="could not be read" if listed else "does not fetch from"
    ) as refusal:
        fetched(f"https://{host}:{canary.port}/a.png", config, canary)
    assert canary.connections == before
    assert name not in str(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "shop.com"])
def test_the_guard_and_nothing_else_is_what_keeps_it_from_loopback(
    canary: Canary, host: str
) -> None:
    config = allowing(host.strip("[]"))
    before = canary.connections
    assert (
        fetched(f"https://{host}:{canary.port}/a.png", config, canary, dial=anywhere)
        == canary.picture
    )
    assert canary.connections == before + 1


def test_the_system_resolver_does_not_lead_to_loopback_either(canary: Canary) -> None:
    before = canary.connections
    for host in ("localhost", "127.1", "2130706433", "0x7f.1"):
        url = f"https://{host}:{canary.port}/"
        with pytest.raises(ValueError, match="could not be read"):
            asyncio.run(
                fetch_image(
                    url, allowing(host, "127.0.0.1"), tls=canary.trust, port=canary.port
                )
            )
    assert canary.connections == before


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "gopher://shop.com:70/_",
        "ftp://shop.com/a.png",
        "data:image/png;base64,AAAA",
        "http://shop.com/a.png",
        "HTTP://shop.com/",
        "//shop.com/a.png",
        "shop.com/a.png",
        "https:shop.com",
        "https:///a.png",
        "https://user@shop.com/",
        "https://user:word@shop.com/",
        "https://evil.com\\@shop.com/",
        "https://shop.com\\.evil.com/",
        "https://shop.com%2eevil.com/",
        "https://shop.com /",
        " https://shop.com/",
        "https://shop.com/\n",
        "https://shop.com/a b",
        "https://sh\u00f6p.com/",
        "https://\uff53hop.com/",
        "https://[::1",
        "https://shop.com:x/",
        "https://shop.com:99999/",
        "https://shop.com/" + "a" * 3000,
        "",
        "javascript:alert(1)",
        "unix:///var/run/docker.sock",
    ],
)
def test_what_is_not_a_plain_https_url_is_refused(canary: Canary, url: str) -> None:
    before = canary.connections
    with pytest.raises(ValueError, match="not plain https"):
        fetched(
            url, allowing("shop.com", "evil.com", "user", ""), canary, dial=anywhere
        )
    assert canary.connections == before


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "shop.com.evil.com",
        "evilshop.com",
        "img.shop.com",
        "shop.com.",
        "cdn.com",
        "evilcdn.com",
    ],
)
def test_only_listed_hosts_are_fetched_from(canary: Canary, host: str) -> None:
    before = canary.connections
    with pytest.raises(
        ValueError, match="on a host that this server does not fetch from"
    ):
        fetched(
            f"https://{host}:{canary.port}/",
            allowing("shop.com", "*.cdn.com"),
            canary,
            dial=anywhere,
        )
    assert canary.connections == before


def test_a_star_allows_all_below_a_host(canary: Canary) -> None:
    url = f"https://IMG.shop.com:{canary.port}/a.png"
    assert fetched(url, allowing("*.shop.com"), canary, dial=anywhere) == canary.picture


@pytest.mark.parametrize("port", ["", ":22", ":80", ":443"])
def test_other_ports_are_refused(canary: Canary, port: str) -> None:
    with pytest.raises(ValueError, match="names port"):
        fetched(f"https://shop.com{port}/", allowing("shop.com"), canary, dial=anywhere)


def test_nothing_is_fetched_unless_hosts_are_allowed(canary: Canary) -> None:
    with pytest.raises(ValueError, match="this server fetches no URLs"):
        fetched(f"https://shop.com:{canary.port}/", CONFIG, canary, dial=anywhere)


def test_redirects_are_followed_to_allowed_hosts(canary: Canary) -> None:
    url = f"https://shop.com:{canary.port}/to/?https://a.shop.com:{canary.port}/to/%3F/a.png"
    assert (
        fetched(url, allowing("shop.com", "*.shop.com"), canary, dial=anywhere)
        == canary.picture
    )


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://shop.com/", "not plain https"),
        ("http://127.0.0.1:{port}/", "not plain https"),
        ("file:///etc/passwd", "not plain https"),
        ("https://127.0.0.1:{port}/", "does not fetch from"),
        ("https://[::1]:{port}/", "does not fetch from"),
        ("//localhost:{port}/", "does not fetch from"),
        ("https://shop.com:22/", "names port 22"),
    ],
)
def test_a_redirect_is_judged_as_the_first_url(
    canary: Canary, target: str, message: str
) -> None:
    target = target.format(port=canary.port)
    before = len(canary.paths)
    with pytest.raises(ValueError, match=message):
        fetched(
            f"https://shop.com:{canary.port}/to/?{target}",
            allowing("shop.com"),
            canary,
            dial=anywhere,
        )
    assert canary.paths[before:] == ["/to/"]


def test_a_redirect_to_a_listed_host_on_loopback_is_stopped_by_the_guard(
    canary: Canary,
) -> None:
    dialled: list[str] = []

    def first_only(address: Any) -> socket.socket:
        dialled.append(address[4][0])
        return anywhere(address) if len(dialled) == 1 else public_socket(address)

    before = len(canary.paths)
    url = f"https://shop.com:{canary.port}/to/?https://localhost:{canary.port}/secret"
    with pytest.raises(ValueError, match="could not be read"):
        fetched(url, allowing("shop.com", "localhost"), canary, dial=first_only)
    assert canary.paths[before:] == ["/to/"]
    assert len(dialled) > 1


def test_redirects_end(canary: Canary) -> None:
    before = len(canary.paths)
    with pytest.raises(ValueError, match="leads on more than 3 times"):
        fetched(
            f"https://shop.com:{canary.port}/loop",
            allowing("shop.com"),
            canary,
            dial=anywhere,
        )
    assert len(canary.paths) - before == 4


def test_a_body_is_cut_off_at_its_cap(canary: Canary) -> None:
    with pytest.raises(TooLargeError, match="larger than 300000 bytes"):
        fetched(
            f"https://shop.com:{canary.port}/large",
            allowing("shop.com", max_bytes=300_000),
            canary,
            dial=anywhere,
        )


def test_a_compressed_body_is_not_blown_up(canary: Canary) -> None:
    content = fetched(
        f"https://shop.com:{canary.port}/zipped",
        allowing("shop.com"),
        canary,
        dial=anywhere,
    )
    assert len(content) < 10_000


def test_a_slow_host_does_not_hold_the_server_up(canary: Canary) -> None:
    with pytest.raises(ValueError, match=r"did not arrive in 0.3 s"):
        fetched(
            f"https://shop.com:{canary.port}/slow",
            allowing("shop.com", seconds=0.3),
            canary,
            dial=anywhere,
        )


def test_what_the_other_side_says_is_not_passed_on(canary: Canary) -> None:
    with pytest.raises(ValueError, match="could not be read") as refusal:
        fetched(
            f"https://shop.com:{canary.port}/missing",
            allowing("shop.com"),
            canary,
            dial=anywhere,
        )
    assert "404" not in str(refusal.value)


def test_a_proxy_of_the_environment_is_not_used(
    canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{canary.port}")
    assert (
        fetched(
            f"https://shop.com:{canary.port}/",
            allowing("shop.com"),
            canary,
            dial=anywhere,
        )
        == canary.picture
    )
    before = canary.connections
    with pytest.raises(ValueError, match="could not be read"):
        fetched(f"https://shop.com:{canary.port}/", allowing("shop.com"), canary)
    assert canary.connections == before


def test_an_untrusted_certificate_is_refused(canary: Canary) -> None:
    config = allowing("shop.com")
    coroutine = fetch_image(
        f"https://shop.com:{canary.port}/",
        config,
        dial=anywhere,
        resolver=Names(),
        port=canary.port,
    )
    with pytest.raises(ValueError, match="could not be read"):
        asyncio.run(coroutine)
