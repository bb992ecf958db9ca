"""Stand-ins on this machine for the hub, for GitHub's archives and for a server of files."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from unimodal.shards.storage import Patience

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Origins:
    """What the server has, what it was asked for, and what it does wrong."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, dict[str, bytes]] = {}  # of the hub
        self.files: dict[str, bytes] = {}  # path -> content
        self.asked: list[tuple[str, str]] = []  # path, range
        self.faults: list[
            Any
        ] = []  # of the next answers: a status, or the bytes after which the line goes dead
        self.ranges = True
        self.lengths = True

    def paths(self, ending: str = "") -> list[str]:
        """What was asked for."""
        return [path for path, _ in self.asked if path.endswith(ending)]


def archive(files: dict[str, bytes], top: str = "name-commit") -> bytes:
    """A commit as GitHub packs it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def origins(monkeypatch: pytest.MonkeyPatch) -> Iterator[Origins]:
    """A server that is the hub at /, and holds files."""
    state = Origins()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            state.asked.append((path, self.headers.get("Range", "")))
            if state.faults and path in state.files:
                fault = state.faults.pop(0)
                if isinstance(fault, int):
                    return self.answer(b"", fault)
                return self.answer(state.files[path], cut=fault[0])
            if path in state.files:
                return self.answer(state.files[path])
            self.hub(path)

        do_HEAD = do_GET  # noqa: N815  # http.server's names

        def hub(self, path: str) -> None:
            for repository, files in state.repositories.items():
                if path.startswith(f"/api/datasets/{repository}/revision/"):
                    siblings = [{"rfilename": name} for name in files]
                    return self.answer(
                        json.dumps(
                            {"id": repository, "sha": COMMIT, "siblings": siblings}
                        ).encode()
                    )
                if path.startswith(f"/api/datasets/{repository}/tree/"):
                    entries = [
                        {
                            "type": "file",
                            "path": name,
                            "size": len(content),
                            "oid": hashlib.sha1(content).hexdigest(),
                        }
                        for name, content in files.items()
                    ]
                    return self.answer(json.dumps(entries).encode())
                name = path.removeprefix(f"/datasets/{repository}/resolve/{COMMIT}/")
                if name in files:
                    if state.faults:
                        return self.answer(b"", state.faults.pop(0))
                    return self.answer(files[name])
            self.answer(
                b'{"error": "Repository not found"}',
                404,
                {"X-Error-Code": "RepoNotFound"},
            )

        def answer(
            self,
            content: bytes,
            status: int = 200,
            headers: dict[str, str] | None = None,
            cut: int | None = None,
        ) -> None:
            tag = f'"{hashlib.sha1(content).hexdigest()}"'
            asked = self.headers.get("Range")
            start = 0
            if (
                asked
                and state.ranges
                and self.headers.get("If-Range", tag) == tag
                and status == 200
            ):
                start = int(asked.removeprefix("bytes=").partition("-")[0])
                status = 206
                if start >= len(content):
                    status = 416
            content = content[start:]
            self.send_response(status)
            if state.lengths:
                self.send_header("Content-Length", str(len(content)))
            for key, value in {
                "ETag": tag,
                "X-Repo-Commit": COMMIT,
                **(headers or {}),
            }.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content[:cut])
            self.close_connection = cut is not None or not state.lengths

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass  # whoever asked has gone away

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def patience() -> Patience:
    """Some tries, and no long wait."""
    return Patience(deadline=2.0, timeout=5.0)
