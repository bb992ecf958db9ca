"""Batches that a thread fetches, so that a run answers a signal while a storage stalls."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from unimodal import distributed

from ..run.stopping import StopSignals, signal_of
from .collate import Batch

# Seconds that a rank waits for its batch before all ranks agree whether to wait longer.
_PATIENCE = 0.2


class Fed(NamedTuple):
    """What all ranks agreed on before a step."""

    batches: list[Batch]  # this rank's
    num_skipped: int  # corrupt samples in the batches of all ranks
    signal: int  # not 0: the run stops without another step


class Feed:
    """The batches of a run, one step at a time, fetched by a thread."""

    def __init__(
        self,
        batches: Iterator[list[Batch]],
        ahead: bool = True,
        workers: Sequence[BaseProcess] = (),
    ) -> None:
        """ahead: fetch the next step's batches during a step; that takes the memory of one more.

        workers: the processes of the loader, which may grow while it starts them; `close` kills
            them and no others.
        """
        self._workers = workers
        self._ready: queue.Queue[list[Batch] | BaseException] = queue.Queue(maxsize=1)
        self._ahead = ahead
        self._wanted = threading.Semaphore(int(ahead))
        self._is_closed = threading.Event()
        self._thread = threading.Thread(
            target=self._fetch, args=(batches,), daemon=True, name="feed"
        )
        self._thread.start()

    def next(self, signals: StopSignals) -> Fed:
        """The batches of the next step, or the signal that any rank received; every rank calls it.

        This takes one small reduction per step. While any rank waits for its batches, all ranks
        meet every fifth of a second, so that none hangs in a reduction that a stalled storage keeps
        the others from.
        """
        batches: list[Batch] | None = None
        if not self._ahead:
            self._wanted.release()
        while True:
            batches = batches if batches is not None else self._get()
            num_skipped = sum(len(batch.skipped) for batch in batches or ())
            votes = (*signals.votes(), batches is None, num_skipped)
            terminated, interrupted, num_waiting, skipped = distributed.all_reduce_sum(
                votes
            )
            if terminated or interrupted:
                return Fed([], 0, signal_of(terminated, interrupted))
            if not num_waiting:
                return Fed(batches or [], int(skipped), 0)

    def close(self) -> None:
        """End the thread and the loader's processes, which ignore signals."""
        self._is_closed.set()
        self._kill_workers()
        self._thread.join(timeout=0.1)
        self._kill_workers()  # again: the thread may just have started some

    def _kill_workers(self) -> None:
        for worker in list(self._workers):
            # 255: its end is unknown, because a signal to the whole group has killed the fork
            # server.
            if worker.pid is not None and worker.exitcode in (None, 255):
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)

    def _get(self) -> list[Batch] | None:
        try:
            found = self._ready.get(timeout=_PATIENCE)
        except queue.Empty:
            return None
        if isinstance(found, BaseException):
            raise found
        if self._ahead:
            self._wanted.release()
        return found

    def _fetch(self, batches: Iterator[list[Batch]]) -> None:
        try:
            while self._is_wanted():
                step = next(batches, None)
                if step is None:
                    return
                self._put(step)
                del step
        except BaseException as error:  # raised by `next`
            self._put(error)

    def _is_wanted(self) -> bool:
        while not self._is_closed.is_set():
            if self._wanted.acquire(timeout=_PATIENCE):
                return True
        return False

    def _put(self, item: list[Batch] | BaseException) -> None:
        while not self._is_closed.is_set():
            with suppress(queue.Full):
                self._ready.put(item, timeout=_PATIENCE)
                return
