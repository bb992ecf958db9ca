"""A process that has imported everything and forks runs of the command line, so that runs start
without imports.

Each child has its own session, so it can be killed alone or with all its loader workers. A child
runs `unimodal.cli.main` on its words, after the named functions of `tests/torture/instruments.py`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
IMPORTED = (
    "torch._dynamo",
    "timm",
    "transformers.models.bert.modeling_bert",
    "fsspec",
    "unimodal.cli",
    "unimodal.training.loop",
    "unimodal.eval.evaluate",
)


class Life:
    """One run of the command line: its process, its status and its output."""

    def __init__(self, nursery: Nursery, pid: int, stderr: Path) -> None:
        self.pid = pid
        self.started = time.monotonic()
        self._nursery = nursery
        self._stderr = stderr
        self._status: int | None = None

    def status(self) -> int | None:
        """As in subprocess: None while it runs, -9 for SIGKILL."""
        if self._status is None:
            self._status = self._nursery.ask({"poll": self.pid})
        return self._status

    def wait(self, seconds: float) -> int:
        """Its status; raises TimeoutError after a number of seconds."""
        self.until(lambda: self.status() is not None, seconds)
        assert self._status is not None
        return self._status

    def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Whether a condition held before the run ended; TimeoutError if neither happened."""
        deadline = time.monotonic() + seconds
        while not holds():
            if self.status() is not None:
                return holds()
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"process {self.pid} still runs after {seconds:g} s; it printed: "
                    f"{self.output()}"
                )
            time.sleep(0.0005)
        return True

    def signal(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process alone."""
        os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """Send a signal to the whole session, as a terminal or a cluster does."""
        for pid in session(self.pid):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, number)

    def output(self) -> str:
        """Its stderr and stdout."""
        return self._stderr.read_text(errors="replace") if self._stderr.exists() else ""

    def descendants(self) -> list[int]:
        """The other running processes of its session: loader workers and their fork server."""
        return [pid for pid in session(self.pid) if pid != self.pid]

    def bury(self) -> None:
        """Kill what is left of its session."""
        self.signal_all(signal.SIGKILL)
        self.wait(30)


class Nursery:
    """The parent of the runs; a context manager that ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lives = 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def start(
        self,
        *words: str,
        before: Mapping[str, Mapping[str, Any]] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Life:
        """Run `unimodal WORDS`. before: functions of instruments.py to call first."""
        self._lives += 1
        stderr = self._folder / f"life-{self._lives:04d}.txt"
        request = {
            "words": words,
            "before": before or {},
            "env": dict(env or {}),
            "stderr": str(stderr),
        }
        return Life(self, self.ask(request), stderr)

    def ask(self, request: Mapping[str, Any]) -> Any:
        """One request, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # the nursery kills its children and ends
        self._process.wait(60)


def parent_of(pid: int) -> int:
    """The parent of a process; 0 if it has ended."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def session(leader: int) -> list[int]:
    """The running processes whose session a process leads or led."""
    pids = [
        int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()
    ]
    stats = {pid: _stat(pid) for pid in pids}
    return [
        pid
        for pid, fields in stats.items()
        if fields and int(fields[3]) == leader and fields[0] != "Z"
    ]


def _stat(pid: int) -> list[str]:
    """State, parent, group, session, ... of a process; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _serve() -> None:
    """Import all that a run needs, then answer requests until stdin ends."""
    for name in IMPORTED:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, (
        "a thread would be missing in the children"
    )
    alive: dict[int, int | None] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: int | None
        if "poll" in request:
            polled = request["poll"]
            if alive[polled] is None:
                ended, status = os.waitpid(polled, os.WNOHANG)
                alive[polled] = os.waitstatus_to_exitcode(status) if ended else None
            answer = alive[polled]
        else:
            child = answer = os.fork()
            if child == 0:
                _live(request)
            alive[child] = None
        print(json.dumps(answer), flush=True)
    for child, code in alive.items():
        if code is None:
            os.kill(child, signal.SIGKILL)


def _live(request: dict[str, Any]) -> None:
    """Run the child with its own session, streams and words."""
    os.setsid()
    file = os.open(request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(request["env"])
    sys.argv = ["unimodal", *request["words"]]
    instruments = importlib.import_module("tests.torture.instruments")
    for name, arguments in request["before"].items():
        getattr(instruments, name)(**arguments)
    importlib.import_module("unimodal.cli").main()
    sys.exit(0)


if __name__ == "__main__":
    _serve()
