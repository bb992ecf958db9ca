"""The servers to time, each a process of its own: ours, those of peers.py and ready.py,
infinity-emb.

infinity-emb pins other versions of the same libraries, so it needs a virtual environment of its
own. Its command is `infinity_emb` on the PATH, or what $INFINITY_EMB names.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# infinity-emb measures itself first, which takes minutes on a busy machine.
START_SECONDS = 600.0


@dataclass(frozen=True)
class Server:
    """The command that starts it, with {port} for its port, and the paths that it answers."""

    name: str
    command: Sequence[str]
    path: str = "/v1/embeddings"
    ready: str = "/health/ready"


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    port: int
    pid: int

    def cpu_seconds(self) -> float:
        """CPU time that all its threads have used so far (Linux)."""
        stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_memory(self) -> float:
        """Its peak memory in MB (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024 / 1e6


def our_server(model: str, *options: str) -> Server:
    """`unimodal serve` as a user starts it."""
    command = [
        sys.executable,
        "-m",
        "unimodal",
        "serve",
        model,
        "port={port}",
        *options,
    ]
    return Server("unimodal serve", command)


def server_of(module: str, name: str, *arguments: str) -> Server:
    """A module beside this one, started with `python -m`; one of the arguments is {port}."""
    return Server(name, [sys.executable, "-m", f"{__package__}.{module}", *arguments])


def infinity_server(model: str) -> Server | None:
    """infinity-emb with torch in float32 on the CPU; None if it is not installed."""
    command = shutil.which(os.environ.get("INFINITY_EMB", "infinity_emb"))
    if command is None:
        return None
    options = [
        "--device",
        "cpu",
        "--engine",
        "torch",
        "--no-bettertransformer",
        "--dtype",
        "float32",
    ]
    start = [command, "v2", "--model-id", model, "--port", "{port}", *options]
    return Server("infinity-emb", start, path="/embeddings", ready="/health")


@contextmanager
def running(
    server: Server, folder: Path, threads: int | None = None
) -> Iterator[Running]:
    """Start a server, wait until it is ready, and end it with the block.

    folder: for its log, whose end an error shows. threads: of its torch; None: torch's own number.
    """
    port = _free_port()
    log = folder / f"{port}.log"
    command = [word.replace("{port}", str(port)) for word in server.command]
    # It finds our packages where we do; none of them reports home or queries a model hub.
    paths = ""
    if command[0] == sys.executable:
        paths = os.pathsep.join(path for path in sys.path if path)
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        _wait(f"http://127.0.0.1:{port}{server.ready}", process, log)
        yield Running(port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    end = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(
        f"the server {process.args!r} did not become ready; it printed:\n{end}"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
