"""URLs lead nowhere but to allowed public hosts."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from PIL import Image

from tests.unimodal.serve.engine.image_files import saved
from unimodal.serve.config import ServeConfig, UrlsConfig
from unimodal.serve.engine.errors import TooLargeError
from unimodal.serve.engine.fetch import fetch_image, is_public, public_socket

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
    """A web server with TLS on the loopback, IPv4 and IPv6, that counts its connections."""

    def __init__(self, folder: Path, image: bytes) -> None:
        self.connections = 0
        self.image = image
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
        body = self.image
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
    tmp_path_factory: pytest.TempPathFactory, image: Image.Image
) -> Iterator[Canary]:
    running = Canary(tmp_path_factory.mktemp("canary"), saved(image, "PNG"))
    yield running
    running.close()


def allowing(*hosts: str, **values: Any) -> ServeConfig:
    """Any host, also those that the configuration itself would refuse to allow."""
    urls = UrlsConfig.model_construct(
        **{**UrlsConfig(**values).model_dump(), "allow": hosts}
    )
    return ServeConfig.model_construct(**{**CONFIG.model_dump(), "urls": urls})


def fetched(url: str, config: ServeConfig, canary: Canary, **options: Any) -> bytes:
    """Fetch as a server does, with the canary's port and certificate instead of the system's."""
    return asyncio.run(
        fetch_image(
            url, config, resolver=Names(), tls=canary.trust, port=canary.port, **options
        )
    )


def anywhere(address: Any) -> socket.socket:
    """A guard that accepts every address.

    With it the canary must be reached, or the tests below prove nothing.
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
        == canary.image
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
    assert fetched(url, allowing("*.shop.com"), canary, dial=anywhere) == canary.image


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
        == canary.image
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
    with pytest.raises(ValueError, match="more than 3 times"):
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
        == canary.image
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
