"""Copying checkpoints to the mirror in a thread.

No step waits for it, and the end of a run waits for a limited time.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from unimodal.shards.storage import Clock

from .mirror import MirrorPatience, seconds_for, upload

# Seconds for the retries of one file; at the end of a run also for all that is left, without the
# time for its bytes.
MIRROR_DEADLINE = 120.0
LAST_MIRROR_DEADLINE = 5.0  # seconds in all, after a signal


class Abandoned(Exception):  # noqa: N818  # not an error: the checkpoint is not needed any more
    """A checkpoint was given up while it was written or copied."""


@dataclass
class _Copy:
    folder: Path
    # Set if a newer one waits, or if this one is given up.
    is_late: threading.Event = field(default_factory=threading.Event)
    given_up: str = ""  # why
    failure: Exception | None = None  # of the last try
    is_reported: bool = False


class Uploads:
    """Copy whole checkpoints one at a time; meanwhile only the newest one waits.

    A copy that fails is given up once a newer one waits. A copy that does not fail is finished:
    otherwise a slow mirror would begin every copy and finish none.
    """

    def __init__(self, run: Path, mirror: str, keep: int) -> None:
        self._run = run
        self._mirror = mirror
        self._keep = keep
        self._changed = threading.Condition()
        self._current: _Copy | None = None
        self._waiting: _Copy | None = None
        self.failures: list[
            str
        ] = []  # one sentence for each checkpoint that could not be copied

    @property
    def current(self) -> Path | None:
        """The checkpoint that is being copied, which has to stay where it is."""
        copy = self._current
        return copy.folder if copy is not None else None

    def add(self, folder: Path) -> None:
        """Copy a checkpoint that is whole."""
        with self._changed:
            self._waiting = _Copy(folder)
            if self._current is not None:
                self._current.is_late.set()
            elif self._take() is not None:
                threading.Thread(target=self._work, daemon=True, name="uploads").start()

    def wait(self, seconds: float) -> bool:
        """Wait, for at most that long, until all is copied or given up; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._current is None, seconds)

    def time_left(self, is_stopping: bool) -> float:
        """Seconds that the end of a run may wait for the current copy and the next one."""
        if is_stopping:
            return LAST_MIRROR_DEADLINE
        folders = [
            copy.folder for copy in (self._current, self._waiting) if copy is not None
        ]
        num_bytes = sum(
            path.stat().st_size for folder in folders for path in folder.rglob("*")
        )
        return MIRROR_DEADLINE + seconds_for(num_bytes)

    def give_up(self, why: str, but: Path | None = None) -> None:
        """Give up all copies but one; the current one ends after its current file."""
        with self._changed:
            if self._waiting is not None and self._waiting.folder != but:
                self._report(self._waiting, why)
                self._waiting = None
            if self._current is not None and self._current.folder != but:
                self._current.given_up = why
                self._current.is_late.set()

    def report_unfinished(self) -> None:
        """Report the current copy, given up or not, as not done."""
        with self._changed:
            if self._current is not None:
                self._report(self._current, self._current.given_up or "it is not done")

    def _take(self) -> _Copy | None:
        self._current = self._waiting
        self._waiting = None
        self._changed.notify_all()
        return self._current

    def _work(self) -> None:
        while (copy := self._current) is not None:
            try:
                self._copy(copy)
            except Exception as error:  # the libraries of storages raise many kinds
                with self._changed:
                    self._report(copy, str(error))
            with self._changed:
                self._take()

    def _copy(self, copy: _Copy) -> None:
        def check(failure: Exception | None) -> None:
            copy.failure = failure
            if copy.given_up or (failure is not None and copy.is_late.is_set()):
                raise Abandoned(copy.given_up or "a newer one is there")

        def sleep(seconds: float) -> None:
            copy.is_late.wait(seconds)

        clock = Clock(time.monotonic, sleep)
        upload(
            copy.folder,
            self._run,
            self._mirror,
            self._keep,
            check,
            MirrorPatience(MIRROR_DEADLINE, clock),
        )

    def _report(self, copy: _Copy, why: str) -> None:
        if copy.is_reported:
            return
        copy.is_reported = True
        last = ""
        if copy.failure is not None and str(copy.failure) not in why:
            last = f"; the last try: {copy.failure}"
        self.failures.append(
            f"checkpoint {copy.folder.name} could not be copied to {self._mirror} ({why}{last}); "
            "it is in RUN, and training continues."
        )
