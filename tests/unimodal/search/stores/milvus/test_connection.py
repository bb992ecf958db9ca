"""A Milvus URL says where a collection is, and what does not answer there is said
within seconds.
"""

from __future__ import annotations

import socket
import time

import pytest

from unimodal.search.stores.milvus import connection as milvus_connection
from unimodal.search.stores.milvus import store as milvus
from unimodal.search.stores.milvus.connection import Place, parse_place

pytest.importorskip("pymilvus")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("milvus://host", Place("http://host:19530", "", "unimodal", False)),
        (
            "milvus://host:1/shop?collection=c",
            Place("http://host:1", "shop", "c", False),
        ),
        (
            "milvus+tls://h.example:443/",
            Place("https://h.example:443", "", "unimodal", False),
        ),
        ("milvus://[::1]:19530", Place("http://[::1]:19530", "", "unimodal", False)),
        ("milvus:///data/a%20b.db", Place("/data/a b.db", "", "unimodal", True)),
        ("milvus:///data/x.db?collection=c", Place("/data/x.db", "", "c", True)),
    ],
)
def test_a_url_says_where_a_collection_is(url: str, place: Place) -> None:
    assert parse_place(url) == place


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("milvus:///data/folder", "names no host and no file that ends with .db"),
        ("milvus://relative/x.db", "a file of Milvus Lite has three slashes"),
        ("milvus://host/a/b", "has 'a/b' for a database"),
        ("milvus://host?colection=c", "is no address of Milvus"),
        ("milvus://host?collection=a-b", "collection 'a-b' is no name"),
        ("milvus://host:port", "is no address of Milvus"),
        ("milvus+http://host", "is no address of Milvus"),
    ],
)
def test_a_url_that_says_no_place_is_refused(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_place(url)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(
        ValueError, match=r"put the token, or user:password, in \$MILVUS_TOKEN"
    ) as refusal:
        parse_place("milvus://root:secret@host")
    assert "secret" not in str(refusal.value)


def test_a_server_that_is_not_there_is_said_within_seconds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(
        ValueError, match=f"Milvus at http://127.0.0.1:{port} does not let us in"
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
        with pytest.raises(ValueError, match="does not let us in"):
            milvus.exists(f"milvus://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - start < 10
