"""Where a Milvus collection is, and a client that is connected to it within seconds or says why
not.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

COLLECTION = "unimodal"  # where the URL names none
PORT = 19530
CONNECT_SECONDS = 5.0

# How many stores of this process have a file of Lite open: they share its server, which the last
# one stops.
_users: Counter[str] = Counter()
_lock = threading.RLock()


@dataclass(frozen=True)
class Place:
    """Where a collection is."""

    uri: str  # of a server, or the absolute path of Lite's file
    database: str
    collection: str
    is_lite: bool

    @property
    def engine(self) -> str:
        """What messages call it."""
        return "Milvus Lite" if self.is_lite else "Milvus"


def parse_place(url: str) -> Place:
    """`milvus://host:port[/db][?collection=NAME]`, `milvus+tls://...` or
    `milvus:///path/to/file.db`.
    """
    parts = urlsplit(url)
    if (
        parts.username or parts.password
    ):  # the URL goes into logs and lists of processes; it is not repeated here
        raise ValueError(
            "a Milvus URL carries no user or password; put the token, or user:password, "
            "in $MILVUS_TOKEN."
        )
    options = parse_qs(parts.query)
    if (
        parts.scheme not in ("milvus", "milvus+tls")
        or set(options) - {"collection"}
        or not _has_port(parts)
    ):
        raise ValueError(
            f"store {url!r} is no address of Milvus; write "
            "milvus://host:port[/db][?collection=NAME]."
        )
    collection = options.get("collection", [COLLECTION])[0]
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", collection):
        raise ValueError(
            f"collection {collection!r} is no name for Milvus; take letters, digits and "
            "underscores."
        )
    path = unquote(parts.path)
    if not parts.hostname:
        if not path.endswith(".db"):
            raise ValueError(
                f"store {url!r} names no host and no file that ends with .db; write "
                "milvus:///dir/file.db."
            )
        return Place(os.path.abspath(path), "", collection, is_lite=True)
    database = path.strip("/")
    if "/" in database or database.endswith(".db"):
        raise ValueError(
            f"store {url!r} has {database!r} for a database; a file of Milvus Lite has "
            "three slashes."
        )
    scheme = "https" if parts.scheme == "milvus+tls" else "http"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Place(
        f"{scheme}://{host}:{parts.port or PORT}", database, collection, is_lite=False
    )


def _has_port(parts: SplitResult) -> bool:
    """Whether the port is a number or left out."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def connect(place: Place) -> tuple[Any, bool]:
    """A client that `disconnect` lets go of, and whether the collection is there.

    Raises ValueError for a server that does not answer, or not to us, and for a file that another
    process has open.
    """
    pymilvus = _pymilvus()
    with _lock:
        uri = _lite_uri(place.uri) if place.is_lite else place.uri
        client = None
        try:
            client = pymilvus.MilvusClient(
                uri=uri,
                token="" if place.is_lite else os.environ.get("MILVUS_TOKEN", ""),
                db_name=place.database,
                timeout=CONNECT_SECONDS,
                dedicated=True,  # our own connection, so that closing it closes it
            )
            is_there = client.has_collection(place.collection, timeout=CONNECT_SECONDS)
        except pymilvus.MilvusException as error:
            if client is not None:
                client.close()
            if place.is_lite and not _users[place.uri]:
                _lite_servers().release_server(place.uri)
            raise ValueError(
                f"{place.engine} at {place.uri} does not let us in ({error.message}); is it "
                "running, are the address and the database right, and is its token in "
                "$MILVUS_TOKEN?"
            ) from None
        if place.is_lite:
            _users[place.uri] += 1
        return client, bool(is_there)


def disconnect(client: Any, place: Place) -> None:
    """Close what `connect` opened; the last store of a file of Lite gives the file free."""
    client.close()
    if place.is_lite:
        with _lock:
            _users[place.uri] -= 1
            if not _users[place.uri]:
                _lite_servers().release_server(place.uri)


def _pymilvus() -> Any:
    try:
        import pymilvus
    except ImportError:
        raise ImportError(
            'a store on Milvus needs pymilvus: pip install "unimodal[milvus]"'
        ) from None
    # Both log with a traceback what they raise as well, and Lite's lack of a clock at each scan.
    for name in ("pymilvus", "milvus_lite"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return pymilvus


def _lite_servers() -> Any:
    try:
        from milvus_lite.server_manager import server_manager_instance
    except ImportError:
        raise ImportError(
            'a store in a file of Milvus needs Milvus Lite: pip install "milvus-lite>=3.2,<4"'
        ) from None
    return server_manager_instance


def _lite_uri(path: str) -> str:
    """The address of Lite's server in this process, which has the file open; it is started where
    none has.
    """
    uri = _lite_servers().start_and_get_uri(path)
    if uri is None:  # the reason was only logged
        from milvus_lite.db import MilvusLite
        from milvus_lite.exceptions import DataDirLockedError

        try:
            MilvusLite(path).close()
        except DataDirLockedError:
            raise ValueError(
                f"{path} is open in another process, and Milvus Lite serves one at a time; close "
                "it there, or run a Milvus server (deploy/milvus)."
            ) from None
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{path} cannot be opened by Milvus Lite ({error}); give a path where nothing is "
                "(what a Milvus Lite before 3.0 wrote, it does not read)."
            ) from None
        raise ValueError(
            f"{path} could not be opened by Milvus Lite a moment ago, but can be now; try again."
        )
    return str(uri)
