"""The address of a Milvus collection, and a client that connects to it within seconds."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

COLLECTION = "unimodal"  # where the URL names none
PORT = 19530
CONNECT_SECONDS = 5.0

# How many stores of this process have a file of Lite open: they share its server, and the last one
# stops it.
_users: Counter[str] = Counter()
_lock = threading.RLock()


@dataclass(frozen=True)
class Address:
    """Where a collection is."""

    uri: str  # of a server, or the absolute path of Lite's file
    database: str
    collection: str
    is_lite: bool

    @property
    def engine(self) -> str:
        """Its name in messages."""
        return "Milvus Lite" if self.is_lite else "Milvus"


def parse_address(url: str) -> Address:
    """Parse a store's URL.

    `milvus://host:port[/db][?collection=NAME]`, `milvus+tls://...` for TLS, or
    `milvus:///path/to/file.db` for Milvus Lite. Raises ValueError for another URL.
    """
    parts = urlsplit(url)
    # Such a URL would appear in logs and process lists; the message does not repeat it.
    if parts.username or parts.password:
        raise ValueError(
            "a Milvus URL must not contain a user or password; put the token, or user:password, in "
            "$MILVUS_TOKEN."
        )
    options = parse_qs(parts.query)
    is_milvus = parts.scheme in ("milvus", "milvus+tls")
    if not is_milvus or set(options) - {"collection"} or not _has_valid_port(parts):
        raise ValueError(
            f"store {url!r} is not a Milvus URL; write milvus://host:port[/db][?collection=NAME]."
        )
    collection = options.get("collection", [COLLECTION])[0]
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", collection):
        raise ValueError(
            f"collection {collection!r} is not a name for Milvus; use letters, digits and "
            "underscores."
        )
    path = unquote(parts.path)
    if not parts.hostname:
        if not path.endswith(".db"):
            raise ValueError(
                f"store {url!r} names no host and no file that ends with .db; write "
                "milvus:///dir/file.db."
            )
        return Address(os.path.abspath(path), "", collection, is_lite=True)
    database = path.strip("/")
    if "/" in database or database.endswith(".db"):
        raise ValueError(
            f"store {url!r} names the database {database!r}; write milvus:///FILE.db, with three "
            "slashes, for a file of Milvus Lite."
        )
    scheme = "https" if parts.scheme == "milvus+tls" else "http"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Address(
        f"{scheme}://{host}:{parts.port or PORT}", database, collection, is_lite=False
    )


def _has_valid_port(parts: SplitResult) -> bool:
    """Whether the port is a number or left out."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False


def connect(address: Address) -> tuple[Any, bool]:
    """Connect a client, for `disconnect` to close -> it, and whether the collection exists.

    Raises ValueError where the server does not answer or rejects the connection, and where another
    process has the file open.
    """
    pymilvus = _pymilvus()
    with _lock:
        uri = _lite_uri(address.uri) if address.is_lite else address.uri
        client = None
        try:
            client = pymilvus.MilvusClient(
                uri=uri,
                token="" if address.is_lite else os.environ.get("MILVUS_TOKEN", ""),
                db_name=address.database,
                timeout=CONNECT_SECONDS,
                dedicated=True,  # a connection of its own, which close() closes
            )
            is_there = client.has_collection(
                address.collection, timeout=CONNECT_SECONDS
            )
        except pymilvus.MilvusException as error:
            if client is not None:
                client.close()
            if address.is_lite and not _users[address.uri]:
                _lite_servers().release_server(address.uri)
            raise ValueError(
                f"{address.engine} at {address.uri} rejected the connection ({error.message}); "
                "check that it runs, the URL, the database, and the token in $MILVUS_TOKEN."
            ) from None
        if address.is_lite:
            _users[address.uri] += 1
        return client, bool(is_there)


def disconnect(client: Any, address: Address) -> None:
    """Close what `connect` opened; the last store of a file of Lite releases the file."""
    client.close()
    if address.is_lite:
        with _lock:
            _users[address.uri] -= 1
            if not _users[address.uri]:
                _lite_servers().release_server(address.uri)


def _pymilvus() -> Any:
    try:
        import pymilvus
    except ImportError:
        raise ImportError(
            'a store on Milvus needs pymilvus: pip install "unimodal[milvus]"'
        ) from None
    # Both also log what they raise, with a traceback; Lite logs a warning at each scan.
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
    """The URI of this process's server of the file; starts the server where none runs."""
    uri = _lite_servers().start_and_get_uri(path)
    if uri is None:
        _explain_failure(path)
    return str(uri)


def _explain_failure(path: str) -> NoReturn:
    """Raise ValueError with the reason why Lite cannot open a file; its server only logged it."""
    from milvus_lite.db import MilvusLite
    from milvus_lite.exceptions import DataDirLockedError

    try:
        MilvusLite(path).close()
    except DataDirLockedError:
        raise ValueError(
            f"{path} is open in another process, and Milvus Lite serves one at a time; close it "
            "there, or run a Milvus server (deploy/milvus)."
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be opened by Milvus Lite ({error}); give a new path (it does not read "
            "files of a Milvus Lite before 3.0)."
        ) from None
    raise ValueError(
        f"{path} could not be opened by Milvus Lite a moment ago, but can be now; try again."
    )
