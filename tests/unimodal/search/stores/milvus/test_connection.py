"""A Milvus URL says where a collection is, and what does not answer there is said
within seconds.
"""

from __future__ import annotations

import socket
import time

import pytest

from unimodal.search.stores.milvus import connection as milvus_connection
from unimodal.search.stores.milvus import store as milvus
from unimodal.search.stores.milvus.connection import Address, parse_address

pytest.importorskip("pymilvus")


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("milvus://host", Address("http://host:19530", "", "unimodal", False)),
        (
            "milvus://host:1/shop?collection=c",
            Address("http://host:1", "shop", "c", False),
        ),
        (
            "milvus+tls://h.example:443/",
            Address("https://h.example:443", "", "unimodal", False),
        ),
        ("milvus://[::1]:19530", Address("http://[::1]:19530", "", "unimodal", False)),
        ("milvus:///data/a%20b.db", Address("/data/a b.db", "", "unimodal", True)),
        ("milvus:///data/x.db?collection=c", Address("/data/x.db", "", "c", True)),
    ],
)
def test_a_url_says_where_a_collection_is(url: str, address: Address) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("milvus:///data/folder", "names no host and no file that ends with .db"),
        ("milvus://relative/x.db", "three slashes, for a file of Milvus Lite"),
        ("milvus://host/a/b", "the database 'a/b'"),
        ("milvus://host?colection=c", "is not a Milvus URL"),
        ("milvus://host?collection=a-b", "collection 'a-b' is not a name"),
        ("milvus://host:port", "is not a Milvus URL"),
        ("milvus+http://host", "is not a Milvus URL"),
    ],
)
def test_a_url_that_says_no_place_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_address(url)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(
        ValueError, match=r"put the token, or user:password, in \$MILVUS_TOKEN"
    ) as refusal:
        parse_address("milvus://root:secret@host")
    assert "secret" not in str(refusal.value)


def test_a_server_that_is_not_there_is_said_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(
        ValueError, match=f"Milvus at http://127.0.0.1:{port} rejected the connection"
    ):
        milvus.open(f"milvus://127.0.0.1:{port}")
    assert time.monotonic() - start < 5 * milvus_connection.CONNECT_SECONDS


def test_a_server_that_accepts_and_is_silent_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(milvus_connection, "CONNECT_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        with pytest.raises(ValueError, match="rejected the connection"):
            milvus.exists(f"milvus://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - start < 10
